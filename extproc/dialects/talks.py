"""What a request tells of the conversation that it is part of: its name, how it begins, which turn this is.

Read from what the readers have parsed. Nothing here refuses: a field that is of another type says nothing.
"""

import re
from collections.abc import Sequence

import orjson

from extproc.dialects.fields import Object
from extproc.model import Talk

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_LONGEST_NAME = 2_000  # characters in which the name of a session is looked for
_IN_USER_ID = "_session_"  # how older versions of Claude Code write theirs behind the user's


def plain(parsed: Object) -> Talk:
    """Of a request that is no part of a conversation but by its name."""
    return _talk(parsed, None, None)


def chat(parsed: Object, messages: Sequence[Object]) -> Talk:
    """Of chat completions."""
    spoken = [message for message in messages if message.get("role") == "user"]
    return _talk(parsed, (spoken or messages)[0].get("content"), len(spoken))


def plain_chat(parsed: Object, messages: Sequence[Object]) -> Talk:
    """The same of a plain one (cache.plain): its messages are texts, and it has none of the fields that name a session
    but `user`."""
    texts = [message["content"] for message in messages if message["role"] == "user"]
    opening, user = texts[0] if texts else messages[0]["content"], parsed.get("user")
    return Talk(None, user if isinstance(user, str) and user else None, str(opening), len(texts))


def anthropic(parsed: Object, messages: Sequence[Object]) -> Talk:
    """Of Anthropic's messages, in which the results of tools come as messages of the user."""
    spoken = [message for message in messages if message.get("role") == "user" and not _brings_results(message)]
    return _talk(parsed, (spoken or messages)[0].get("content"), len(spoken))


def responses(parsed: Object, items: Sequence[Object]) -> Talk:
    """Of the Responses API. Which turn it is of a conversation that the provider stores nobody here can tell."""
    stored = parsed.get("previous_response_id") is not None or parsed.get("conversation") is not None
    given = parsed.get("input")
    if isinstance(given, str):
        return _talk(parsed, None if stored else given, None if stored else 1)
    spoken = [item for item in items if item.get("role") == "user"]
    if stored or not items:
        return _talk(parsed, None, None)
    return _talk(parsed, (spoken or items)[0].get("content"), len(spoken))


def _brings_results(message: Object) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(
        isinstance(block, dict) and block.get("type") == "tool_result" for block in content
    )


def _talk(parsed: Object, opening: object, turn: int | None) -> Talk:
    metadata = parsed.get("metadata")
    given = metadata if isinstance(metadata, dict) else {}
    user = next((name for name in (parsed.get("user"), given.get("user_id")) if isinstance(name, str) and name), None)
    return Talk(_name(parsed, given), user, _text(opening), turn, given)


def _text(content: object) -> str:
    """The text of a message, without what else it has."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "\n".join([text for part in parts if isinstance(part, dict) and isinstance(text := part.get("text"), str)])


def _name(parsed: Object, metadata: Object) -> str | None:
    """What the client calls the session, the surest first."""
    conversation = parsed.get("conversation")
    cache_key = parsed.get("prompt_cache_key")
    candidates = (
        parsed.get("session_id"),
        metadata.get("session_id"),
        _of_user_id(metadata.get("user_id")),
        conversation.get("id") if isinstance(conversation, dict) else conversation,
        # Many an application has one for all its calls; agents write the id of their session.
        cache_key if isinstance(cache_key, str) and _UUID.fullmatch(cache_key) else None,
    )
    return next((name for name in candidates if isinstance(name, str) and name), None)


def _of_user_id(user_id: object) -> object:
    """The session in Anthropic's `metadata.user_id`, as Claude Code writes it."""
    if not isinstance(user_id, str) or len(user_id) > _LONGEST_NAME:
        return None
    if not user_id.startswith("{"):
        return user_id.partition(_IN_USER_ID)[2]
    try:
        told = orjson.loads(user_id)
    except ValueError:
        return None
    return told.get("session_id") if isinstance(told, dict) else None
