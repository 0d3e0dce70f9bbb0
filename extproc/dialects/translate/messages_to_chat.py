"""Anthropic's Messages, served by a backend that speaks OpenAI's chat completions: OpenAI, Azure, vLLM and others.

Counting the tokens of a message has no counterpart there.
"""

from extproc.dialects.translate.direction import Direction, Field, Json
from extproc.dialects.translate.fields import first_inexpressible
from extproc.dialects.translate.messages_to_chat_answer import MessagesAnswer
from extproc.dialects.translate.messages_to_chat_request import translate


def _refused(request: Json) -> Field | None:
    return first_inexpressible(request, lambda asked: translate(asked, ""))


def _path(model: str, stream: bool) -> str:  # noqa: ARG001 - the shape of a direction
    return "/chat/completions"


MESSAGES_TO_CHAT = Direction(refused=_refused, request=translate, path=_path, answer=MessagesAnswer)
