"""Many streams through one worker: `python -m loadtest.streams`.

512 streams at 20 events a second with everything that looks at their text, 2,000 at 4 events a second of which only the
usage is counted, 2,000 that say nothing, and readers that do not read. Each event tells when the backend sent it, so
that a gap which the backend made is not counted as the gateway's. Status 1 where a target is missed, 2 where nothing
was measured.
"""

import argparse
import asyncio
import gc
import itertools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import orjson
import psutil
import uvloop

from extproc.identity.keys import QUICKSTART_KEY
from extproc.interpreter import python
from loadtest import load
from loadtest.bench_budget import redis_server
from loadtest.recording import governing
from loadtest.setups import Setup, StartError, setup, start

GAP_MS = 100.0
"""Between two events, what the gateway may add to the gap that the backend made."""

_DESCRIPTORS = 16_384
_OPENING = 8  # streams that are being opened at a time
_SETTLED = 2.0  # seconds after the last stream was opened, before anything is counted
_SENT = re.compile(rb'"system_fingerprint":"t(\d+)"')
_CATCH_UP = 60  # seconds for readers that read again
_KEPT = 64  # bytes of the end of a piece that may hold the beginning of a time
_PROMPT = "Please tell ann.lee@example.com and +41 44 668 18 00 in a few words what a gateway does for the calls. "
_ALONE = 13 / 22  # of a number and the words of the prompt; the number, the address and the phone number are joined


@dataclass(frozen=True, slots=True)
class Load:
    """So many streams for so many seconds. `rate` is events a second of each; 0: it says three words and is silent.

    `looks`: redaction of the answer, with placeholders taken back. `unread`: kilobytes that each reader leaves unread.
    `alone`: share of the events that come by themselves; text that may be the beginning of a value waits for the rest.
    """

    name: str
    streams: int
    rate: float
    seconds: float
    looks: bool = False
    unread: int = 0
    alone: float = 1.0

    @property
    def due(self) -> float:
        """Events a second that come of all streams where nothing is late."""
        return self.streams * self.rate * self.alone

    @property
    def most_kib(self) -> int:
        """The most memory of an open stream, worker and Envoy."""
        return 1024 + 512 if self.unread else 256


LOADS = (
    Load("512 streams, 20 events/s, restored and redacted", 512, 20, 15, looks=True, alone=_ALONE),
    Load("2,000 streams, 4 events/s, usage only", 2000, 4, 15),
    Load("2,000 idle streams", 2000, 0, 5),
    Load("64 readers that do not read 1 MB", 64, 0, 6, unread=1024),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the readers saw. Times are of the way from the backend through the gateway, in milliseconds.

    `added`: the longest gap between two events of a stream, without what the backend's own was; `gaps`: how many were
    longer than GAP_MS. `failed`: streams that were refused, or ended before their time; `told`: what one of them got.
    """

    events: int
    per_second: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    added_ms: float
    gaps: int
    failed: int
    told: str = ""


# ---- readers -------------------------------------------------------------------------------------------


class _Reader(asyncio.Protocol):
    """One stream."""

    def __init__(self, crowd: "_Crowd") -> None:
        self._crowd = crowd
        self._tail, self._last = b"", -1.0
        self.is_open = self.is_done = self.is_lost = self._is_told = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._crowd.request())

    def data_received(self, data: bytes) -> None:
        if not self._is_told:
            self._is_told = True
            self._begun(data)
        now = time.monotonic_ns()
        data = self._tail + data
        end = 0
        for sent in _SENT.finditer(data):
            self._note((now - int(sent[1])) / 1e6)
            end = sent.end()
        self._tail = data[max(end, len(data) - _KEPT) :]
        if b"data: [DONE]" in data:
            self.is_done = True

    def _begun(self, data: bytes) -> None:
        self._crowd.opening.release()
        self.is_open = data.startswith(b"HTTP/1.1 200 ")
        if self.is_open:
            self._crowd.opened(self)
        else:
            self._crowd.told = data.decode(errors="replace")

    def _note(self, transit: float) -> None:
        if self._crowd.counts:
            self._crowd.transits.append(transit)
            if self._last >= 0:
                self._crowd.added(transit - self._last)
        self._last = transit

    def connection_lost(self, _error: Exception | None) -> None:
        if not self._is_told:
            self._crowd.opening.release()
        self.is_lost = not self._crowd.over and not self.is_done


class _Crowd:
    """All streams of a load."""

    def __init__(self, plan: Load) -> None:
        self._plan = plan
        self._asked = itertools.count(time.time_ns())  # equal calls would wait for the answer of the first
        self.transits: list[float] = []
        self.worst, self.gaps = 0.0, 0
        self.counts = self.over = False
        self.told = ""
        self.opening = asyncio.Semaphore(_OPENING)
        self.readers: list[_Reader] = []

    def request(self) -> bytes:
        return _request(self._plan, next(self._asked))

    def opened(self, reader: _Reader) -> None:
        if self._plan.unread:
            reader.transport.pause_reading()

    def added(self, gap: float) -> None:
        self.worst = max(self.worst, gap)
        self.gaps += gap > GAP_MS

    async def run(self, port: int) -> Seen:
        """Open all, count for as long as was said, and leave."""
        loop = asyncio.get_running_loop()
        for _ in range(self._plan.streams):
            await self.opening.acquire()  # to begin is not what is measured here: see loadtest.overload
            _, reader = await loop.create_connection(lambda: _Reader(self), "127.0.0.1", port)
            self.readers.append(reader)
        await asyncio.sleep(_SETTLED)
        print("open", flush=True)
        self.counts = True
        began = time.monotonic()
        await asyncio.sleep(self._plan.seconds)
        lasted = time.monotonic() - began
        print("counted", flush=True)
        sys.stdin.readline()  # until memory was looked at
        return await self._left(lasted)

    async def _left(self, lasted: float) -> Seen:
        if self._plan.unread:
            await self._read_all()
        self.over = True
        failed = sum(not reader.is_open or reader.is_lost for reader in self.readers)
        if self._plan.unread:
            failed = sum(not reader.is_done for reader in self.readers)
        for reader in self.readers:
            reader.transport.abort()
        ordered = sorted(self.transits) or [0.0]
        return Seen(
            events=len(self.transits),
            per_second=len(self.transits) / lasted,
            p50_ms=load.percentile(ordered, 50),
            p99_ms=load.percentile(ordered, 99),
            worst_ms=ordered[-1],
            added_ms=self.worst,
            gaps=self.gaps,
            failed=failed,
            told=self.told[:600],
        )

    async def _read_all(self) -> None:
        """The readers read on, and get all that they were sent."""
        self.counts = False
        for reader in self.readers:
            reader.transport.resume_reading()
        for _ in range(_CATCH_UP):
            if all(reader.is_done for reader in self.readers):
                return
            await asyncio.sleep(1)


def _request(plan: Load, number: int) -> bytes:
    asked: dict[str, Any] = {"tokens_per_second": plan.rate} if plan.rate else {"stall_after": 3}
    events = round(plan.rate * 3600) or 10
    if plan.unread:
        asked, events = {}, plan.unread * 4  # some 256 bytes each
    said = [{"role": "user", "content": f"{number} {_PROMPT}"}]
    body = orjson.dumps({"model": load.MODEL, "messages": said, "stream": True, "max_tokens": events, "x_fake": asked})
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\n"
        f"authorization: Bearer {QUICKSTART_KEY}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


# ---- the gateway ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A load and what it came to. CPU is of an event, memory of an open stream, of the worker and of Envoy."""

    load: Load
    seen: Seen
    worker_us: float
    envoy_us: float
    worker_kib: float
    envoy_kib: float
    backend_cores: float

    @property
    def missed(self) -> list[str]:
        """What of the targets was, in words."""
        found = [f"{self.seen.failed} streams failed {self.seen.told!r}"] if self.seen.failed else []
        if self.seen.per_second < 0.9 * self.load.due:
            found.append(f"{self.seen.per_second:.0f} events/s came, of {self.load.due:.0f}")
        if self.seen.gaps:
            found.append(f"{self.seen.gaps} gaps of over {GAP_MS:.0f} ms that the backend did not make")
        if self.worker_kib + self.envoy_kib > self.load.most_kib:
            found.append(f"{self.worker_kib + self.envoy_kib:.0f} KiB a stream, of {self.load.most_kib}")
        return found


def _backend(stack: ExitStack) -> tuple[psutil.Process, int]:
    child = start(stack, python("loadtest.paced_backend"), stdout=subprocess.PIPE)
    if child.stdout is None:
        raise AssertionError("a pipe was asked for")
    words = child.stdout.readline().split()
    if not words:
        raise StartError("the backend did not start")
    return psutil.Process(child.pid), int(words[-1])


def _settings(plan: Load, folder: Path, redis: str) -> dict[str, Any]:
    if plan.looks:
        return governing(folder, redis, looks=True)
    return {"timeouts": {"policy": "10s"}}  # on a busy machine all begin at once


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _memory(process: psutil.Process) -> float:
    return float(process.memory_full_info().uss) / 1024


def measured(stack: ExitStack, plan: Load, redis: str) -> Found:
    """Put one load on a gateway of its own. Raises StartError."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-streams-")))
    records = stack.enter_context((folder / "records").open("w+b"))
    backend, port = _backend(stack)
    running = setup(stack, "streams", folder / "gateway", port, records, _settings(plan, folder / "gateway", redis))
    if running.policy is None:
        raise AssertionError("a gateway has a policy")
    return _observed(plan, running, running.policy, backend)


def _observed(plan: Load, running: Setup, worker: psutil.Process, backend: psutil.Process) -> Found:
    watched = (worker, running.envoy)
    empty = [_memory(process) for process in watched]
    command = python("loadtest.streams", "--reader", json.dumps(asdict(plan)), "--port", str(running.port))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            lines = _lines(child)
            next(lines)  # open
            before, began = [_cpu(process) for process in (*watched, backend)], time.monotonic()
            next(lines)  # counted
            spent = [_cpu(process) - cpu for process, cpu in zip((*watched, backend), before, strict=True)]
            lasted = time.monotonic() - began
            full = [_memory(process) for process in watched]
            if child.stdin is not None:
                child.stdin.write(b"\n")
                child.stdin.flush()
            seen = Seen(**json.loads(next(lines)))
        finally:
            child.terminate()
    events = max(1, seen.events)
    worker_kib, envoy_kib = ((after - none) / plan.streams for after, none in zip(full, empty, strict=True))
    return Found(plan, seen, spent[0] / events * 1e6, spent[1] / events * 1e6, worker_kib, envoy_kib, spent[2] / lasted)


def _lines(child: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    """Raises StartError where the readers ended before they had told all."""
    if child.stdout is None:
        raise AssertionError("a pipe was asked for")
    yield from child.stdout
    raise StartError("the readers ended before their time")


# ---- telling -------------------------------------------------------------------------------------------

_COLUMNS = ("events/s", "p50 ms", "p99 ms", "worst ms", "added ms", "failed", "worker µs", "Envoy µs", "KiB w+E")


def text(found: Sequence[Found]) -> str:
    """The table for people."""
    width = max(len(one.load.name) for one in found)
    lines = [" " * width + "".join(f"{title:>11}" for title in _COLUMNS)]
    for one in found:
        seen = one.seen
        figures = (seen.per_second, seen.p50_ms, seen.p99_ms, seen.worst_ms, seen.added_ms, seen.failed)
        cpu = (one.worker_us, one.envoy_us) if one.load.rate else (0.0, 0.0)
        cells = "".join(f"{figure:>11.1f}" for figure in (*figures, *cpu))
        lines.append(f"{one.load.name:<{width}}{cells}{f'{one.worker_kib:.0f}+{one.envoy_kib:.0f}':>11}")
    lines.append("")
    lines += [f"  {one.load.name}: {'MISSED: ' + '; '.join(one.missed) if one.missed else 'met'}" for one in found]
    lines.append(
        f"\nOne worker, one thread of Envoy, {os.cpu_count()} cores shared by all, load {os.getloadavg()[0]:.1f}."
    )
    return "\n".join(lines)


def _plain(one: Found) -> Mapping[str, Any]:
    return {**asdict(one), "missed": one.missed}


def _descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_DESCRIPTORS, hard), hard))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.streams", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="loads whose name has this word")
    parser.add_argument("--streams", type=int, help="of each load, in place of its own number")
    parser.add_argument("--seconds", type=float, help="of each load, in place of its own")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    _descriptors()
    if options.reader:
        gc.disable()  # its own pauses would be told as the gateway's
        seen = uvloop.run(_Crowd(Load(**json.loads(options.reader))).run(options.port))
        print(json.dumps(asdict(seen)), flush=True)
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))  # unwinds, and so ends all children
    changes = {"streams": options.streams, "seconds": options.seconds}
    changes = {name: value for name, value in changes.items() if value is not None}
    plans = [replace(plan, **changes) for plan in LOADS if options.only in plan.name]
    try:
        found = [_alone(plan) for plan in plans]
    except (StartError, FileNotFoundError) as problem:
        parser.exit(2, f"{problem}\n")
    print(json.dumps([_plain(one) for one in found], indent=2) if options.json else text(found))
    sys.exit(1 if any(one.missed for one in found) else 0)


def _alone(plan: Load) -> Found:
    print(plan.name, file=sys.stderr, flush=True)
    with ExitStack() as stack:
        found = measured(stack, plan, stack.enter_context(redis_server()).url)
    print(f"  {found.seen}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
