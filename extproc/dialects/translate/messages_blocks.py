"""The blocks of a Message's stream, made of the deltas of a chat completion."""

from collections.abc import Iterator, Mapping

import orjson

from extproc.dialects.endings import objects

Json = Mapping[str, object]
Object = dict[str, object]

THOUGHTS = ("reasoning_content", "reasoning")
"""Where servers give what the model thought; some give it in both.

The name is the signature of a block of thinking: it tells where the thought belongs when the client sends it back.
"""


def event(fields: Json) -> bytes:
    """One event of Anthropic's."""
    return b"event: %s\ndata: %s\n\n" % (str(fields["type"]).encode(), orjson.dumps(fields))


def thought(message: Json) -> tuple[str, str]:
    """What the model thought, of a message or delta, and the name of the field; empty where there is nothing."""
    for name in THOUGHTS:
        text = message.get(name)
        if isinstance(text, str) and text:
            return text, name
    return "", ""


def said(message: Json) -> str:
    """The text of a message or delta, with the words of a refusal."""
    content = message.get("content")
    texts = [content] if isinstance(content, str) else [part.get("text") for part in objects(content)]
    return "".join([text for text in (*texts, message.get("refusal")) if isinstance(text, str)])


def arguments_text(function: Json) -> str:
    """The arguments of a call, or a piece of them, as text; some servers send an object."""
    arguments = function.get("arguments")
    try:
        if isinstance(arguments, dict):
            return orjson.dumps(arguments).decode()
    except orjson.JSONEncodeError:  # nested deeper than can be written
        pass
    return arguments if isinstance(arguments, str) else ""


def call_id(call: Json, of: str, at: int) -> str:
    """The id of a call; where the server gave none, its place in the completion with this id."""
    name = call.get("id")
    return name if isinstance(name, str) and name else f"{of}_{at}"


class _Call:
    """A call of a tool. Its block begins when its name is known."""

    __slots__ = ("block", "name", "pieces", "tool")

    def __init__(self, name: str) -> None:
        self.name = name  # its id
        self.tool = ""
        self.pieces: list[str] = []
        self.block: int | None = None

    @property
    def whole(self) -> bool:
        """Whether its arguments are complete, so that nothing can follow."""
        if not self.pieces or not self.pieces[-1].rstrip().endswith("}"):
            return False  # without another look at all of them
        try:
            return isinstance(orjson.loads("".join(self.pieces)), dict)
        except ValueError:
            return False


class Blocks:
    """The blocks of one message.

    A block ends where another begins, as Anthropic's do; only calls whose arguments come in turns stay open beside
    each other. `of`: the id of the completion; `thinks`: thinking is told.
    """

    __slots__ = ("_calls", "_count", "_latest", "_of", "_open", "_signature", "_text", "_thinks", "refused")

    def __init__(self, of: str, thinks: bool) -> None:
        self._of = of
        self._thinks = thinks
        self._count = 0
        self._text: str | None = None  # the type of the text that is open: it is the last block
        self._signature = ""
        self._calls: list[_Call] = []
        self._latest: dict[int, _Call] = {}  # by the index that the server gives
        self._open: list[_Call] = []
        self.refused = False

    @property
    def called(self) -> bool:
        """Whether a tool is called."""
        return any(call.block is not None for call in self._calls)

    def follow(self, delta: Json) -> Iterator[bytes]:
        """The events for what a delta says."""
        self.refused = self.refused or bool(delta.get("refusal"))
        if self._thinks:
            yield from self._think(*thought(delta))
        yield from self._say(said(delta))
        for at, call in enumerate(objects(delta.get("tool_calls"))):
            yield from self._follow_call(call, at)

    def close(self) -> Iterator[bytes]:
        """The end of all that is open."""
        yield from self._end_text()
        for call in self._open:
            yield _stop(call.block)
        self._open = []

    def _think(self, text: str, name: str) -> Iterator[bytes]:
        if not text:
            return
        if self._text != "thinking":
            yield from self._begin({"type": "thinking", "thinking": "", "signature": ""})
            self._text, self._signature = "thinking", name
        yield _delta(self._count - 1, {"type": "thinking_delta", "thinking": text})

    def _say(self, text: str) -> Iterator[bytes]:
        if not text:
            return
        if self._text != "text":
            yield from self._begin({"type": "text", "text": ""})
            self._text = "text"
        yield _delta(self._count - 1, {"type": "text_delta", "text": text})

    def _end_text(self) -> Iterator[bytes]:
        if self._text == "thinking":
            yield _delta(self._count - 1, {"type": "signature_delta", "signature": self._signature})
        if self._text is not None:
            yield _stop(self._count - 1)
            self._text = None

    def _begin(self, block: Json) -> Iterator[bytes]:
        """The start of a block, behind the end of those before it that are complete."""
        yield from self._end_text()
        for call in [call for call in self._open if call.whole]:
            yield _stop(call.block)
            self._open.remove(call)
        yield event({"type": "content_block_start", "index": self._count, "content_block": block})
        self._count += 1

    def _follow_call(self, told: Json, at: int) -> Iterator[bytes]:
        function = told.get("function")
        if not isinstance(function, dict):
            return
        name = function.get("name")
        call = self._call(told, at, name)
        call.tool = call.tool or (name if isinstance(name, str) else "")
        piece = arguments_text(function)
        if call.block is None and call.tool:
            yield from self._begin({"type": "tool_use", "id": call.name, "name": call.tool, "input": {}})
            call.block = self._count - 1
            self._open.append(call)
            piece = "".join((*call.pieces, piece))
            call.pieces.clear()
        if not piece:
            return
        call.pieces.append(piece)
        if call in self._open:
            yield _delta(call.block, {"type": "input_json_delta", "partial_json": piece})

    def _call(self, told: Json, at: int, name: object) -> _Call:
        """The call that a piece is of. Some servers number all calls alike: another id with a name is another call."""
        index = told.get("index")
        place = index if isinstance(index, int) else at
        call = self._latest.get(place)
        given = told.get("id")
        if call is None or (name and isinstance(given, str) and given not in ("", call.name)):
            call = _Call(call_id(told, self._of, len(self._calls)))
            self._calls.append(call)
            self._latest[place] = call
        return call


def _delta(index: int | None, delta: Json) -> bytes:
    return event({"type": "content_block_delta", "index": index, "delta": delta})


def _stop(index: int | None) -> bytes:
    return event({"type": "content_block_stop", "index": index})
