"""OpenAI's Responses, carried by a backend that has only chat completions, such as vLLM and Ollama."""

from extproc.dialects.translate.direction import Direction, Field, Json
from extproc.dialects.translate.fields import first_inexpressible
from extproc.dialects.translate.responses_to_chat_answer import ResponsesAnswer
from extproc.dialects.translate.responses_to_chat_request import chat_request


def _refused(request: Json) -> Field | None:
    return first_inexpressible(request, lambda given: chat_request(given, ""))


def _path(model: str, stream: bool) -> str:  # noqa: ARG001 - the body says both
    return "/chat/completions"


RESPONSES_TO_CHAT = Direction(refused=_refused, request=chat_request, path=_path, answer=ResponsesAnswer)
