"""One connection to Redis that all concurrent commands of an event loop share.

What is asked within one turn of the loop goes out in one write, and replies come back in the order of the commands.
So a command costs a few microseconds of Python, and one that waits delays no other. After anything that could put
replies out of step (a timeout, a protocol error) the connection is dropped, never used again.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar, cast

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from extproc.stores.counters import CountersUnavailable
from extproc.stores.redis.login import LOOK_S, Login, login_of
from extproc.stores.redis.replies import Replies, Reply, Value

MOST_UNDER_WAY = 10_000
"""The most commands that are under way, where nothing else is said. Beyond it callers are told at once rather than kept
waiting."""

_CONNECT_S = 1.0
_PAUSE_S = (0.05, 0.5)
"""Before the second try to connect, and the most before any; half of it is left to chance."""

_GRACE_S = 0.002
"""A loop that was busy itself may see the time-out before the reply that lay waiting in the socket. The time-out counts
where it comes when it should; where it is late itself, the loop first reads what has come, see `_Due`."""

_LOOKS = 3  # the most times that a loop which is late all the time looks once more

_WORD = b"$%d\r\n%b\r\n".__mod__

_TICK_S = 0.0005  # half of what the clocks of event loops count in

log = logging.getLogger(__name__)

T = TypeVar("T")

_RECONNECT = (b"-READONLY", b"-LOADING", b"-MASTERDOWN", b"-NOAUTH", b"-WRONGPASS")
"""Errors that another connection may not give: the server is not, or no longer, the one to ask."""

_OF_A_CLUSTER = (b"-MOVED", b"-ASK", b"-CLUSTERDOWN", b"-TRYAGAIN")
"""Errors for the keys of one command: this node does not hold them. What else it is asked for goes on, over the same
connection, and a new one would hear the same."""


class Unanswered(CountersUnavailable):
    """The command was sent, and no reply came: it may have been carried out, or may yet be."""


def words(*all_words: bytes) -> bytes:
    """Words of a command as Redis reads them. Before the first goes `*`, how many there are, and a line end."""
    return b"".join(map(_WORD, zip(map(len, all_words), all_words, strict=True)))


class _Due(Generic[T]):
    """Tells what is not over so many seconds after it began. One timer serves all: nearly all are over by then.

    A timer that fires late shows that the loop was busy elsewhere, and libuv runs timers before it reads sockets: then
    replies are read first that have come meanwhile.
    """

    def __init__(self, seconds: float, is_over: Callable[[T], bool], late: Callable[[T], None]) -> None:
        self._seconds = seconds - _GRACE_S
        self._is_over = is_over
        self._late = late
        self._begun: deque[tuple[float, T]] = deque()  # with the time at which each is due
        self._waits = False

    def begin(self, what: T) -> None:
        loop = asyncio.get_running_loop()
        self._begun.append((loop.time() + self._seconds, what))
        if not self._waits:
            self._waits = True
            loop.call_later(self._seconds, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now, begun = loop.time() + _TICK_S, self._begun
        while begun:
            due, what = begun[0]
            if not self._is_over(what):
                if due > now:
                    break
                self._end_soon(loop, what, _LOOKS)
            begun.popleft()
        self._waits = bool(begun)
        if begun:
            loop.call_at(begun[0][0], self._look, loop)

    def _end_soon(self, loop: asyncio.AbstractEventLoop, what: T, looks: int) -> None:
        loop.call_later(_GRACE_S, self._end, loop, what, looks, loop.time() + _GRACE_S)

    def _end(self, loop: asyncio.AbstractEventLoop, what: T, looks: int, due: float) -> None:
        if self._is_over(what):
            return
        if looks and loop.time() - due > _GRACE_S:
            self._end_soon(loop, what, looks - 1)
        else:
            self._late(what)


class _Flush(NamedTuple):
    """Commands that went out together: how many had been asked by then, and bytes given; and how many had `moved`."""

    line: "_Line"
    asked: int
    given: int
    moved: int

    def is_over(self) -> bool:
        return self.line.answered >= self.asked or self.line.is_lost


class SharedConnection:
    """Asks commands whose replies are an error, a number, a text, or a list of numbers and texts.

    `scripts` are loaded on every new connection and whenever the server has forgotten one. `wait`: seconds after
    which a command without a reply counts as lost; with `is_wide`, after which nothing has come or gone, as commands
    and replies may be so large that they take longer. `connected` is called on every new connection, before commands
    that waited for it go out. `most`: commands that may be under way. `soon`: seconds for which a caller waits at most
    that says so, where that is less than `wait`.
    """

    def __init__(
        self,
        url: str,
        wait: float,
        scripts: Sequence[bytes],
        connected: Callable[[], None],
        most: int = MOST_UNDER_WAY,
        is_wide: bool = False,
        soon: float | None = None,
    ) -> None:
        plain, self._login = login_of(url)
        self._pool = ConnectionPool.from_url(
            plain,
            protocol=2,
            socket_connect_timeout=_CONNECT_S,
            socket_timeout=_CONNECT_S,
            retry=Retry(NoBackoff(), 0),
            credential_provider=self._login,
        )
        self._wait = wait
        self._most = most
        self._is_wide = is_wide
        self._soon = _Due[asyncio.Future[Reply]](wait if soon is None else soon, asyncio.Future.done, _too_late)
        self._flushed = _Due[_Flush](wait, _Flush.is_over, self._time_out)
        self._loads = [b"*3\r\n" + words(b"SCRIPT", b"LOAD", script) for script in scripts]
        self._connected = connected
        self._line: _Line | None = None
        self._commands: list[bytes] = []  # not written yet
        self._waiting: list[asyncio.Future[Reply]] = []  # for the replies to these
        self._connecting: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[None] | None = None
        self._down = False  # do not wait for a connection: the last one failed
        self._since = float("-inf")  # when we last got a connection, by the loop's time
        self._opening = False
        self._closed = False
        self._said_cluster = False
        self.made = 0  # connections

    async def ask(self, command: bytes, soon: bool = False) -> list[Value]:
        """What the reply holds. Raises Unanswered; or CountersUnavailable where nothing was carried out.

        `soon`: this caller waits no longer than was said at the beginning.
        """
        reply = await (self._asked(command, soon) if soon else self.send(command))
        if not isinstance(reply, bytes):
            return reply
        if reply.startswith(b"-NOSCRIPT"):
            await self._load()
            reply = await self._asked(command, soon)
            if not isinstance(reply, bytes):
                return reply
        if reply.startswith(_RECONNECT):
            self._drop()
        elif reply.startswith(_OF_A_CLUSTER):
            self._say_cluster(reply)
        raise CountersUnavailable(f"Redis says {reply[1:].split(b' ', 1)[0].decode(errors='replace')}")

    def send(self, command: bytes) -> asyncio.Future[Reply]:
        """The raw reply, once it is there. Raises CountersUnavailable where there is no hope of one."""
        loop, waiting, line = asyncio.get_running_loop(), self._waiting, self._line
        if line is None:
            self._none_yet(loop)
        elif not waiting:
            loop.call_soon(self._flush)
        if len(waiting) + (0 if line is None else len(line.replies)) >= self._most:
            raise CountersUnavailable("too many commands are under way")
        reply: asyncio.Future[Reply] = loop.create_future()
        self._commands.append(command)
        waiting.append(reply)
        return reply

    def _say_cluster(self, reply: bytes) -> None:
        """Once: it stays so for as long as this server is asked."""
        if not self._said_cluster:
            self._said_cluster = True
            log.error(
                "Redis is a cluster, and the server that is asked has some of the keys alone (%s): choose the "
                "clustering policy EnterpriseCluster, or name a server without clusters",
                reply[1:].split(b" ", 1)[0].decode(),
            )

    def _none_yet(self, loop: asyncio.AbstractEventLoop) -> None:
        """There is no connection: commands wait for one, if it is worth waiting. Raises CountersUnavailable."""
        if self._closed:
            raise CountersUnavailable("the store is closed")
        self._connect()
        if self._down:
            raise CountersUnavailable("Redis cannot be reached")
        if not self._waiting:
            loop.call_later(self._wait, self._give_up_queue, self._waiting)

    def be_patient(self, seconds: float) -> None:
        """From now on a command counts as lost after so many seconds."""
        self._wait = seconds
        self._flushed = _Due[_Flush](seconds, _Flush.is_over, self._time_out)

    async def close(self) -> None:
        """Where a connection is just being opened, after that: one that is given up halfway may stay open."""
        self._closed = True
        tasks = [task for task in (self._connecting, self._loading) if task is not None]
        if self._opening:
            await asyncio.wait(tasks, timeout=_CONNECT_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._drop()
        self._fail_queue("the store is closed")

    # ---- commands ----

    def _asked(self, command: bytes, soon: bool) -> asyncio.Future[Reply]:
        reply = self.send(command)
        if soon:
            self._soon.begin(reply)
        return reply

    def _flush(self) -> None:
        line = self._line
        if line is None or not self._waiting:
            return
        line.write(*self._taken())
        self._watch(line, line.asked, line.given)

    def _taken(self) -> tuple[list[bytes], list[asyncio.Future[Reply]]]:
        """What is not written yet, out of the queue."""
        taken = self._commands, self._waiting
        self._commands, self._waiting = [], []
        return taken

    def _watch(self, line: "_Line", asked: int, given: int) -> None:
        self._flushed.begin(_Flush(line, asked, given, line.moved(given) if self._is_wide else 0))

    def _time_out(self, late: _Flush) -> None:
        line, _, given, moved = late
        if line is not self._line:
            return
        if self._is_wide and line.moved(given) > moved:
            self._watch(line, late.asked, given)
        else:
            self._drop()

    def _give_up_queue(self, waiting: list[asyncio.Future[Reply]]) -> None:
        if waiting is self._waiting:
            self._down = True
            self._fail_queue("Redis cannot be reached in time")

    def _fail_queue(self, why: str) -> None:
        _, waiting = self._taken()
        _fail(waiting, CountersUnavailable(why))

    async def _load(self) -> None:
        """Load the scripts again, once for all commands that miss one. Raises CountersUnavailable."""
        if self._loading is None or self._loading.done():
            self._loading = asyncio.ensure_future(self._load_all())
        await asyncio.shield(self._loading)

    async def _load_all(self) -> None:
        replies = await asyncio.gather(*[self.send(load) for load in self._loads])
        if any(isinstance(reply, bytes) for reply in replies):
            raise CountersUnavailable("Redis does not load the scripts")

    # ---- the connection ----

    def _connect(self) -> None:
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.ensure_future(self._keep_trying())

    async def _keep_trying(self) -> None:
        first, most = _PAUSE_S
        loop = asyncio.get_running_loop()
        pause = first if loop.time() - self._since < most else 0.0
        while not self._closed:
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - lest all workers come back at once
            self._opening = True
            try:
                line = await asyncio.wait_for(self._open(), _CONNECT_S)
            except (OSError, RedisError, TimeoutError):
                self._down = True
                self._fail_queue("Redis cannot be reached")
                pause = min(2 * pause or first, most)
            else:
                self._since = loop.time()
                self._take(line)
                return
            finally:
                self._opening = False

    async def _open(self) -> "_Line":
        connection = cast(AbstractConnection, self._pool.make_connection())  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            for load in self._loads:
                await connection.send_packed_command(load)
                await connection.read_response()
            return _Line(connection, self._lost)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    def _take(self, line: "_Line") -> None:
        self._line, self._down = line, False
        self.made += 1
        commands, waiting = self._taken()
        self._connected()
        self._commands.extend(commands)
        self._waiting.extend(waiting)
        self._flush()
        if self._login is not None:
            asyncio.get_running_loop().call_later(LOOK_S, self._stay_signed_in, line, self._login)

    def _stay_signed_in(self, line: "_Line", login: Login) -> None:
        """Tell the server a newer password on the living connection, between the commands of calls."""
        if line.is_lost or line is not self._line:
            return
        loop = asyncio.get_running_loop()
        if given := login.newer():
            reply: asyncio.Future[Reply] = loop.create_future()
            reply.add_done_callback(partial(_heard, login))
            auth = words(b"AUTH", *(word.encode() for word in given))
            line.write([b"*%d\r\n" % (1 + len(given)) + auth], [reply])
        loop.call_later(LOOK_S, self._stay_signed_in, line, login)

    def _lost(self, line: "_Line") -> None:
        if line is self._line:
            self._line = None
            self._fail_queue("the connection to Redis was lost")
            if not self._closed:
                self._connect()

    def _drop(self) -> None:
        if self._line is not None:
            self._down = True
            self._line.abort()


class _Line(asyncio.Protocol):
    """A connection that redis-py has opened (TLS, password, database) and that we read and write from then on."""

    def __init__(self, connection: AbstractConnection, lost: "Callable[[_Line], None]") -> None:
        self._writer, connection._writer, connection._reader = connection._writer, None, None
        if self._writer is None:
            raise ConnectionResetError
        self._transport = cast(
            asyncio.Transport, self._writer.transport
        )  # which the writer closes when it is collected
        self._lost = lost
        self._said = Replies()
        self._got = self.given = 0  # bytes, since the beginning
        self.replies: deque[asyncio.Future[Reply]] = deque()  # awaited, in the order of the commands
        self.asked = self.answered = 0  # commands, since the beginning
        self.is_lost = self._transport.is_closing()
        self._transport.set_protocol(self)
        if self.is_lost:
            raise ConnectionResetError

    def write(self, commands: list[bytes], replies: list[asyncio.Future[Reply]]) -> None:
        self.replies.extend(replies)
        self.asked += len(replies)
        data = b"".join(commands)
        self.given += len(data)
        self._transport.write(data)

    def moved(self, given: int) -> int:
        """Bytes that came, and of the first `given` those that went: what is asked later may go and nobody read it."""
        return self._got + min(given, self.given - self._transport.get_write_buffer_size())

    def data_received(self, data: bytes) -> None:
        self._got += len(data)
        try:
            for said in self._said.read(data):
                reply = self.replies.popleft()
                self.answered += 1
                if not reply.done():
                    reply.set_result(said)
        except (ValueError, IndexError):  # not what Redis says, or more than was asked
            self.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._end()

    def abort(self) -> None:
        """Drop the connection at once: nothing that still comes over it is read."""
        self._transport.abort()
        self._end()

    def _end(self) -> None:
        if not self.is_lost:
            self.is_lost = True
            replies, self.replies = list(self.replies), deque()
            self._lost(self)
            _fail(replies, Unanswered("the connection to Redis was lost"))


def _too_late(reply: asyncio.Future[Reply]) -> None:
    reply.set_exception(Unanswered("Redis does not answer in time"))


def _heard(login: Login, reply: asyncio.Future[Reply]) -> None:
    """Whoever is not taken with the newer password stays signed in with the older, and is to try again."""
    if reply.exception() is not None or isinstance(reply.result(), bytes):
        login.forget()


def _fail(replies: list[asyncio.Future[Reply]], error: CountersUnavailable) -> None:
    for reply in replies:
        if not reply.done():
            reply.set_exception(error)
