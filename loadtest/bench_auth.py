"""What knowing the caller costs, and whether its time tells more than its answer. `python -m loadtest.bench_auth`.

Each part runs in a process of its own. The status is 1 where a target is missed. See loadtest/results/auth.md for
how to read the figures.
"""

import argparse
import asyncio
import gc
import http.client
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import uvloop

from extproc.app import tune
from extproc.enrolment import Enrolment
from extproc.headers import Headers
from extproc.identity import keys
from extproc.identity.claims import IssuerPolicy, VerifiedToken
from extproc.identity.directory import Directory
from extproc.interpreter import python
from extproc.refusals import Refused
from extproc.roster import Roster
from extproc.stages.identify import Token, identify
from extproc.stores.ports import ChangeSet
from extproc.stores.sql import Stores, open_stores
from loadtest import crowd
from loadtest.setups import ROOT, StartError, provider, setup
from loadtest.timing import THRESHOLD, Comparison, compare, interleaved

Call = tuple[Headers, Token]

_NOW = 1_800_000_000.0
_ISSUERS = {"entra": IssuerPolicy("entra", user="preferred_username")}
_SHARED = 10  # bytes that a guess has in common with a key in force: more than 20 characters
_REVOKED = 0.1  # of the keys
_CHANGED = 0.1  # of the keys, in one increment
_TICK = 0.001  # seconds
_MB = 1e6


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure: keys in the directory, samples of each kind here and over the wire, rounds."""

    keys: int
    samples: int
    wire_samples: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured; with a bound, a target."""

    name: str
    value: float
    unit: str
    note: str = ""
    bound: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool:
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound


# ---- who is looked for ----


def call(text: str) -> Call:
    """A call with a key, among the headers that an SDK sends."""
    pairs = [
        (":method", b"POST"),
        (":path", b"/v1/chat/completions"),
        ("host", b"gateway.example.com"),
        ("accept", b"application/json"),
        ("content-type", b"application/json"),
        ("user-agent", b"OpenAI/Python 2.0.0"),
        ("x-stainless-lang", b"python"),
        ("authorization", b"Bearer " + text.encode()),
        ("content-length", b"1234"),
        ("x-request-id", b"01234567-89ab-cdef-0123-456789abcdef"),
    ]
    return Headers.of(pairs), None


def token_call(number: int) -> Call:
    """A call with a token of Entra's that Envoy has verified."""
    claims = {
        **{"iss": "https://login.microsoftonline.com/t/v2.0", "aud": "api://sluice", "tid": "t", "ver": "2.0"},
        **{"sub": f"subject-{number}", "oid": f"object-{number}", "azp": "portal", "scp": "use"},
        **{"preferred_username": crowd.user(number), "iat": _NOW - 60, "exp": _NOW + 3600, "roles": ["Caller"]},
    }
    return call("e30.e30.c2ln")[0], VerifiedToken("entra", claims, {"alg": "RS256", "typ": "JWT"})


class Guesses:
    """Keys of every kind: in force, revoked, and unknown ones that look more or less like them."""

    def __init__(self, count: int, dice: random.Random) -> None:
        self._revoked = range(int(count * _REVOKED))
        self._known = range(self._revoked.stop, count)
        self._dice = dice

    def known(self) -> str:
        return crowd.key(self._dice.choice(self._known))

    def revoked(self) -> str:
        return crowd.key(self._dice.choice(self._revoked))

    def unknown(self) -> str:
        return keys.mint(self._dice.randbytes(32))

    def near(self) -> str:
        """Unknown, but it begins like a key in force, and its checksum fits."""
        known = crowd.secret(self._dice.choice(self._known))
        return keys.mint(known[:_SHARED] + self._dice.randbytes(32 - _SHARED))

    def mistyped(self) -> str:
        good = self.unknown()
        return good[:-1] + ("a" if good[-1] != "a" else "b")

    def cut(self) -> str:
        return self.unknown()[:-1]

    def directory(self) -> Directory:
        """Everybody, after the revocations: first all of them came in, then some went."""
        enrolment = Enrolment(quickstart=False)
        enrolment.take(crowd.changes(self._known.stop), _no_pause)
        return enrolment.take((crowd.key_change(number, revoked=True) for number in self._revoked), _no_pause)


def _no_pause() -> None:
    pass


@contextmanager
def _without_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# ---- the parts ----


def lookups(plan: Plan) -> list[Figure]:
    """Microseconds per call of `identify`, over calls that are all different."""
    guesses = Guesses(plan.keys, random.Random(1))
    directory = guesses.directory()
    dice = random.Random(2)
    kinds: dict[str, Callable[[], Call]] = {
        "key in force": lambda: call(guesses.known()),
        "unknown key": lambda: call(guesses.unknown()),
        "revoked key": lambda: call(guesses.revoked()),
        "unknown key that begins like one in force": lambda: call(guesses.near()),
        "mistyped key": lambda: call(guesses.mistyped()),
        "token of a user": lambda: token_call(dice.randrange(plan.keys)),
    }
    return [_lookup(name, make, directory, plan) for name, make in kinds.items()]


def _lookup(name: str, make: Callable[[], Call], directory: Directory, plan: Plan) -> Figure:
    rounds = []
    for _ in range(plan.rounds):
        calls = [make() for _ in range(max(1, plan.samples // 20))]
        with _without_collections():
            began = time.thread_time_ns()  # CPU time: others may be at work on the machine
            for headers, token in calls:
                _ask(headers, token, directory)
            rounds.append((time.thread_time_ns() - began) / len(calls) / 1e3)
    return Figure(name, statistics.median(rounds), "µs", _spread(rounds), bound=20.0)


def _ask(headers: Headers, token: Token, directory: Directory) -> None:
    try:
        identify(headers, token, directory, _ISSUERS, _NOW)
    except Refused:
        return


def memory(plan: Plan) -> list[Figure]:
    """Megabytes that the directory takes, with what is needed to change it."""
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    enrolled = _enrolled(plan.keys)
    resident = process.memory_info().rss - before
    held = len(enrolled[1].keys)
    del enrolled
    gc.collect()
    tracemalloc.start()
    enrolled = _enrolled(plan.keys)
    traced, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del enrolled
    share = 100_000 / held / _MB
    return [
        Figure("per 100,000 keys, resident", resident * share, "MB", "what the process grew by", bound=100.0),
        Figure("per 100,000 keys, allocated", traced * share, "MB", "what tracemalloc counts", bound=100.0),
    ]


def _enrolled(count: int) -> tuple[Enrolment, Directory]:
    enrolment = Enrolment(quickstart=False)
    directory = enrolment.take(crowd.changes(count), _no_pause)
    gc.collect()
    return enrolment, directory


def pauses(plan: Plan) -> list[Figure]:
    """The longest time for which the event loop of a worker does not come to its turn."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        database = f"sqlite:///{folder}/sluice.db"
        crowd.settle(database, plan.keys)
        with closing(open_stores(database)) as stores:
            return uvloop.run(_pauses(plan, stores, Path(folder)))


async def _pauses(plan: Plan, stores: Stores, folder: Path) -> list[Figure]:
    tune()
    process = psutil.Process()
    _settle_memory()
    before = process.memory_info().rss
    roster = Roster(stores.directory)
    first = await _kept_waiting(roster.refresh)
    grown = (process.memory_info().rss - before) / _MB
    keeper = Roster(stores.directory, saved=folder / "directory.jsonl")
    await asyncio.to_thread(keeper.refresh)
    saving = await _kept_waiting(keeper.keep)
    idle, swaps = [], []
    for change in _increments(plan, stores):
        await asyncio.to_thread(change)
        _settle_memory()
        idle.append(await _kept_waiting(partial(time.sleep, 1.0)))
        swaps.append(await _kept_waiting(roster.refresh))
    return [
        Figure("idle", statistics.median(wait.late for wait in idle), "ms", _spread(wait.late for wait in idle)),
        Figure(f"first load of {plan.keys:,} keys", first.ours, "ms", f"{first}, and {grown:.0f} MB"),
        Figure("the snapshot file of as many", saving.ours, "ms", str(saving)),
        Figure(
            f"{int(plan.keys * _CHANGED):,} changed keys and the swap",
            statistics.median(wait.ours for wait in swaps),
            "ms",
            f"{_spread(wait.ours for wait in swaps)}; {sorted(swaps, key=lambda wait: wait.ours)[len(swaps) // 2]}",
            bound=5.0,
        ),
    ]


def _settle_memory() -> None:
    gc.collect()
    gc.freeze()


def _increments(plan: Plan, stores: Stores) -> Iterator[Callable[[], object]]:
    """Keys come in one round and are revoked in the next, so that all rounds find as many."""
    directory, many = stores.directory, int(plan.keys * _CHANGED)
    for number in range(plan.rounds):
        if number % 2 == 0:
            start = plan.keys + number * many
            changes = ChangeSet(keys_minted=crowd.minted(range(start, start + many)))
        else:
            newest = [key.id for key in directory.state().keys if key.revoked_at is None][-many:]
            changes = ChangeSet(keys_revoked=tuple(newest))
        yield partial(directory.apply, changes, directory.revision())


@dataclass(frozen=True, slots=True)
class Wait:
    """How long the loop's ticks were kept waiting at most, in ms, while some work was done in a thread.

    `ours` is how long the thread was at work meanwhile: the rest is other processes'. `took` is in seconds.
    """

    late: float
    ours: float
    took: float

    def __str__(self) -> str:
        return f"late by {self.late:.1f} ms, took {self.took:.2f} s"


async def _kept_waiting(work: Callable[[], object]) -> Wait:
    clocks: list[int] = []

    def clocked() -> None:
        clocks.append(time.pthread_getcpuclockid(threading.get_ident()))
        work()

    began = last = time.perf_counter()
    working = asyncio.ensure_future(asyncio.to_thread(clocked))
    late = ours = worked = 0.0
    while not working.done():
        await asyncio.sleep(_TICK)
        now = time.perf_counter()
        work_done = time.clock_gettime(clocks[0]) if clocks else worked
        overdue = now - last - _TICK
        late, ours = max(late, overdue), max(ours, min(overdue, work_done - worked if worked else 0.0))
        last, worked = now, work_done
    await working
    return Wait(late * 1e3, ours * 1e3, time.perf_counter() - began)


def timing(plan: Plan) -> list[Figure]:
    """Whether what is refused can be told apart by the time that it takes."""
    dice = random.Random(3)
    guesses = Guesses(plan.keys, dice)
    directory = guesses.directory()

    def timed(one: Call) -> int:
        began = time.perf_counter_ns()
        _ask(*one, directory)
        return time.perf_counter_ns() - began

    with _without_collections():
        samples = interleaved(_refused(guesses), call, timed, plan.samples, dice)
    return _pairs(samples)


def _refused(guesses: Guesses) -> dict[str, Callable[[], str]]:
    return {
        "unknown": guesses.unknown,
        "revoked": guesses.revoked,
        "begins like one in force": guesses.near,
        "cut off": guesses.cut,
    }


def _pairs(samples: Mapping[str, Sequence[int]]) -> list[Figure]:
    """Every pair of what must not be told apart; and one that can be, which shows that the test sees something."""
    alike = ("unknown", "revoked", "begins like one in force")
    figures = [
        _told_apart(f"{one} / {other}", compare(samples[one], samples[other]), bound=THRESHOLD)
        for number, one in enumerate(alike)
        for other in alike[number + 1 :]
    ]
    sanity = compare(samples["unknown"], samples["cut off"])
    return [*figures, _told_apart("unknown / cut off, to see a difference", sanity, bound=THRESHOLD, at_least=True)]


def _told_apart(name: str, found: Comparison, bound: float | None = None, at_least: bool = False) -> Figure:
    verdict = "distinguishable" if found.distinguishable else "not distinguishable"
    seen = f"sees from {found.resolution:,.0f} ns"
    note = f"d {found.d:+.4f}, medians {found.medians:+,.0f} ns apart, {seen}: {verdict}"
    return Figure(name, abs(found.t), "|t|", note, bound, at_least)


def wire(plan: Plan) -> list[Figure]:
    """The same through Envoy and a worker, on one connection, as a guesser beside the gateway would see it."""
    dice = random.Random(4)
    count = 2_000
    guesses = Guesses(count, dice)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench-"))) / "C"
        crowd.settle(f"sqlite:///{folder}/sluice.db", count)
        records = stack.enter_context(tempfile.TemporaryFile())
        running = setup(stack, "C", folder, provider(stack)[1], records)
        connection = stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", running.port)))
        _revoke(f"sqlite:///{folder}/sluice.db", int(count * _REVOKED))
        while _status(connection, guesses.revoked()) != http.HTTPStatus.UNAUTHORIZED:
            time.sleep(0.1)  # the worker reads the database every two seconds

        def timed(text: str) -> int:
            began = time.perf_counter_ns()
            status = _status(connection, text)
            took = time.perf_counter_ns() - began
            if status != http.HTTPStatus.UNAUTHORIZED:
                raise StartError(f"a key that must be refused was answered with {status}")
            return took

        alike = {name: make for name, make in _refused(guesses).items() if name != "cut off"}
        samples = interleaved(alike, str, timed, plan.wire_samples, dice, batch=100)
    first, *others = samples
    return [
        _told_apart(f"{first} / {other}", compare(samples[first], samples[other]), bound=THRESHOLD) for other in others
    ]


def _revoke(database: str, count: int) -> None:
    revoked = {f"key-{number}" for number in range(count)}
    with closing(open_stores(database)) as stores:
        state = stores.directory.state()
        ids = tuple(key.id for key in state.keys if key.spec.name in revoked)
        stores.directory.apply(ChangeSet(keys_revoked=ids), state.revision)


def _status(connection: http.client.HTTPConnection, text: str) -> int:
    connection.request("GET", "/v1/me", headers={"authorization": f"Bearer {text}"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


# ---- the report ----

PARTS: dict[str, Callable[[Plan], list[Figure]]] = {
    "lookups": lookups,
    "memory": memory,
    "pauses": pauses,
    "timing": timing,
    "wire": wire,
}
TITLES = {
    "lookups": "One call of identify(), in a directory of {keys:,} keys in 2,000 teams",
    "memory": "Memory of the directory",
    "pauses": "How late an event loop that ticks every ms gets while a thread refreshes or saves the directory",
    "timing": "Time of identify() for what is refused, {samples:,} samples each",
    "wire": "Time of a refused call through Envoy and a worker, {wire_samples:,} samples each",
}


def _spread(values: Iterable[float]) -> str:
    ordered = sorted(values)
    return f"{ordered[0]:.2f}..{ordered[-1]:.2f}"


def line(figure: Figure) -> str:
    """One figure for people."""
    text = f"{figure.name:<45} {figure.value:8.2f} {figure.unit:<3} ({figure.note})"
    if figure.bound is None:
        return text
    sign, verdict = ">=" if figure.at_least else "<=", "met" if figure.met else "MISSED"
    return f"{text}, target {sign} {figure.bound:g}: {verdict}"


def run(part: str, plan: Plan) -> list[Figure]:
    """One part in a process of its own, where nothing of another is in memory. Raises StartError."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(plan).items()]
    command = python("loadtest.bench_auth", "--only", part, "--inside", "--json", *options)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise StartError(f"the part {part} did not come to its end")
    return figures_of(json.loads(done.stdout)[part])


def figures_of(told: Sequence[Mapping[str, Any]]) -> list[Figure]:
    return [Figure(**{name: value for name, value in one.items() if name != "met"}) for one in told]


def plain(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """For machines."""
    return [{**asdict(figure), "met": figure.met} for figure in figures]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench_auth", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--keys", type=int, default=100_000, help="keys in the directory (100000)")
    parser.add_argument("--samples", type=int, default=100_000, help="of each kind of refused key (100000)")
    parser.add_argument("--wire-samples", type=int, default=4_000, help="of each kind, over the wire (4000)")
    parser.add_argument("--rounds", type=int, default=6, help="of the lookups and the swaps (6)")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be repeated (all)")
    parser.add_argument("--json", action="store_true", help="the report for machines")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # the part runs in this process
    options = parser.parse_args()
    plan = Plan(options.keys, options.samples, options.wire_samples, options.rounds)
    found: dict[str, list[Figure]] = {}
    try:
        for part in options.only or PARTS:
            found[part] = PARTS[part](plan) if options.inside else run(part, plan)
            if not options.json:
                print(TITLES[part].format(**asdict(plan)), *map(line, found[part]), sep="\n  ", end="\n\n", flush=True)
    except StartError as problem:
        parser.exit(1, f"{problem}\n")
    if options.json:
        print(json.dumps({part: plain(figures) for part, figures in found.items()}, indent=2))
    missed = not all(figure.met for figures in found.values() for figure in figures)
    sys.exit(missed and not options.inside)


if __name__ == "__main__":
    main()
