"""Real child processes: started, read, started again, and always ended."""

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from extproc.cli import processes
from extproc.config.revision import Revision
from extproc.config.schema import Gateway
from extproc.interpreter import python
from extproc.supervisor import Child, Program, wait_until

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    yield
    gc.collect()  # a pipe that is still open fails this test, not a later one


class Output:
    """The lines that a child printed, and the ids of its runs that ended."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, bytes]] = []
        self.ended: list[int] = []

    def line(self, name: str, line: bytes) -> None:
        self.lines.append((name, line))

    @property
    def texts(self) -> list[bytes]:
        return [line for _, line in self.lines]


def program(code: str, restart: bool = False, stdin: bytes = b"", **environ: str) -> Program:
    return Program("child", [sys.executable, "-S", "-c", code], stdin, environ, restart)


@asynccontextmanager
async def child(of: Program, output: Output) -> AsyncIterator[Child]:
    """A running child that is ended whatever the test does."""
    running = Child(of, output.line, output.ended.append)
    try:
        yield running
    finally:
        pid = running.pid
        await running.stop(5)
        if pid is not None and psutil.pid_exists(pid):
            psutil.Process(pid).kill()
            pytest.fail("a process is left behind")


async def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


async def test_its_input_its_environment_and_its_lines() -> None:
    code = "import os, sys; print(sys.stdin.read(), os.environ['COLOUR']); print('odd', file=sys.stderr)"
    output = Output()
    async with child(program(code, stdin=b"given", COLOUR="red"), output) as running:
        await until(running.gone.is_set, "its end")
    assert sorted(output.lines) == [("child", b"given red"), ("child", b"odd")]
    assert output.ended == [running.pid]


SECRET_NAMES = ("SLUICE__STORES__DATABASE", "DB_PASSWORD", "KEY_OF_SWE", "SIGNING_KEY", "AWS_SECRET_ACCESS_KEY")
PLAIN_NAMES = ("PATH", "HOME", "LANG", "LC_CTYPE", "TMPDIR", "TZ", "SSL_CERT_FILE")
GATEWAY = Gateway.model_validate(
    {
        "identity": {"signing_key": {"env": "SIGNING_KEY"}},
        "backends": {"swe": {"dialect": "openai", "url": "https://swe.example", "credential": {"env": "KEY_OF_SWE"}}},
        "models": {"m": {"targets": [[{"backend": "swe"}]]}},
    }
)


async def _has(of: Program, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Which of our variables a child has that may have what this program may."""
    for name in (*SECRET_NAMES, *PLAIN_NAMES):
        monkeypatch.setenv(name, "C.UTF-8")
    output = Output()
    told = program("import os; print(*os.environ)")
    async with child(replace(told, may_have=of.may_have), output) as running:
        await until(running.gone.is_set, "its end")
    return {name.decode() for line in output.texts for name in line.split()} & {*SECRET_NAMES, *PLAIN_NAMES}


async def test_what_does_not_read_our_settings_has_none_of_our_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for of in (processes.envoy(processes.State(tmp_path)), processes.fake_backend(1)):
        assert await _has(of, monkeypatch) == set(PLAIN_NAMES), of.name


async def test_a_worker_has_all_but_the_providers_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (worker,) = processes.workers(Revision.of(GATEWAY), processes.State(tmp_path), as_json=False)
    assert await _has(worker, monkeypatch) == {*PLAIN_NAMES, *SECRET_NAMES} - {"KEY_OF_SWE"}


async def test_a_last_line_without_an_end_is_told_too() -> None:
    output = Output()
    async with child(program("import sys; sys.stdout.write('a\\n\\nlast')"), output) as running:
        await until(running.gone.is_set, "its end")
    assert output.texts == [b"a", b"", b"last"]


async def test_a_child_that_dies_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    output = Output()
    async with child(
        program("import os; print(os.getpid(), flush=True); os._exit(3)", restart=True), output
    ) as running:
        await until(lambda: len(output.ended) >= 3, "three runs")
        assert not running.gone.is_set()
    assert [int(line) for line in output.texts[:3]] == output.ended[:3]
    assert len(set(output.ended)) == len(output.ended)
    assert "child ended with status 3; starting it again" in caplog.text


async def test_a_killed_child_is_started_again() -> None:
    output = Output()
    async with child(program(SLEEPER, restart=True), output) as running:
        await until(lambda: output.texts == [b"up"], "the first run")
        first = running.pid
        assert first is not None
        psutil.Process(first).kill()
        await until(lambda: output.texts == [b"up", b"up"], "the second run")
        assert running.pid != first
        assert output.ended == [first]


async def test_a_child_that_is_not_to_be_started_again_is_gone() -> None:
    output = Output()
    async with child(program("pass"), output) as running:
        await until(running.gone.is_set, "its end")
    assert len(output.ended) == 1


async def test_stopping_ends_it_with_sigterm_and_does_not_start_it_again() -> None:
    output = Output()
    async with child(program(SLEEPER, restart=True), output) as running:
        await until(lambda: output.texts, "its start")
        await running.stop(20)
        assert running.gone.is_set()
        assert len(output.ended) == 1


async def test_what_does_not_end_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    output = Output()
    async with child(program(STUBBORN, restart=True), output) as running:
        await until(lambda: output.texts, "its start")
        await running.stop(0.2)
        assert len(output.ended) == 1
    assert "child did not end in time and is killed" in caplog.text


async def test_it_is_ended_by_the_signal_that_it_takes_for_that(caplog: pytest.LogCaptureFixture) -> None:
    output = Output()
    async with child(program(STUBBORN, restart=True), output) as running:
        await until(lambda: output.texts, "its start")
        await running.stop(20, signal.SIGUSR1)
        assert len(output.ended) == 1
    assert "is killed" not in caplog.text


async def test_stopping_before_it_has_begun_ends_at_once() -> None:
    running = Child(program(SLEEPER), Output().line)
    async with asyncio.timeout(20):
        await running.stop(60)
    assert running.pid is None


async def test_stopping_while_it_is_being_started_leaves_nothing_behind() -> None:
    before = set(psutil.Process().children())
    running = Child(program(SLEEPER), Output().line)
    await asyncio.sleep(0)  # its first step has been made: the program is on its way
    async with asyncio.timeout(20):
        await running.stop(60)
    await until(lambda: set(psutil.Process().children()) == before, "the program to end")


async def test_stopping_between_two_runs_ends_it() -> None:
    output = Output()
    async with child(program("pass", restart=True), output) as running:
        await until(lambda: len(output.ended) >= 4, "a long pause")
        async with asyncio.timeout(20):
            await running.stop(60)
        runs = len(output.ended)
        await asyncio.sleep(0.05)
        assert len(output.ended) == runs


async def test_a_child_has_a_session_of_its_own() -> None:
    output = Output()
    async with child(program(SLEEPER), output) as running:
        await until(lambda: output.texts, "its start")
        assert running.pid is not None
        assert os.getsid(running.pid) == running.pid, "or a Ctrl-C would reach it, too"


async def test_a_program_that_is_not_there_is_told_and_gone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        async with child(Program("child", ["/nonexistent/envoy"], restart=False), Output()) as running:
            await until(running.gone.is_set, "it to give up")
    assert "child" in caplog.text
    assert "/nonexistent/envoy" in caplog.text


async def test_an_endless_line_does_not_end_the_supervision() -> None:
    code = "print('x' * 3_000_000); print('after', flush=True); import time; time.sleep(60)"
    output = Output()
    async with child(program(code), output) as running:
        await until(lambda: b"after" in output.texts or running.gone.is_set(), "the next line")
        assert not running.gone.is_set(), "it still runs"


async def test_a_line_that_cannot_be_told_does_not_end_the_supervision() -> None:
    class Closed(Output):
        """A terminal that is gone."""

        def line(self, name: str, line: bytes) -> None:
            super().line(name, line)
            raise BrokenPipeError

    output = Closed()
    code = "import time\nwhile True: print('line', flush=True); time.sleep(0.01)"
    async with child(program(code), output) as running:
        await until(lambda: len(output.lines) > 2 or running.gone.is_set(), "the next line")
        assert not running.gone.is_set(), "it still runs"


# ---- handing more to one that listens --------------------------------------------------------------

ECHO = "import sys\nfor line in sys.stdin: print('got', line.strip(), flush=True)"


def listening(text: bytes) -> Program:
    return replace(program(ECHO, restart=True, stdin=text), listens=True)


async def test_one_that_listens_gets_more_and_so_does_its_next_run() -> None:
    output = Output()
    async with child(listening(b"one\n"), output) as running:
        await until(lambda: output.texts == [b"got one"], "the first line")
        running.hand(listening(b"two\n"))
        await until(lambda: output.texts == [b"got one", b"got two"], "the second line")
        assert running.pid is not None
        psutil.Process(running.pid).kill()
        await until(lambda: output.texts[2:] == [b"got two"], "the second line again")


async def test_what_is_handed_between_two_runs_is_not_lost() -> None:
    output = Output()
    dies = replace(program("import os; os._exit(3)", restart=True), listens=True)
    async with child(dies, output) as running:
        await until(lambda: len(output.ended) >= 3, "a pause")
        running.hand(listening(b"one\n"))
        await until(lambda: output.texts == [b"got one"], "the line")


# ---- waiting ----------------------------------------------------------------------------------------


async def test_waiting_ends_with_the_first_yes() -> None:
    answers = iter([False, False, True])

    async def ready() -> bool:
        return next(answers)

    assert await wait_until(ready, [], 20)


async def _never() -> bool:
    return False


async def test_waiting_ends_when_time_is_up() -> None:
    assert not await wait_until(_never, [], 0.01)


async def test_waiting_ends_when_a_child_has_gone() -> None:
    async with child(program("pass"), Output()) as running:
        async with asyncio.timeout(20):
            assert not await wait_until(_never, [running], 600)


def test_our_own_modules_run_under_this_python() -> None:
    assert python("extproc.worker", "a", "b") == [sys.executable, "-m", "extproc.worker", "a", "b"]
