"""Which answers may be kept: complete ones, that the provider neither cut nor filtered, and nothing else.

What is not known to be complete is not kept: a reason to end that is new, a stream that goes on behind its end.
"""

from collections.abc import Iterable, Iterator, Mapping

import orjson

from extproc.dialects import sse
from extproc.dialects.endings import objects
from extproc.surfaces import Surface

Object = Mapping[str, object]

REASONS = frozenset(
    (
        "cut",
        "empty",
        "error",
        "filtered",
        "hosted_tools",
        "incomplete",
        "refused",
        "stateful",
        "unknown_end",
        "unreadable",
    )
)
"""Every word for why an answer may not be kept; docs/cache.md explains them."""

_NATURAL = {
    Surface.CHAT: frozenset(("stop", "tool_calls", "function_call")),
    Surface.COMPLETIONS: frozenset(("stop",)),
    Surface.MESSAGES: frozenset(("end_turn", "stop_sequence", "tool_use")),
    Surface.RESPONSES: frozenset(("completed",)),
}
_ENDS = {
    "cancelled": "incomplete",
    "content_filter": "filtered",
    "error": "error",
    "failed": "error",
    "in_progress": "incomplete",
    "incomplete": "incomplete",
    "length": "cut",
    "max_output_tokens": "cut",
    "max_tokens": "cut",
    "model_context_window_exceeded": "cut",
    "pause_turn": "incomplete",
    "queued": "incomplete",
    "refusal": "refused",
}
"""Other reasons why answers end."""
_SAID = ("text", "tool_calls", "function_call", "images")
_MORE = ("content", "reasoning", "reasoning_content", *_SAID)
"""What no choice may have behind its end."""
_FOUND = frozenset(
    (
        *("annotations", "citations", "context", "executed_tools", "groundingMetadata", "grounding_metadata"),
        *("references", "search_info", "search_results", "web_search"),
    )
)
"""Where answers and messages show what the model looked up or ran by itself."""
_COUNTED = frozenset(
    (
        "num_search_queries",
        "num_server_side_tools_used",
        "num_sources_used",
        "server_side_tool_usage_details",
        "server_tool_use",
    )
)
"""Where their usage does."""
_SEALED = frozenset(("audio", "reasoning_details", "thinking_blocks"))
"""Where messages hold what only the provider can read, or has."""
_DONE = b"[DONE]"
_FILTERED = b'"filtered"'
_FILTERS = b'"content_filter_result'


class _Unfit(Exception):
    """The answer may not be kept. `args[0]` says why."""


def why_not(surface: Surface, body: bytes, is_stream: bool, results: int = 1) -> str | None:
    """Why an answer may not be kept, one of REASONS; None where it may. `body` is all of it, as the surface has it.

    `results`: how many embeddings or choices it must have.
    """
    try:
        if is_stream:
            _stream(surface, list(_events(body)), results)
        else:
            _whole(surface, _read(body), results)
    except _Unfit as unfit:
        return str(unfit.args[0])
    return None


def _read(written: bytes) -> Object:
    """An object in which nothing tells of an error or a filter. Raises _Unfit."""
    try:
        value = orjson.loads(written)
    except ValueError:
        raise _Unfit("unreadable") from None
    if not isinstance(value, dict):
        raise _Unfit("unreadable")
    if value.get("error") is not None or value.get("type") == "error" or value.get("object") == "error":
        raise _Unfit("error")
    if (_FILTERED in written or _FILTERS in written) and _is_filtered(value):
        raise _Unfit("filtered")
    return value


def _is_filtered(value: Object) -> bool:
    """Whether a filter took something out, or did not run, as Azure tells of each of its filters."""
    waiting: list[object] = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if one.get("filtered") not in (None, False):
                return True
            if _has_failed(one.get("content_filter_results")) or _has_failed(one.get("content_filter_result")):
                return True
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return False


def _has_failed(results: object) -> bool:
    """Whether all filters, or one of them, could not look at it."""
    if not isinstance(results, dict):
        return False
    return any(isinstance(one, dict) and one.get("error") is not None for one in (results, *results.values()))


def _events(body: bytes) -> Iterator[bytes]:
    """The data of all events; empty for comments. Raises _Unfit where the last one does not end."""
    reader = sse.EventReader()
    yield from map(sse.data, reader.feed(body))
    if reader.held:
        raise _Unfit("incomplete")


def _whole(surface: Surface, answer: Object, results: int) -> None:
    match surface:
        case Surface.CHAT | Surface.COMPLETIONS:
            choices = _Choices(surface)
            choices.take(answer)
            choices.end(results)
        case Surface.MESSAGES:
            _message(answer)
        case Surface.RESPONSES:
            _response(answer)
        case Surface.EMBEDDINGS:
            _embeddings(answer, results)
        case _:
            raise _Unfit("unreadable")


def _stream(surface: Surface, events: list[bytes], results: int) -> None:
    match surface:
        case Surface.CHAT | Surface.COMPLETIONS:
            _chunks(surface, events, results)
        case Surface.MESSAGES:
            _message_events(map(_read, filter(None, events)))
        case Surface.RESPONSES:
            _response_events(map(_read, filter(None, events)))
        case _:
            raise _Unfit("unreadable")
    if not events[-1]:
        raise _Unfit("incomplete")  # a comment behind the end


def _ended(reason: object, surface: Surface) -> None:
    """Raises _Unfit where the reason is none for an answer that is complete."""
    if reason is None:
        raise _Unfit("incomplete")
    if not isinstance(reason, str):
        raise _Unfit("unreadable")
    if reason not in _NATURAL[surface]:
        raise _Unfit(_ENDS.get(reason, "unknown_end"))


def _look(told: Object) -> None:
    """Raises _Unfit where an answer, or a part of it, shows that the model searched or ran tools by itself."""
    if not _FOUND.isdisjoint(told) and any(told.get(name) for name in _FOUND):
        raise _Unfit("hosted_tools")
    usage = told.get("usage")
    if isinstance(usage, dict) and not _COUNTED.isdisjoint(usage) and any(_is_used(usage.get(one)) for one in _COUNTED):
        raise _Unfit("hosted_tools")


def _is_used(count: object) -> bool:
    """A number, or several by kind."""
    return any(count.values()) if isinstance(count, dict) else bool(count)


def _arguments(text: object) -> None:
    """Raises _Unfit where no program can read them. Nothing at all is what some send for tools without parameters."""
    if text is None or text == "":
        return
    try:
        given = orjson.loads(text) if isinstance(text, str) else text  # some servers send an object
    except ValueError:
        raise _Unfit("unreadable") from None
    if not isinstance(given, dict):
        raise _Unfit("unreadable")


# ---- chat completions and completions ---------------------------------------------------------------

_CALLS = ("tool_calls", "function_call")


class _Choices:
    """Which choices there are, and which of them have said something and come to their end."""

    __slots__ = ("_called", "_ended", "_pieces", "_said", "_surface")

    def __init__(self, surface: Surface) -> None:
        self._surface = surface
        self._said: set[int] = set()
        self._called: set[int] = set()  # those that call tools
        self._ended: dict[int, object] = {}  # why
        self._pieces: dict[tuple[int, int], list[str]] = {}  # of arguments, by choice and call

    def take(self, holder: Object) -> None:
        """The choices of an answer, or of a chunk of one."""
        choices = holder.get("choices")
        if not isinstance(choices, list) or len(objects(choices)) != len(choices):
            raise _Unfit("unreadable")
        _look(holder)
        for choice in choices:
            self._take(choice)

    def _take(self, choice: Object) -> None:
        index, finish = choice.get("index"), choice.get("finish_reason")
        said = choice if self._surface is Surface.COMPLETIONS else choice.get("message", choice.get("delta"))
        if not isinstance(index, int) or not isinstance(said, dict | None):
            raise _Unfit("unreadable")
        if said:
            self._hear(index, said)
        if finish is not None:
            _ended(finish, self._surface)
            if index in self._ended:
                raise _Unfit("unreadable")
            self._ended[index] = finish

    def _hear(self, index: int, said: Object) -> None:
        if said.get("refusal"):
            raise _Unfit("refused")
        if index in self._ended and any(said.get(name) for name in _MORE):
            raise _Unfit("unreadable")
        _look(said)
        if not _SEALED.isdisjoint(said) and _is_sealed(said):
            raise _Unfit("stateful")
        if _has_text(said.get("content")) or any(said.get(name) for name in _SAID):
            self._said.add(index)
        if said.get("tool_calls"):
            self._call(index, said["tool_calls"])
        if said.get("function_call"):
            self._add(index, -1, said["function_call"])

    def _call(self, index: int, calls: object) -> None:
        if not isinstance(calls, list) or len(objects(calls)) != len(calls):
            raise _Unfit("unreadable")
        for place, call in enumerate(calls):
            at = place if call.get("index") is None else call["index"]
            if not isinstance(at, int):
                raise _Unfit("unreadable")
            if isinstance(call.get("custom"), dict):  # its input is any text
                self._called.add(index)
            else:
                self._add(index, at, call.get("function"))

    def _add(self, index: int, at: int, function: object) -> None:
        """A call of a function, or a piece of one."""
        if not isinstance(function, dict):
            raise _Unfit("unreadable")
        self._called.add(index)
        piece = function.get("arguments")
        if isinstance(piece, str):
            self._pieces.setdefault((index, at), []).append(piece)
        else:
            _arguments(piece)

    def end(self, results: int) -> None:
        if set(self._ended) != set(range(results)) or not self._said <= set(self._ended):
            raise _Unfit("incomplete")
        if self._said != set(self._ended):
            raise _Unfit("empty")
        if any(finish in _CALLS and index not in self._called for index, finish in self._ended.items()):
            raise _Unfit("incomplete")
        for pieces in self._pieces.values():
            _arguments("".join(pieces))


def _has_text(content: object) -> bool:
    """Whether it is text, or one of its parts is. Thoughts are none: their texts are one level deeper."""
    parts = objects(content)
    if any(part.get("type") == "refusal" for part in parts):
        raise _Unfit("refused")
    return any(part.get("text") or part.get("image_url") for part in parts) or (
        isinstance(content, str) and content != ""
    )


def _is_sealed(said: Object) -> bool:
    """Whether only the provider can read a part of it: thoughts, or has it: spoken words."""
    thoughts = (*objects(said.get("reasoning_details")), *objects(said.get("thinking_blocks")))
    return bool(said.get("audio")) or any(
        one.get("type") in ("reasoning.encrypted", "redacted_thinking") for one in thoughts
    )


def _chunks(surface: Surface, events: list[bytes], results: int) -> None:
    choices = _Choices(surface)
    *chunks, last = [event for event in events if event] or [b""]
    for chunk in chunks:
        choices.take(_read(chunk))
    if last != _DONE:
        _read(last)  # an error comes last, too
        raise _Unfit("incomplete")
    choices.end(results)


# ---- Anthropic's messages ---------------------------------------------------------------------------

_TOOL = "tool_use"  # a block, and why a message that has one stops
_WRAPPED = {"INVALID_JSON"}  # how arguments of another dialect stand that are no object


def _message(answer: Object) -> None:
    if answer.get("type") != "message":
        raise _Unfit("unreadable")
    _held(answer)
    reason = answer.get("stop_reason")
    _ended(reason, Surface.MESSAGES)
    blocks = objects(answer.get("content"))
    said = list(map(_says, blocks))  # of all: each may be unfit
    if not any(said):
        raise _Unfit("empty")
    if reason == _TOOL and all(block.get("type") != _TOOL for block in blocks):
        raise _Unfit("incomplete")


def _held(told: Object) -> None:
    """Raises _Unfit where a message leans on what lies at the provider, or shows tools that ran there."""
    if told.get("container"):
        raise _Unfit("stateful")
    _look(told)


def _says(block: Object) -> bool:
    """Whether a block of a message says something, thoughts apart. Raises _Unfit where it may not be kept."""
    kind = block.get("type")
    if kind == "text":
        for citation in objects(block.get("citations")):
            _cites(citation)
        return bool(block.get("text"))
    if kind == _TOOL:
        given = block.get("input")
        if not isinstance(given, dict) or given.keys() == _WRAPPED:
            raise _Unfit("unreadable")
        return True
    if kind == "redacted_thinking":
        raise _Unfit("stateful")
    if isinstance(kind, str) and kind.endswith(("_tool_use", "_tool_result", "container_upload")):
        raise _Unfit("hosted_tools")
    if kind != "thinking":
        raise _Unfit("unreadable")
    return False


def _cites(citation: object) -> None:
    """Raises _Unfit where something from the web is cited. Documents are the caller's."""
    if isinstance(citation, dict) and citation.get("type") == "web_search_result_location":
        raise _Unfit("hosted_tools")


class _Message:
    """A message as its events tell it: its blocks, each of which ends, and why it stops. Other events may be new."""

    __slots__ = ("_begun", "_called", "_open", "_pieces", "_reason", "_said", "_stopped")

    def __init__(self) -> None:
        self._begun = False
        self._open: dict[int, bool] = {}  # of every block
        self._pieces: dict[int, list[str]] = {}  # of arguments, by block
        self._said = False
        self._called = False
        self._reason: object = None
        self._stopped = False

    def take(self, event: Object) -> None:
        kind = event.get("type")
        is_first = kind == "message_start"
        if self._stopped or (is_first and self._begun) or not (is_first or self._begun or kind == "ping"):
            raise _Unfit("unreadable")
        self._begun = self._begun or is_first
        if kind in ("content_block_start", "content_block_delta", "content_block_stop"):
            self._block(kind, event)
        elif kind == "message_delta":
            self._delta(event)
        elif is_first:
            self._start(event.get("message"))
        self._stopped = kind == "message_stop"

    def _start(self, message: object) -> None:
        if isinstance(message, dict):
            _held(message)

    def _block(self, kind: object, event: Object) -> None:
        """A block starts once, and is open until it stops."""
        index = event.get("index")
        if not isinstance(index, int):
            raise _Unfit("unreadable")
        is_new = index not in self._open
        if is_new != (kind == "content_block_start") or not (is_new or self._open[index]):
            raise _Unfit("unreadable")
        self._open[index] = kind != "content_block_stop"
        if is_new:
            self._begin(event.get("content_block"))
        elif self._open[index]:
            self._more(index, event.get("delta"))
        else:
            _arguments("".join(self._pieces.pop(index, ())))

    def _begin(self, block: object) -> None:
        if not isinstance(block, dict):
            raise _Unfit("unreadable")
        self._said = _says(block) or self._said
        self._called = self._called or block.get("type") == _TOOL

    def _more(self, index: int, delta: object) -> None:
        if not isinstance(delta, dict):
            raise _Unfit("unreadable")
        self._said = self._said or bool(delta.get("text"))
        piece = delta.get("partial_json")
        if isinstance(piece, str):
            self._pieces.setdefault(index, []).append(piece)
        _cites(delta.get("citation"))

    def _delta(self, event: Object) -> None:
        delta = event.get("delta")
        if not isinstance(delta, dict):
            raise _Unfit("unreadable")
        _held(delta)
        _look(event)
        if delta.get("stop_reason") is not None:
            _ended(delta["stop_reason"], Surface.MESSAGES)
            self._reason = delta["stop_reason"]

    def end(self) -> None:
        _ended(self._reason, Surface.MESSAGES)
        if not self._stopped or any(self._open.values()):
            raise _Unfit("incomplete")
        if not self._said:
            raise _Unfit("empty")
        if self._reason == _TOOL and not self._called:
            raise _Unfit("incomplete")


def _message_events(events: Iterable[Object]) -> None:
    message = _Message()
    for event in events:
        message.take(event)
    message.end()


# ---- Responses --------------------------------------------------------------------------------------

_AT_THE_PROVIDER = ("background", "conversation", "previous_response_id", "store")
"""Where a response says that the provider keeps it, whatever the request asked for."""
_LAST = ("response.completed", "response.failed", "response.incomplete")  # a tuple: what comes may be unhashable


def _response(answer: object) -> None:
    if not isinstance(answer, dict):
        raise _Unfit("unreadable")
    details = answer.get("incomplete_details")
    if isinstance(details, dict):
        raise _Unfit(_ENDS.get(str(details.get("reason")), "incomplete"))
    _ended(answer.get("status"), Surface.RESPONSES)
    if answer.get("error") is not None:
        raise _Unfit("error")
    if any(answer.get(name) for name in _AT_THE_PROVIDER):
        raise _Unfit("stateful")
    _look(answer)
    said = list(map(_item, objects(answer.get("output"))))  # of all: each may be unfit
    if not any(said):
        raise _Unfit("empty")


def _item(item: Object) -> bool:
    """Whether an item says something, thoughts apart. Raises _Unfit where it may not be kept."""
    if item.get("status") is not None:
        _ended(item["status"], Surface.RESPONSES)
    if item.get("encrypted_content"):
        raise _Unfit("stateful")
    kind = item.get("type")
    match kind:
        case "message":
            parts = objects(item.get("content"))
            for part in parts:
                _look(part)
            return _has_text(parts)
        case "function_call":
            _arguments(item.get("arguments"))
            return True
        case "custom_tool_call":
            return True
        case "reasoning":
            return False
    is_hosted = isinstance(kind, str) and (kind.endswith(("_call", "_output")) or kind.startswith("mcp_"))
    raise _Unfit("hosted_tools" if is_hosted else "unreadable")


def _response_events(events: Iterable[Object]) -> None:
    """The last one tells the whole response."""
    last: Object = {}
    for event in events:
        if last.get("type") in _LAST:
            raise _Unfit("unreadable")
        last = event
    if last.get("type") not in _LAST:
        raise _Unfit("incomplete")
    _response(last.get("response"))


# ---- embeddings -------------------------------------------------------------------------------------


def _embeddings(answer: Object, results: int) -> None:
    data = objects(answer.get("data"))
    if sorted(_index(one) for one in data) != list(range(results)):
        raise _Unfit("incomplete")
    if not all(isinstance(one.get("embedding"), list | str) and one["embedding"] for one in data):
        raise _Unfit("empty")


def _index(one: Object) -> int:
    index = one.get("index")
    if not isinstance(index, int):
        raise _Unfit("unreadable")
    return index
