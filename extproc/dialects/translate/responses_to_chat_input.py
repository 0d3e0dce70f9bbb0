"""The input of a Responses call as the messages of a chat.

Only their maker can read sealed reasoning and what is a summary of it, so both stay behind; reasoning in plain text
is what such a backend wrote itself, and goes back to it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from extproc.dialects.translate.fields import Fields
from extproc.dialects.translate.responses_to_chat_tools import ONLY_FUNCTIONS, chat_name, listed

Message = dict[str, Any]
Part = dict[str, object]

STORED = "Nothing is stored at this backend: send the whole input, without references."
_DIRECT = {"type": "direct"}


def conversation(request: Fields) -> tuple[list[Message], list[Fields]]:
    """The messages of the whole request: what instructs the model, then the items of its input; and the tools there."""
    chat = _Chat()
    instructions = request.text("instructions")
    if instructions:
        chat.system([_as_text(instructions)])
    given = request.take("input")
    if isinstance(given, str):
        chat.add("user", [_as_text(given)])
    elif given is not None:
        for item in listed(given, request.name("input")):
            _add_item(chat, item)
    return chat.finished(), chat.tools


class _Chat:
    """Messages as they come. What the assistant says and calls in a row is one message, as chat has it."""

    __slots__ = ("_messages", "tools")

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self.tools: list[Fields] = []

    def add(self, role: str, parts: list[Part], **more: object) -> None:
        self._messages.append({"role": role, "content": parts, **more})

    def system(self, parts: list[Part]) -> None:
        """What instructs the model at the beginning is one message: templates of many models take no second one."""
        if [message["role"] for message in self._messages] == ["system"]:
            self._messages[0]["content"] += parts
        else:
            self.add("system", parts)

    def assistant(self) -> Message:
        """The message that the assistant is still at."""
        if not self._messages or self._messages[-1]["role"] != "assistant":
            self.add("assistant", [])
        return self._messages[-1]

    def finished(self) -> list[Message]:
        for message in self._messages:
            message["content"] = _content(message)
        return self._messages


def _content(message: Message) -> object:
    """Parts as plainly as they can be said: many servers take a list only where there are pictures, or never."""
    parts = message["content"]
    if any(part["type"] != "text" for part in parts):
        return parts
    return None if not parts and "tool_calls" in message else "\n\n".join(part["text"] for part in parts)


def _add_item(chat: _Chat, item: Fields) -> None:
    kind = item.text("type") or "message"
    if kind not in _ITEMS:
        raise item.cannot("type", STORED if kind == "item_reference" else f"`{kind}`: {ONLY_FUNCTIONS}")
    item.besides("id", "status")
    _ITEMS[kind](chat, item)
    item.done()


def _add_message(chat: _Chat, item: Fields) -> None:
    role = item.text("role")
    if role is None:
        raise item.cannot("role", f"An item without it is a reference. {STORED}")
    if role not in _PARTS:
        raise item.cannot("role", "It must be user, assistant, system or developer.")
    item.besides("phase")
    parts = _parts(item, "content", _PARTS[role])
    if role == "assistant":
        chat.assistant()["content"] += parts
    elif role == "user":
        chat.add(role, parts)
    else:  # of developers most templates know nothing
        chat.system(parts)


def _add_call(chat: _Chat, item: Fields) -> None:
    item.only("caller", _DIRECT)
    item.only("async", False)
    name = chat_name(item.text("namespace"), item.need("name"))
    function = {"name": name, "arguments": item.need("arguments")}
    call = {"id": item.need("call_id"), "type": "function", "function": function}
    chat.assistant().setdefault("tool_calls", []).append(call)


def _add_output(chat: _Chat, item: Fields) -> None:
    item.only("caller", _DIRECT)
    item.besides("name", "namespace")  # the call says them
    chat.add("tool", _parts(item, "output", _OUTPUT_PARTS), tool_call_id=item.need("call_id"))


def _add_reasoning(chat: _Chat, item: Fields) -> None:
    item.besides("summary", "encrypted_content")
    said = "\n\n".join(str(part["text"]) for part in _parts(item, "content", _REASONING_PARTS))
    if said:
        message = chat.assistant()
        before = message.get("reasoning")
        said = f"{before}\n\n{said}" if before else said
        message |= {"reasoning": said, "reasoning_content": said}  # each server reads one of them: vLLM the first


def _add_tools(chat: _Chat, item: Fields) -> None:
    """Tools that come in between: the model of a chat has them from the beginning."""
    item.only("role", "developer")
    chat.tools += listed(item.take("tools"), item.name("tools"))


_ITEMS: Mapping[str, Callable[[_Chat, Fields], None]] = {
    "message": _add_message,
    "function_call": _add_call,
    "function_call_output": _add_output,
    "reasoning": _add_reasoning,
    "additional_tools": _add_tools,
}


# ---- parts ------------------------------------------------------------------------------------------


def _parts(holder: Fields, field: str, known: Mapping[str, Callable[[Fields], Part]]) -> list[Part]:
    """The parts in a field: a string is one."""
    value = holder.take(field)
    if value is None:
        return []
    if isinstance(value, str):
        return [_as_text(value)]
    parts = []
    for part in listed(value, holder.name(field)):
        kind = part.need("type")
        if kind not in known:
            raise part.cannot("type", f"There is no place for `{kind}` here in a chat.")
        part.besides("prompt_cache_breakpoint")
        parts.append(known[kind](part))
        part.done()
    return parts


def _as_text(text: str) -> Part:
    return {"type": "text", "text": text}


def _text(part: Fields) -> Part:
    return _as_text(part.need("text"))


def _output_text(part: Fields) -> Part:
    part.besides("annotations", "logprobs")
    return _text(part)


def _refusal(part: Fields) -> Part:
    """As text: the model shall know that it has said it, and few servers read refusals."""
    return _as_text(part.need("refusal"))


def _image(part: Fields) -> Part:
    image = {"url": part.need("image_url")}
    detail = part.text("detail")
    return {"type": "image_url", "image_url": image if detail is None else {**image, "detail": detail}}


def _file(part: Fields) -> Part:
    part.only("detail", "auto")
    file = {"file_data": part.need("file_data"), "filename": part.text("filename")}
    return {"type": "file", "file": {name: value for name, value in file.items() if value is not None}}


_USER_PARTS = {"input_text": _text, "input_image": _image, "input_file": _file}
_SYSTEM_PARTS = {"input_text": _text}
_ASSISTANT_PARTS = {"output_text": _output_text, "refusal": _refusal, "input_text": _text}
_REASONING_PARTS = {"reasoning_text": _text}
_OUTPUT_PARTS = {"input_text": _text}  # a picture in a user's message would pass for the user's own
_PARTS = {
    "user": _USER_PARTS,
    "assistant": _ASSISTANT_PARTS,
    "system": _SYSTEM_PARTS,
    "developer": _SYSTEM_PARTS,
}
