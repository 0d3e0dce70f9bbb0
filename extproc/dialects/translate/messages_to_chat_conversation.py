"""The system prompt and the messages of a Messages request as the messages of a chat completion.

Not told, as it means nothing there: hints on caching (`cache_control`), what an earlier answer cited, and what a model
thought, which only its maker can read. What a server of chat gave as its thoughts goes back to where it was.
"""

import re
from typing import Any

import orjson

from extproc.dialects.translate.fields import Fields, Inexpressible
from extproc.dialects.translate.messages_blocks import THOUGHTS

Object = dict[str, Any]

_BILLING = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n?")
"""What Claude Code puts before its system prompt for Anthropic's books. It is another one on every call: with it no
backend would find the prompt in its cache."""
_FAILED = "The tool reported an error:"
_SHOWN = ("text", "image", "document", "search_result")


def messages(request: Fields) -> list[Object]:
    """The messages. Raises `Inexpressible`."""
    given = [(message, message.need("role")) for message in request.inners("messages")]
    turns = [at for at, (_, role) in enumerate(given) if role != "system"]
    users = [at for at in turns if given[at][1] == "user"]
    if not users:
        raise Inexpressible("messages", "There must be a message of the user.")
    if users[-1] != turns[-1]:
        raise Inexpressible("messages", "A last message of the assistant cannot be continued.")
    chat = _system(request)
    for at, (message, role) in enumerate(given):
        if role == "user":
            chat += _user(message)
        elif role == "assistant":
            chat += _assistant(message)
        elif role == "system":
            chat += _instruction(message, is_over=at < users[-1])
        else:
            raise message.cannot("role", "It can be `user`, `assistant` or `system`.")
        message.done()
    return chat


def _system(request: Fields) -> list[Object]:
    texts = [_BILLING.sub("", part["text"], count=1) for part in _parts(request, "system", ("text",))]
    parts = [_text(text) for text in texts if text]
    return [{"role": "system", "content": _joint(parts)}] if parts else []


def _instruction(message: Fields, is_over: bool) -> list[Object]:
    """A system message in between, which may be only for the turn of the user that it follows."""
    until = message.text("clear_at")
    if until not in (None, "never", "next_user_message"):
        raise message.cannot("clear_at")
    message.only("output_config", {})
    parts = _parts(message, "content", ("text",))
    if not parts or (is_over and until == "next_user_message"):
        return []
    return [{"role": "system", "content": _joint(parts)}]


def _user(message: Fields) -> list[Object]:
    """The results of tools, each a message, and what else the user says."""
    results: list[Object] = []
    attached: list[Object] = []
    said: list[Object] = []
    for kind, block in _blocks(message, "content", (*_SHOWN, "tool_result")):
        if kind == "tool_result":
            results.append(_result(block, attached))
        else:
            said += _shown(kind, block)
    parts = attached + said
    return [*results, {"role": "user", "content": _joint(parts)}] if parts else results


def _result(block: Fields, attached: list[Object]) -> Object:
    """The message of a tool. It can have texts only: other parts are attached to what the user says next."""
    name = block.need("tool_use_id")
    texts = [_text(_FAILED)] if block.flag("is_error") else []
    for part in _parts(block, "content", _SHOWN):
        if part["type"] == "text":
            texts.append(part)
            continue
        what = part["type"].removesuffix("_url")
        texts.append(_text(f"[The {what} is in the next message, under {name}.]"))
        attached += [_text(f"[{name}:]"), part]
    _finish(block)
    return {"role": "tool", "tool_call_id": name, "content": _joint(texts)}


def _assistant(message: Fields) -> list[Object]:
    """Texts and calls of tools; nothing where it only thought."""
    texts: list[Object] = []
    calls: list[Object] = []
    thoughts: list[tuple[str, str]] = []
    for kind, block in _blocks(message, "content", ("text", "tool_use", "thinking", "redacted_thinking")):
        if kind == "text":
            texts += _shown(kind, block)
        elif kind == "tool_use":
            calls.append(_call(block))
        else:
            thoughts += _thought(block)
    if not texts and not calls:
        return []
    made: Object = {"role": "assistant", "content": _joint(texts) if texts else None}
    for name, text in thoughts:
        made[name] = made.get(name, "") + text
    return [{**made, "tool_calls": calls} if calls else made]


def _thought(block: Fields) -> list[tuple[str, str]]:
    """The field that a thought came from, and the thought, where it came from a server of chat."""
    text, name = block.text("thinking"), block.text("signature")
    block.besides("data")
    _finish(block)
    return [(name, text)] if text and name in THOUGHTS else []


def _call(block: Fields) -> Object:
    made = {"id": block.need("id"), "type": "function"}
    name, arguments = block.need("name"), block.take("input")
    if not isinstance(arguments, dict):
        raise block.cannot("input", "It must be an object.")
    caller = block.inner("caller")
    if caller is not None:
        caller.only("type", "direct")
        caller.done()
    _finish(block)
    return {**made, "function": {"name": name, "arguments": orjson.dumps(arguments).decode()}}


# ---- blocks -----------------------------------------------------------------------------------------


def _blocks(holder: Fields, field: str, kinds: tuple[str, ...]) -> list[tuple[str, Fields]]:
    """The blocks of a content with their types, which must be of these; a string is one of text."""
    content = holder.take(field)
    if content is None or isinstance(content, str):
        return [] if content is None else [("text", Fields({"text": content}, holder.name(field)))]
    if not isinstance(content, list):
        raise holder.cannot(field, "It must be a string or a list of blocks.")
    blocks = []
    for each in content:
        block = Fields(each, holder.name(field))
        kind = block.need("type")
        if kind not in kinds:
            raise block.cannot("type", f"Here it can be {', '.join(f'`{known}`' for known in kinds)}.")
        blocks.append((kind, block))
    return blocks


def _finish(block: Fields) -> None:
    block.besides("cache_control")
    block.only("toolset_name", "")
    block.done()


def _parts(holder: Fields, field: str, kinds: tuple[str, ...]) -> list[Object]:
    return [part for kind, block in _blocks(holder, field, kinds) for part in _shown(kind, block)]


def _joint(parts: list[Object]) -> object:
    """One text as such: some servers know nothing else, above all for tools and the system."""
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _text(text: str) -> Object:
    return {"type": "text", "text": text}


def _shown(kind: str, block: Fields) -> list[Object]:
    """A block that is shown to the model, as parts of a message."""
    if kind == "text":
        block.besides("citations")
        parts = [_text(block.need("text"))]
    elif kind == "image":
        parts = [_image(block)]
    else:
        parts = _document(block) if kind == "document" else [_search_result(block)]
    _finish(block)
    return parts


def _image(block: Fields) -> Object:
    source = block.need_inner("source")
    kind = source.need("type")
    if kind not in ("base64", "url"):
        raise source.cannot("type", "It can be `base64` or `url`.")
    url = source.need("url") if kind == "url" else _data(source, source.need("media_type"))
    source.done()
    changed = block.inner("transformations")
    if changed is not None:
        changed.only("oversized_image", "downsize")
        changed.done()
    return {"type": "image_url", "image_url": {"url": url}}


def _data(source: Fields, kind: str) -> str:
    return f"data:{kind};base64,{source.need('data')}"


def _document(block: Fields) -> list[Object]:
    """A heading of its title and context, and what it says; a PDF as a file."""
    _uncited(block)
    title = block.text("title") or ""
    heading = _lines(title, block.text("context") or "")
    source = block.need_inner("source")
    kind = source.need("type")
    if kind == "text":
        source.only("media_type", "text/plain")
        parts = [_text(source.need("data"))]
    elif kind == "content":
        parts = _parts(source, "content", ("text", "image"))
    elif kind == "base64":
        source.only("media_type", "application/pdf")
        name = title if title.lower().endswith(".pdf") else f"{title or 'document'}.pdf"
        parts = [{"type": "file", "file": {"filename": name, "file_data": _data(source, "application/pdf")}}]
    else:
        raise source.cannot("type", "It can be `base64`, `text` or `content`.")
    source.done()
    return [_text(heading), *parts] if heading else parts


def _search_result(block: Fields) -> Object:
    _uncited(block)
    texts = [part["text"] for part in _parts(block, "content", ("text",))]
    return _text(_lines(block.need("title"), block.need("source"), *texts))


def _uncited(block: Fields) -> None:
    """Answers cannot cite."""
    asked = block.inner("citations")
    if asked is not None:
        asked.only("enabled", False)
        asked.done()


def _lines(*texts: str) -> str:
    return "\n\n".join([text for text in texts if text])
