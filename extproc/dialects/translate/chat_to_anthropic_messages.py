"""Messages of a chat completion as Anthropic's `messages` and `system`.

A turn is `{role: "user" | "assistant", content: blocks}`. A block is one of

    {type: "text", text} {type: "image" | "document", source: {type: "base64", media_type, data} | {type: "url", url}}
    {type: "tool_use", id, name, input: object} {type: "tool_result", tool_use_id, content?: text blocks}

and may carry `cache_control`. What the model thought is not sent back: only its maker makes anything of it, and only
with a signature, for which chat has no place.
"""

import re

import orjson

from extproc.dialects.translate.fields import Fields

Block = dict[str, object]

_PICTURES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_ECHOED = ("reasoning_content", "reasoning", "reasoning_details", "annotations", "extra_content")
"""What an answer had, of this backend or another, and means nothing when a client sends it back."""


class Conversation:
    """The messages as they are added, in order.

    System messages become the one system prompt, wherever they stand. Messages of one side in a row become one turn:
    all results of parallel calls must be in the one behind the calls. What has no text is not said, as a block of
    nothing but white space is refused.
    """

    __slots__ = ("_content", "system", "turns")

    def __init__(self) -> None:
        self.system: list[Block] = []
        self.turns: list[dict[str, object]] = []
        self._content: list[Block] = []  # of the last turn

    def add(self, message: Fields) -> None:
        """Add a message. Raises Inexpressible."""
        role = message.need("role")
        if role in ("system", "developer"):
            self.system += _content(message, ("text",))
        elif role == "user":
            self._say("user", _content(message, ("text", "image_url", "file")))
        elif role == "assistant":
            self._say("assistant", _assistant(message))
        elif role == "tool":
            self._say("user", [_result(message)])
        else:
            raise message.cannot("role", "It can be `system`, `developer`, `user`, `assistant` or `tool`.")
        message.done()

    def _say(self, side: str, blocks: list[Block]) -> None:
        if not blocks:
            return
        if not self.turns or self.turns[-1]["role"] != side:
            self._content = []
            self.turns.append({"role": side, "content": self._content})
        self._content += blocks


def _text(said: str) -> list[Block]:
    return [{"type": "text", "text": said}] if said.strip() else []


def _content(message: Fields, kinds: tuple[str, ...]) -> list[Block]:
    """The blocks of a content, which is text or parts of these types."""
    content = message.take("content")
    if content is None or isinstance(content, str):
        return _text(content or "")
    if not isinstance(content, list):
        raise message.cannot("content", "It must be a string or a list of parts.")
    return [block for part in content for block in _part(Fields(part, message.name("content")), kinds)]


def _part(part: Fields, kinds: tuple[str, ...]) -> list[Block]:
    kind = part.need("type")
    if kind not in kinds:
        raise part.cannot("type", f"Here it can be {', '.join(f'`{known}`' for known in kinds)}.")
    if kind in ("text", "refusal"):
        blocks = _text(part.need(kind))
    else:
        inner = part.need_inner(kind)
        blocks = [_image(inner) if kind == "image_url" else _document(inner)]
        inner.done()
    kept = _kept(part)
    part.done()
    return [block | kept for block in blocks]


def _kept(part: Fields) -> Block:
    """Where the prompt is to be kept up to here: for an hour, as the least that OpenAI keeps it is half of one."""
    mark = part.inner("prompt_cache_breakpoint")
    if mark is None:
        return {}
    mark.only("mode", "explicit")
    mark.only("ttl", "30m")
    mark.done()
    return {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def _image(image: Fields) -> Block:
    image.only("detail", "auto", "high")  # there is no other
    url = image.need("url")
    if url[:8].lower() == "https://":
        return {"type": "image", "source": {"type": "url", "url": url}}
    kind, data = _inline(url)
    kind = "image/jpeg" if kind == "image/jpg" else kind
    if kind not in _PICTURES:
        raise image.cannot("url", "It must be an https URL, or a JPEG, PNG, GIF or WebP as a data URL.")
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def _document(file: Fields) -> Block:
    if file.take("file_id") is not None:
        raise file.cannot("file_id", "A file stored at another provider cannot be read: send it in `file_data`.")
    name, data = file.text("filename"), file.need("file_data")
    kind = "application/pdf" if name is not None and name.lower().endswith(".pdf") else ""
    if data[:5].lower() == "data:":
        kind, data = _inline(data)
    if kind != "application/pdf":
        raise file.cannot("file_data", "It must be a PDF, as a data URL or with its name.")
    made: Block = {"type": "document", "source": {"type": "base64", "media_type": kind, "data": data}}
    return made if name is None else {**made, "title": name}


def _inline(url: str) -> tuple[str, str]:
    """The media type and the base64 of a data URL; empty for any other."""
    head, _, data = url.partition(",")
    scheme, _, kind = head.lower().partition(":")
    kind, *parameters = kind.split(";")
    return (kind, data) if scheme == "data" and "base64" in parameters else ("", "")


# ---- the assistant and its tools --------------------------------------------------------------------


def _assistant(message: Fields) -> list[Block]:
    message.besides(*_ECHOED)
    message.besides("parsed")  # what OpenAI's SDK read in its content
    blocks = _content(message, ("text", "refusal"))
    blocks += _text(message.text("refusal") or "")
    return blocks + [_call(call) for call in message.inners("tool_calls")]


def _call(call: Fields) -> Block:
    call.only("type", "function")
    call.besides("index", "extra_content")  # left by clients that put a stream together
    function = call.need_inner("function")
    function.besides("parsed_arguments")  # what OpenAI's SDK read in them
    made: Block = {"type": "tool_use", "id": _id(call.need("id")), "name": function.need("name")}
    made["input"] = _arguments(function)
    function.done()
    call.done()
    return made


def _arguments(function: Fields) -> object:
    said = function.text("arguments")
    try:
        value = orjson.loads(said or "{}")
        orjson.dumps({"messages": [{"content": [{"input": value}]}]})  # which takes less depth than may be read
    except ValueError:
        value = None
    except orjson.JSONEncodeError:
        raise function.cannot("arguments", "They are nested too deep.") from None
    if not isinstance(value, dict):
        raise function.cannot("arguments", "They must be a JSON object.")
    return value


_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")


def _id(call: str) -> str:
    """Of a call, which another backend may have made, in the characters that Anthropic takes."""
    return _NOT_IN_IDS.sub("_", call)


def _result(message: Fields) -> Block:
    message.besides("name")  # the call has it
    made: Block = {"type": "tool_result", "tool_use_id": _id(message.need("tool_call_id"))}
    content = _content(message, ("text",))
    return {**made, "content": content} if content else made
