"""`sluice drain`: have a gateway that runs here let its calls end, before its processes are told to.

The gateway says at once that it is not ready, serves what still comes, and asks each client to connect anew, elsewhere.
When load balancers have had time to notice, Envoy takes no new connections, and live calls may end. On a connection
that is there already, and on which nothing ran, one more call may begin: it is served like the others, until none is
live, or half of their time is over; then workers refuse it at its head, as it would be cut. Streams that have not
ended when all of their time is over get an error as their last event. Each step is taken once, whoever asks for it:
whoever comes second waits for the first.
"""

import asyncio
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import typer

from extproc.cli.envoy_admin import discourage, is_live, live_calls, stop_listening
from extproc.cli.processes import State, state_of
from extproc.cli.settings import ConfigOption, configuration, fail, is_loopback
from extproc.config.schema import Gateway
from extproc.presence import have_closed

_NOTICE = timedelta(seconds=5)
_LOOK_S = 0.1
_ANEW_S = 1.0
_CLOSE_S = 5.0  # for all workers to see that they shall let in nobody
_WORD_S = 3.0  # for streams to end by a last word, whose clients leave then
_TOLD_S = 2.0  # between two words on how many calls still run

Tell = Callable[[str], None]


class Times(NamedTuple):
    """In seconds: for load balancers to notice, and for live calls to end."""

    notice: float
    drain: float


def times_of(gateway: Gateway) -> Times:
    """As configured. Nobody but this machine's own programs is in front of a listener on loopback."""
    notice, drain = gateway.timeouts.notice, gateway.timeouts.drain
    if notice is None:
        notice = timedelta() if is_loopback(gateway.listener.address) else _NOTICE
    return Times(notice.total_seconds(), drain.total_seconds())


def remember(gateway: Gateway, state: State) -> None:
    """Leave word of the times, so that a file that is wrong by then, or newer, does not matter."""
    state.drain_times.write_text(json.dumps(times_of(gateway)._asdict()), encoding="utf-8")


def drain(config: ConfigOption = None) -> None:
    """Have the gateway that runs here let its calls end, as the hook of a pod that is about to be stopped does.

    Readiness fails at once; after `timeouts.notice` Envoy takes no new connections; live calls may end for up to
    `timeouts.drain`. The gateway's processes go on until they are told to end. Exit code 0 when all that is over, also
    where some calls would not end, or no Envoy is there; 1 where no gateway runs here.

    [bold]Examples[/bold]

      sluice drain --config gateway.yaml

      SLUICE__STATE_DIR=/run/sluice sluice drain
    """
    state = _state(config)
    try:
        times = Times(**json.loads(state.drain_times.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        fail(f"No gateway runs in the folder {state.root}: name its configuration with --config.")
    asyncio.run(drained(state, times, lambda line: typer.echo(line, err=True)))


def _state(config: Path | None) -> State:
    """By the environment alone where that says it all: the file may have become wrong."""
    folder = os.environ.get("SLUICE__STATE_DIR")
    return State(Path(folder).resolve()) if folder else state_of(configuration(config, opens_stores=False))


async def drained(state: State, times: Times, tell: Tell) -> bool:
    """Drain as said above. Whether none of the calls is left.

    Where no Envoy answers there is none: whoever may not open its admin socket cannot drain it.
    """
    async with _alone(state):
        if state.drained.exists():
            tell("The gateway has been drained.")
            return True
        state.draining.touch()
        left = await _let_end(state, times, tell)
        state.drained.touch()
    return left == 0


async def _let_end(state: State, times: Times, tell: Tell) -> int:
    """How many calls are left in the end. An Envoy that is late to answer gets no more time than others."""
    admin = state.admin_socket
    end = time.monotonic() + times.notice + times.drain
    if await _said(discourage, admin, end) is False:
        tell("No Envoy is there to be drained.")
        return 0
    if times.notice:
        tell(f"Not ready from now on; what comes within {times.notice:g} s is served.")
        await asyncio.sleep(times.notice)
    last = end - times.drain / 2
    if await _said(stop_listening, admin, last) is None:
        tell("Envoy does not say that it takes no new connections. Its calls may end all the same.")
    else:
        tell(f"No new connections; live calls may end, for up to {times.drain:g} s.")
    await _ended(admin, last, tell)
    await _close(state, tell)
    left = await _ended(admin, end, tell)
    if left:
        tell(f"The time of live calls is over, and {left} run. Streams among them are told to come again.")
        state.over.touch()
        left = await _ended(admin, time.monotonic() + _WORD_S, tell)
    tell("No call is left." if left == 0 else f"Live calls that did not end in time: {left}. They end with Envoy.")
    return left


async def _said(word: Callable[[Path], Awaitable[bool | None]], admin: Path, deadline: float) -> bool | None:
    """Say it to Envoy until it answers, and once in any case."""
    heard = await word(admin)
    while heard is None and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_S)
        heard = await word(admin)
    return heard


async def _close(state: State, tell: Tell) -> None:
    """Have the workers let in nobody any more, and wait until all have seen it: those that begin then are refused."""
    state.closed.touch()
    files = [*state.presences()]
    deadline = time.monotonic() + _CLOSE_S
    while not have_closed(files, state.closed):
        if time.monotonic() > deadline:
            tell("Not all workers say that they let no new call in.")
            break
        await asyncio.sleep(_LOOK_S)


async def _ended(admin: Path, deadline: float, tell: Tell) -> int:
    """Wait until no call is left; the number of those that are left when time is up."""
    told, next_word = -1, time.monotonic() + _TOLD_S
    left = await live_calls(admin)
    while left != 0 and time.monotonic() < deadline:
        if left is not None and left != told and time.monotonic() > next_word:
            tell(f"Live calls: {left}.")
            told, next_word = left, time.monotonic() + _TOLD_S
        await asyncio.sleep(_LOOK_S)
        left = await live_calls(admin)
    return 1 if left is None else left


async def kept(state: State, times: Times, tell: Tell) -> None:
    """For ever: finish a drain that an earlier run of ours had begun, and forget one when another Envoy has come.

    A container that hangs is drained and started again alone. Its pod is of use again when its Envoy has been, too.
    """
    if state.draining.exists():
        await drained(state, times, tell)
    while True:
        await asyncio.sleep(_ANEW_S)
        if state.drained.exists() and await asyncio.to_thread(is_live, state.admin_socket):
            readied(state)


def readied(state: State) -> None:
    """Be ready again. Workers may look in between: nobody is let in whose stream would be broken off."""
    for mark in (state.draining, state.over, state.closed, state.drained):
        mark.unlink(missing_ok=True)


@asynccontextmanager
async def _alone(state: State) -> AsyncIterator[None]:
    """Wait for whoever drains this gateway already."""
    lock = os.open(state.root / "run" / "drain.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
