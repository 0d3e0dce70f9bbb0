"""More time for decisions that wait for something: Envoy gives it for a message, if asked before its own is over.

One timer serves all streams of a worker: one for each message would cost more than all the rest of this.
"""

import asyncio
from collections.abc import Awaitable, Callable

from extproc.adapter import codec

_LOOKS = 8  # in the time that Envoy waits by itself

Write = Callable[[bytes], Awaitable[None]]


class Patience:
    """Knows the streams of a worker, and asks for more time for those that owe a reply when half of theirs is over.

    `usual` seconds Envoy waits by itself; `longest` it shall wait from when it is asked. Where that is no more, nothing
    is ever asked for. Who owes a reply is looked through now and then, and told no more than that with each message.
    """

    def __init__(self, usual: float, longest: float) -> None:
        self._soon = usual / 2
        self._pause = usual / _LOOKS
        self._is_of_use = longest > usual
        self._order = codec.more_time(longest)
        self._streams: set[Replies] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.now = 0.0
        """Seconds of the loop's clock, when it was last looked at: at most a pause ago while `runs`."""
        self.runs = not self._is_of_use

    def replies(self, write: Write) -> "Replies":
        """What writes the replies of one stream, until it is closed."""
        replies = Replies(self, write)
        self._streams.add(replies)
        return replies

    def left(self, replies: "Replies") -> None:
        """A stream is over."""
        self._streams.discard(replies)

    def start(self) -> None:
        """Look from now on, as long as any stream owes a reply."""
        loop = asyncio.get_running_loop()
        self.runs, self.now = True, loop.time()
        self._timer = loop.call_later(self._pause, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = now = loop.time()
        owing = [replies for replies in self._streams if replies.since is not None]
        for replies in owing:
            if replies.since is not None and replies.since <= now - self._soon:
                replies.since = now
                replies.ask(self._order)
        self.runs = bool(owing)
        self._timer = loop.call_later(self._pause, self._look) if owing else None


class Replies:
    """The writing half of one stream. No two writes overlap, for grpc.aio allows that of no stream."""

    __slots__ = ("_asking", "_patience", "_write", "since")

    def __init__(self, patience: Patience, write: Write) -> None:
        self._patience = patience
        self._write = write
        self._asking: asyncio.Future[None] | None = None  # the order for more time, on its way
        self.since: float | None = None
        """By Patience.now, since when a message wants a reply; None: none does."""

    def due(self) -> None:
        """A message has come. Whatever was due before gets no reply."""
        patience = self._patience
        if not patience.runs:
            patience.start()
        self.since = patience.now

    async def write(self, reply: bytes) -> None:
        self.since = None
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
        self.since = None
        asking, self._asking = self._asking, None
        if asking is not None:
            await asyncio.wait((asking,))

    def close(self) -> None:
        """The stream is over."""
        self.since = None
        self._patience.left(self)
        if self._asking is not None:
            self._asking.cancel()


def _heard(asking: asyncio.Future[None]) -> None:
    """What hinders an order hinders the reply, which tells it."""
    if not asking.cancelled():
        asking.exception()
