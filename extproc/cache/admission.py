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
    ("cut", "empty", "error", "filtered", "incomplete", "refused", "stateful", "unknown_end", "unreadable")
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
_SAID = ("content", "text", "tool_calls", "function_call", "images")
_DONE = b"[DONE]"
_FILTERED = b'"filtered"'


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
    if _FILTERED in written and _is_filtered(value):
        raise _Unfit("filtered")
    return value


def _is_filtered(value: Object) -> bool:
    """Whether a filter took something out, as Azure tells of each of its filters."""
    waiting: list[object] = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if one.get("filtered") not in (None, False):
                return True
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return False


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


# ---- chat completions and completions ---------------------------------------------------------------


class _Choices:
    """Which choices there are, and which of them have said something and come to their end."""

    __slots__ = ("_ended", "_said", "_surface")

    def __init__(self, surface: Surface) -> None:
        self._surface = surface
        self._said: set[int] = set()
        self._ended: set[int] = set()

    def take(self, holder: Object) -> None:
        """The choices of an answer, or of a chunk of one."""
        choices = holder.get("choices")
        if not isinstance(choices, list) or len(objects(choices)) != len(choices):
            raise _Unfit("unreadable")
        for choice in choices:
            self._take(choice)

    def _take(self, choice: Object) -> None:
        index, finish = choice.get("index"), choice.get("finish_reason")
        said = choice if self._surface is Surface.COMPLETIONS else choice.get("message", choice.get("delta"))
        if not isinstance(index, int) or not isinstance(said, dict | None):
            raise _Unfit("unreadable")
        if said and said.get("refusal"):
            raise _Unfit("refused")
        if said and any(said.get(name) for name in _SAID):
            self._said.add(index)
        if finish is not None:
            _ended(finish, self._surface)
            self._ended.add(index)

    def end(self, results: int) -> None:
        if self._ended != set(range(results)) or not self._said <= self._ended:
            raise _Unfit("incomplete")
        if self._said != self._ended:
            raise _Unfit("empty")


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


def _message(answer: Object) -> None:
    if answer.get("type") != "message":
        raise _Unfit("unreadable")
    if answer.get("container"):
        raise _Unfit("stateful")
    _ended(answer.get("stop_reason"), Surface.MESSAGES)
    if not objects(answer.get("content")):
        raise _Unfit("empty")


class _Message:
    """A message as its events tell it: its blocks, each of which ends, and why it stops. Other events may be new."""

    __slots__ = ("_begun", "_open", "_reason", "_stopped")

    def __init__(self) -> None:
        self._begun = False
        self._open: dict[int, bool] = {}  # of every block
        self._reason: object = None
        self._stopped = False

    def take(self, event: Object) -> None:
        kind = event.get("type")
        is_first = kind == "message_start"
        if self._stopped or (is_first and self._begun) or not (is_first or self._begun or kind == "ping"):
            raise _Unfit("unreadable")
        self._begun = self._begun or is_first
        if kind in ("content_block_start", "content_block_delta", "content_block_stop"):
            self._block(kind, event.get("index"))
        elif kind == "message_delta":
            self._delta(event.get("delta"))
        self._stopped = kind == "message_stop"

    def _block(self, kind: object, index: object) -> None:
        """A block starts once, and is open until it stops."""
        if not isinstance(index, int):
            raise _Unfit("unreadable")
        is_new = index not in self._open
        if is_new != (kind == "content_block_start") or not (is_new or self._open[index]):
            raise _Unfit("unreadable")
        self._open[index] = kind != "content_block_stop"

    def _delta(self, delta: object) -> None:
        if not isinstance(delta, dict):
            raise _Unfit("unreadable")
        if delta.get("container"):
            raise _Unfit("stateful")
        if delta.get("stop_reason") is not None:
            _ended(delta["stop_reason"], Surface.MESSAGES)
            self._reason = delta["stop_reason"]

    def end(self) -> None:
        _ended(self._reason, Surface.MESSAGES)
        if not self._stopped or any(self._open.values()):
            raise _Unfit("incomplete")
        if not self._open:
            raise _Unfit("empty")


def _message_events(events: Iterable[Object]) -> None:
    message = _Message()
    for event in events:
        message.take(event)
    message.end()


# ---- Responses --------------------------------------------------------------------------------------

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
    items = objects(answer.get("output"))
    for item in items:
        _item(item)
    if all(item.get("type") == "reasoning" for item in items):
        raise _Unfit("empty")


def _item(item: Object) -> None:
    if item.get("status") is not None:
        _ended(item["status"], Surface.RESPONSES)
    if item.get("encrypted_content"):
        raise _Unfit("stateful")
    parts = objects(item.get("content"))
    if any(part.get("type") == "refusal" for part in parts):
        raise _Unfit("refused")
    if item.get("type") == "message" and not parts:
        raise _Unfit("empty")


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
