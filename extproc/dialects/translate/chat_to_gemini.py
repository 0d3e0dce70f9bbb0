"""Chat completions carried by Google's Gemini API."""

from urllib.parse import quote

from extproc.dialects.translate.chat_to_gemini_answer import ChatAnswer
from extproc.dialects.translate.chat_to_gemini_request import translate
from extproc.dialects.translate.direction import Direction, Field, Json
from extproc.dialects.translate.fields import first_inexpressible


def _refused(request: Json) -> Field | None:
    return first_inexpressible(request, lambda whole: translate(whole, ""))


def _path(model: str, stream: bool) -> str:
    operation = "streamGenerateContent?alt=sse" if stream else "generateContent"
    # Google's list of models has the prefix in their names, so people put it into theirs.
    return f"/v1beta/models/{quote(model.removeprefix('models/'), safe='')}:{operation}"


CHAT_TO_GEMINI = Direction(refused=_refused, request=translate, path=_path, answer=ChatAnswer)
