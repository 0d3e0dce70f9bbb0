"""Chat completions carried by Anthropic's Messages API, version 2023-06-01: the next one refuses `temperature`."""

from extproc.dialects.translate.chat_to_anthropic_answer import ChatAnswer
from extproc.dialects.translate.chat_to_anthropic_request import message_request
from extproc.dialects.translate.direction import Direction, Field, Json
from extproc.dialects.translate.fields import first_inexpressible


def _refused(parsed: Json) -> Field | None:
    return first_inexpressible(parsed, lambda request: message_request(request, ""))


def _path(model: str, stream: bool) -> str:  # noqa: ARG001 - both stand in the body
    return "/v1/messages"


CHAT_TO_ANTHROPIC = Direction(refused=_refused, request=message_request, path=_path, answer=ChatAnswer)
