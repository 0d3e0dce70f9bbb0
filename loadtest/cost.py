"""What a call costs a worker, without Envoy and without a socket: `python -m loadtest.cost`.

A whole worker is made as `sluice serve` makes it, with all policies on, but its server is one that tells it what Envoy
once told, see `loadtest.recording`, as often as is wanted, and drops what it answers. In turns with it the null policy
is told the same. The CPU time of the process is what counts, and of it the ratio: gRPC has no part in either, so that
figures are higher than those of `loadtest.bench`, and tell sooner that something got dearer.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import uvloop

from extproc.adapter.access_log import AccessLog
from extproc.adapter.translator import translate
from extproc.app import run_worker
from extproc.cli import processes, running
from extproc.config.revision import Revision
from loadtest import load, recording
from loadtest.bench_budget import redis_server
from loadtest.null_extproc import Nowhere, Null
from loadtest.recording import Recorded
from loadtest.setups import BACKEND, settings
from protos.access_log_pb2 import StreamAccessLogsMessage
from protos.ext_proc_pb2 import ProcessingRequest

_ID = 36  # characters of a request id
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")  # as Envoy tells when a call began
_MEMORY = "memory://"


class CostError(Exception):
    """The worker did not answer as it should, so that its cost says nothing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`calls` of each kind, by the null policy and by the worker in turns, `rounds` times.

    `spent`: what has been spent so far, nanoseconds of CPU; or thousandths of what else is to be counted, each for
    itself. `rest`: seconds after the calls of a round in which what they left behind is done, and counted with them.
    """

    rounds: int = 9
    calls: int = 300
    concurrency: int = 16
    spent: Callable[[], tuple[int, ...]] = lambda: (time.process_time_ns(),)
    rest: float = 0


@dataclass(slots=True)
class Cost:
    """Microseconds of CPU that a call took in each round. `more`: where more is counted than that, by the governed."""

    null: list[float] = field(default_factory=list)
    governed: list[float] = field(default_factory=list)
    more: list[tuple[float, ...]] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The median of the rounds' own ratios."""
        return statistics.median(one / other for one, other in zip(self.governed, self.null, strict=True))


class _Stream:
    """As grpc.aio's servicer context: the messages of one call are read, replies are counted and dropped."""

    __slots__ = ("_left", "_metadata", "_read", "aborted", "replies")

    def __init__(self, messages: Sequence[bytes], read: Callable[[bytes], Any], metadata: Any = ()) -> None:
        self._left = iter(messages)
        self._read = read
        self._metadata = metadata
        self.replies = 0
        self.aborted = False

    async def read(self) -> Any:
        await asyncio.sleep(0)  # as a message that is yet to come
        message = next(self._left, None)
        return grpc.aio.EOF if message is None else self._read(message)

    async def write(self, _message: bytes) -> None:
        self.replies += 1

    async def abort(self, _code: object, _details: str) -> None:
        self.aborted = True

    def invocation_metadata(self) -> Any:
        return self._metadata


class _Calls:
    """Calls of one kind, no two of which are the same, and which Envoy has begun just now."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self._made = 0

    def one(self) -> Recorded:
        self._made += 1
        request_id, word = b"%0*d" % (_ID, self._made), load.word(self._made)
        old_id, now = self._recorded.request_id.encode(), datetime.now(UTC).isoformat(timespec="microseconds").encode()

        def one_anew(message: bytes) -> bytes:
            return _TIME.sub(now, message.replace(old_id, request_id).replace(load.WORD, word, 1))

        def anew(messages: Sequence[bytes]) -> list[bytes]:
            return [one_anew(message) for message in messages]

        told = self._recorded
        return Recorded(request_id.decode(), anew(told.call), anew(told.logs), anew(told.attempt), told.metadata)


class _Policy:
    """Who is told of the calls."""

    def __init__(self, processor: Any, access_log: AccessLog) -> None:
        self._processor = processor
        self._access_log = access_log

    async def serve(self, told: Recorded) -> None:
        """One call, from its first message to Envoy's records of it. Raises CostError."""
        stream = _Stream(told.call, ProcessingRequest.FromString)
        await self._processor.process(None, stream)
        if stream.aborted or stream.replies < len(told.call):
            raise CostError(f"{stream.replies} replies to {len(told.call)} messages")
        if told.attempt:
            await self._attempt(told)
        await self._access_log._read(_Stream(told.logs, StreamAccessLogsMessage.FromString))

    async def _attempt(self, told: Recorded) -> None:
        await translate(None, _Stream(told.attempt, ProcessingRequest.FromString, told.metadata))


class _NullPolicy(_Policy):
    async def _attempt(self, told: Recorded) -> None:
        """Reads it, as it reads the others, and answers nothing."""
        stream = _Stream(told.attempt, ProcessingRequest.FromString)
        while await stream.read() is not grpc.aio.EOF:
            await stream.write(b"")


async def _cost(policy: _Policy, calls: Sequence[Recorded], plan: Plan) -> list[float]:
    """What is spent on a call, in thousands: of nanoseconds, microseconds."""
    left = iter(calls)

    async def serve() -> None:
        for told in left:
            await policy.serve(told)

    began = plan.spent()
    async with asyncio.TaskGroup() as group:
        for _ in range(plan.concurrency):
            group.create_task(serve())
    if plan.rest:
        await asyncio.sleep(plan.rest)
    return [(spent - before) / 1000 / len(calls) for spent, before in zip(plan.spent(), began, strict=True)]


async def measure(plan: Plan, governed: _Policy, kinds: Sequence[str]) -> dict[str, Cost]:
    """What each kind costs, round by round."""
    null = _NullPolicy(Null(BACKEND), AccessLog(Nowhere()))
    recorded = recording.read()
    calls = {kind: _Calls(recorded[kind]) for kind in kinds}
    costs = {kind: Cost() for kind in kinds}
    for number in range(-1, plan.rounds):
        for kind, cost in costs.items():
            for policy, found in ((null, cost.null), (governed, cost.governed)):
                took, *more = await _cost(policy, [calls[kind].one() for _ in range(plan.calls)], plan)
                if number >= 0:  # the first round fills what is kept
                    found.append(took)
                    if more and policy is governed:
                        cost.more.append(tuple(more))
    return costs


class _Measuring:
    """In the place of a worker's server: measures once all else is up, and ends the worker."""

    def __init__(
        self,
        plan: Plan,
        kinds: Sequence[str],
        into: dict[str, Any],
        _socket: str,
        processor: Any,
        log: AccessLog,
        **_: Any,
    ) -> None:
        self._plan, self._kinds, self._into = plan, kinds, into
        self._policy = _Policy(processor, log)

    async def start(self) -> None:
        try:
            self._into.update(await measure(self._plan, self._policy, self._kinds))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    async def stop(self, _grace: float, _notice: float = 0) -> None:
        """There is nothing to end."""


@contextmanager
def _silent() -> Iterator[None]:
    """Without the records that a worker writes to its standard output."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def run(
    plan: Plan,
    kinds: Sequence[str] = tuple(recording.KINDS),
    redis: bool = False,
    loop: Callable[[], uvloop.Loop] = uvloop.new_event_loop,
) -> dict[str, Cost]:
    """What a call of each kind costs. `redis`: with a redis-server, in the place of the worker's memory."""
    found: dict[str, Cost] = {}
    for looks in (False, True):
        those = [kind for kind in kinds if recording.KINDS[kind].looks == looks]
        if those:
            _by_one(plan, those, looks, redis, loop, found)
    return found


def _by_one(
    plan: Plan, kinds: Sequence[str], looks: bool, redis: bool, loop: Callable[[], uvloop.Loop], into: dict[str, Cost]
) -> None:
    """By one worker, with the policies that calls of these kinds have."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-cost-")))
        stores = stack.enter_context(redis_server()).url if redis else _MEMORY
        gateway = settings(1, 2, folder, recording.governing(folder, stores, looks))
        state = processes.state_of(gateway)
        running.prepare(gateway, state)
        stack.enter_context(_silent())
        serves: Any = partial(_Measuring, plan, kinds, into)
        revision, socket = Revision.of(gateway), str(state.worker_socket(0))
        uvloop.run(run_worker(revision, socket, True, asyncio.Queue(), serves=serves), loop_factory=loop)


def _report(costs: Mapping[str, Cost]) -> dict[str, Any]:
    return {kind: {**asdict(cost), "ratio": cost.ratio} for kind, cost in costs.items()}


def _table(costs: Mapping[str, Cost]) -> str:
    lines = [f"{'':12}{'null µs':>10}{'governed µs':>13}{'ratio':>8}   lowest..highest"]
    for kind, cost in costs.items():
        ratios = sorted(one / other for one, other in zip(cost.governed, cost.null, strict=True))
        null, governed = statistics.median(cost.null), statistics.median(cost.governed)
        lines.append(f"{kind:12}{null:10.0f}{governed:13.0f}{cost.ratio:8.2f}   {ratios[0]:.2f}..{ratios[-1]:.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.cost", description=(__doc__ or "").partition("\n")[0])
    usual = Plan()
    parser.add_argument("--rounds", type=int, default=usual.rounds)
    parser.add_argument("--calls", type=int, default=usual.calls, help="of each kind in a round")
    parser.add_argument("--kinds", nargs="+", choices=list(recording.KINDS), default=list(recording.KINDS))
    parser.add_argument("--redis", action="store_true", help="with a redis-server in the place of the worker's memory")
    parser.add_argument("--json", action="store_true", help="the report for machines")
    options = parser.parse_args()
    found = run(Plan(options.rounds, options.calls), options.kinds, options.redis)
    print(json.dumps(_report(found), indent=2) if options.json else _table(found))


if __name__ == "__main__":
    main()
