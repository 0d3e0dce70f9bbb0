"""More time for decisions that wait for something: Envoy gives it for a message, if asked before its own is over.

One timer serves all streams of a worker: one for each message would cost more than all the rest of this.
"""

import asyncio
from collections.abc import Awaitable, Callable

from extproc.adapter import codec

_LOOKS = 8  # in the time that Envoy waits by itself

Write = Callable[[bytes], Awaitable[None]]


class Patience:
    """Knows which streams of a worker owe a reply, and asks for more time when half of what they have is over.

    `usual` seconds Envoy waits by itself; `longest` it shall wait from when it is asked. Where that is no more, nothing
    is ever asked for.
    """

    def __init__(self, usual: float, longest: float) -> None:
        self._soon = usual / 2
        self._pause = usual / _LOOKS
        self._is_of_use = longest > usual
        self._order = codec.more_time(longest)
        self._since: dict[Replies, float] = {}  # what has waited longest comes first
        self._timer: asyncio.TimerHandle | None = None

    def replies(self, write: Write) -> "Replies":
        """What writes the replies of one stream."""
        return Replies(self, write)

    def begin(self, replies: "Replies") -> None:
        """A message wants a reply from now on."""
        if not self._is_of_use:
            return
        loop = asyncio.get_running_loop()
        self._since.pop(replies, None)
        self._since[replies] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._pause, self._look)

    def end(self, replies: "Replies") -> None:
        """None does any more."""
        self._since.pop(replies, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        late = loop.time() - self._soon
        while self._since:
            replies, since = next(iter(self._since.items()))
            if since > late:
                break
            self.begin(replies)
            replies.ask(self._order)
        self._timer = loop.call_later(self._pause, self._look) if self._since else None


class Replies:
    """The writing half of one stream. No two writes overlap, for grpc.aio allows that of no stream."""

    __slots__ = ("_asking", "_patience", "_write")

    def __init__(self, patience: Patience, write: Write) -> None:
        self._patience = patience
        self._write = write
        self._asking: asyncio.Future[None] | None = None  # the order for more time, on its way

    def due(self) -> None:
        """A message has come. Whatever was due before gets no reply."""
        self._patience.begin(self)

    async def write(self, reply: bytes) -> None:
        self._patience.end(self)
        if self._asking is not None:
            await self.settled()
        await self._write(reply)

    def ask(self, order: bytes) -> None:
        """Write an order beside what the stream waits for."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._write(order))
            self._asking.add_done_callback(_heard)

    async def settled(self) -> None:
        """Nothing is being written any more."""
        self._patience.end(self)
        asking, self._asking = self._asking, None
        if asking is not None:
            await asyncio.wait((asking,))

    def close(self) -> None:
        """The stream is over."""
        self._patience.end(self)
        if self._asking is not None:
            self._asking.cancel()


def _heard(asking: asyncio.Future[None]) -> None:
    """What hinders an order hinders the reply, which tells it."""
    if not asking.cancelled():
        asking.exception()
