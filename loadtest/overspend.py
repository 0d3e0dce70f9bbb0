"""Whether a crowd can overspend a budget over whole gateways. `python -m loadtest.overspend`

Two crowds. One is all alike: a budget for so many of them, all at one time, and the provider answers when every call
has been decided, so that nothing is given back meanwhile; who was refused must not have fitted. The other is unruly,
at a provider that counts with another tokenizer, thinks in hiding and ignores caps: what was overspent must be what
the provider made of its own accord, and must be in the records by its cause. The status is 1 where it is not.
"""

import argparse
import asyncio
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import redis
from ruamel.yaml import YAML

from extproc.interpreter import python
from loadtest.bench_budget import redis_server
from loadtest.budgets import AMOUNTS, UNRULY, Verdict, crowd_of, judge, model_of, settings, unruly_crowd
from loadtest.setups import StartError, free_port, is_ready, provider, start
from loadtest.spenders import Crowd, Told, spent_at

_PATIENCE_S = 60.0

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setup:
    """Gateways of so many workers each, and so many callers at one time."""

    workers: int
    gateways: int
    callers: int


class Site:
    """Running gateways on one Redis, and the provider behind them."""

    def __init__(self, stack: ExitStack, counters: str, setup: Setup) -> None:
        self._setup = setup
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-")))
        _, port = provider(stack)
        self._provider = f"http://127.0.0.1:{port}"
        self._outputs: list[Path] = []
        given = settings(self._provider, counters, setup.workers, rounds=1)
        self._urls = [self._start(stack, folder / str(number), given) for number in range(setup.gateways)]

    def _start(self, stack: ExitStack, folder: Path, given: Json) -> str:
        """Raises StartError."""
        folder.mkdir()
        port, output = free_port(), folder / "records"
        places = {
            "listener": {"address": "127.0.0.1", "port": port},
            "metrics": {"port": free_port()},
            "state_dir": str(folder / "var"),
            "keys": {"quickstart": True},
            "stores": {**given["stores"], "database": f"sqlite:///{folder}/sluice.db"},
        }
        with (folder / "gateway.yaml").open("w") as file:
            YAML().dump({**given, **places}, file)
        records = stack.enter_context(output.open("wb"))
        command = python("extproc.cli", "up", "--json", "--config", str(folder / "gateway.yaml"))
        child = start(stack, command, stdout=records, stderr=subprocess.STDOUT)
        if not is_ready(port, child):
            raise StartError(f"a gateway did not start:\n{output.read_text()}")
        self._outputs.append(output)
        return f"http://127.0.0.1:{port}"

    async def alike(self, measure: str) -> Verdict:
        crowd = Crowd(self._urls)
        told = await crowd.ask_at_once(crowd_of(measure, 0, self._setup.callers), self._provider)
        return self._judged(measure, AMOUNTS[measure], told, [model_of(measure, 0)])

    async def unruly(self) -> list[Verdict]:
        told = await Crowd(self._urls).ask(unruly_crowd(0, self._setup.callers), self._setup.callers)
        models = ["unruly-0", "unruly-0-claude"]
        return [self._judged(measure, amount, told, models) for measure, amount in UNRULY.items()]

    def _judged(self, measure: str, amount: int, told: Sequence[Told], models: Sequence[str]) -> Verdict:
        counted = spent_at(httpx.get(f"{self._provider}/_fake/totals", trust_env=False).json())
        spent = [counted[model] for model in models if model in counted]
        return judge(measure, amount, told, spent, self._records(told))

    def _records(self, told: Sequence[Told]) -> dict[str, Json]:
        """The records of these calls, waited for. Raises StartError where some never come."""
        wanted = {one.request_id for one in told}
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            lines = [line for output in self._outputs for line in output.read_bytes().splitlines() if b'"call"' in line]
            found = {record["request_id"]: record for record in map(orjson.loads, lines)}
            if wanted <= found.keys():
                return found
            time.sleep(0.2)
        raise StartError("a gateway has not told of all its calls")


def measure(counters: str, setup: Setup) -> list[tuple[str, Verdict]]:
    """All crowds at one setup, on an empty Redis at this URL. Each verdict with the kind of its crowd."""
    with ExitStack() as stack:
        site = Site(stack, counters, setup)
        found = [("alike", asyncio.run(site.alike(of))) for of in AMOUNTS]
        return found + [("unruly", verdict) for verdict in asyncio.run(site.unruly())]


def missed(kind: str, verdict: Verdict) -> str:
    """What is wrong with a verdict, "" where nothing is."""
    if kind == "alike" and not (verdict.exact and verdict.overspent == 0):
        return f"{verdict.measure}: the budget was not shared out exactly"
    if kind == "unruly" and not verdict.explained:
        return f"{verdict.measure}: more was overspent than the provider caused"
    return ""


COLUMNS = ("workers", "gateways", "callers", "crowd", "measure", "budget", "admitted", "refused", "failed", "overspent")


def row(setup: Setup, kind: str, verdict: Verdict) -> str:
    """A line of the table under `COLUMNS`; what the provider caused stands behind it."""
    words = [setup.workers, setup.gateways, setup.callers, kind, verdict.measure, verdict.amount]
    words += [verdict.admitted, verdict.refused, verdict.failed, verdict.overspent]
    causes = ", ".join(f"{cause} {tokens}" for cause, tokens in sorted(verdict.causes.items()))
    return _columns(words) + (f"  caused: {causes}" if causes else "")


def _columns(words: Sequence[object]) -> str:
    return "".join(f"{word!s:>{len(name) + 3}}" for word, name in zip(words, COLUMNS, strict=True))


def run(counters: Callable[[], str], setups: Sequence[Setup]) -> list[str]:
    """Print the table, and return what missed its target. `counters` gives the URL of an empty Redis."""
    print(_columns(COLUMNS))
    problems = []
    for setup in setups:
        for kind, verdict in measure(counters(), setup):
            print(row(setup, kind, verdict), flush=True)
            problems += [problem] if (problem := missed(kind, verdict)) else []
    return problems


SETUPS = tuple(
    Setup(workers, gateways, callers)
    for workers, gateways in ((1, 1), (2, 1), (4, 1), (2, 2))
    for callers in (100, 200)
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.overspend", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "redis", nargs="?", help="URL of a Redis server whose contents may be thrown away; absent: one is started"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda received, _: sys.exit(128 + received))  # unwinds, and so ends all children

    with ExitStack() as stack:
        url = options.redis or stack.enter_context(redis_server()).url

        def emptied() -> str:
            with closing(redis.Redis.from_url(url)) as client:
                client.flushall()
            return url

        problems = run(emptied, SETUPS)
    parser.exit(1 if problems else 0, "".join(f"MISSED: {problem}\n" for problem in problems))


if __name__ == "__main__":
    main()
