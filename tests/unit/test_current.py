"""A worker's configuration: compiled beside the calls, swapped whole, told in a file."""

import asyncio
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from extproc import worker
from extproc.config.revision import Revision
from extproc.config.schema import Gateway
from extproc.current import Current
from extproc.screening.ner import LocalModel


class Models:
    """Stands for the models of names."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.loading = asyncio.Event()
        self.loading.set()

    async def add(self, models: Mapping[str, LocalModel]) -> None:
        self.there |= set(models)
        await self.loading.wait()

    async def keep(self, models: Collection[str]) -> None:
        self.there &= set(models)


def revision(**changes: Any) -> Revision:
    tree = {
        "backends": {"a": {"dialect": "openai", "url": "http://127.0.0.1:1"}},
        "models": {"m": {"targets": [[{"backend": "a"}]]}},
        **changes,
    }
    return Revision.of(Gateway.model_validate(tree))


def redacting(**more: Any) -> dict[str, Any]:
    return {"redaction": {"default": {"entities": {"EMAIL_ADDRESS": "mask"}, **more}}}


def naming(model: str) -> dict[str, Any]:
    return redacting(names={"model": model, "entities": ["PERSON"]})


def nothing(_gateway: Gateway) -> None:
    """Configures nothing else."""


@pytest.fixture
def current(tmp_path: Path) -> Current:
    return Current(revision(policies=redacting()), tmp_path / "worker-0.standing")


async def test_a_newer_one_is_swapped_in_whole(current: Current) -> None:
    before, newer = current.catalogue, revision(routing={"attempts": 2}, policies=redacting())
    told: list[tuple[Gateway, object]] = []
    await current.take(newer, Models(), lambda gateway: told.append((gateway, current.catalogue)))
    assert told == [(newer.gateway, before)], "what knows the backends is told before a call is decided"
    assert (current.catalogue.attempts, current.catalogue.revision) == (2, newer.name)
    assert before.attempts == 5


async def test_policies_that_are_the_same_stay_as_they_are(current: Current) -> None:
    profile = current.catalogue.redaction["default"]
    await current.take(revision(routing={"attempts": 2}, policies=redacting()), Models(), nothing)
    assert current.catalogue.redaction["default"] is profile
    await current.take(revision(policies=redacting(max_text=7_000)), Models(), nothing)
    assert current.catalogue.redaction["default"] is not profile


async def test_policies_are_compiled_again_when_a_file_of_theirs_changes(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(recognizer("one"))
    policies = redacting(recognizers=[own])
    current = Current(revision(policies=policies), tmp_path / "worker-0.standing")
    profile = current.catalogue.redaction["default"]
    own.write_text(recognizer("another"))
    await current.take(revision(policies=policies), Models(), nothing)
    assert current.catalogue.redaction["default"] is not profile


def recognizer(word: str) -> str:
    return json.dumps({"recognizers": [{"name": "Own", "supported_entity": "OWN", "deny_list": [word]}]})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def standing(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


async def test_it_tells_what_it_serves_and_what_older_calls_began_with(current: Current, tmp_path: Path) -> None:
    file, first, in_flight = tmp_path / "worker-0.standing", current.catalogue.revision, list[str]()
    telling = asyncio.ensure_future(current.tell(lambda: in_flight, Models()))
    await until(lambda: standing(file) == {"serving": first, "older": []})
    in_flight += [first]
    newer = revision(routing={"attempts": 2})
    await current.take(newer, Models(), nothing)
    await until(lambda: standing(file) == {"serving": newer.name, "older": [first]})
    in_flight[:] = [newer.name]
    await until(lambda: standing(file) == {"serving": newer.name, "older": []})
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)


async def test_a_model_goes_when_no_older_call_needs_it_and_not_while_one_comes(current: Current) -> None:
    models, in_flight = Models(), [current.catalogue.revision]
    await current.take(revision(policies=naming("one")), models, nothing)
    telling = asyncio.ensure_future(current.tell(lambda: in_flight, models))
    models.loading.clear()
    taking = asyncio.ensure_future(current.take(revision(policies=naming("two")), models, nothing))
    await until(lambda: models.there == {"one", "two"})
    in_flight[:] = []
    await asyncio.sleep(0.3)
    assert models.there == {"one", "two"}
    models.loading.set()
    await taking
    await until(lambda: models.there == {"two"})
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)


async def test_what_cannot_be_compiled_is_told_and_the_next_one_is_taken(
    current: Current, caplog: pytest.LogCaptureFixture
) -> None:
    handed: asyncio.Queue[Revision] = asyncio.Queue()
    following = asyncio.ensure_future(current.follow(handed, Models(), nothing))
    wrong = revision(policies={"redaction": {"default": {"entities": {"NO_SUCH": "mask"}}}})
    handed.put_nowait(wrong)
    await until(lambda: f"the configuration {wrong.name} cannot be served" in caplog.text)
    handed.put_nowait(revision(routing={"attempts": 3}))
    handed.put_nowait(revision(routing={"attempts": 2}))
    await until(lambda: current.catalogue.attempts == 2)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


@pytest.mark.parametrize("piece", [1, 3, 4, 100])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_lines_come_whole_however_they_are_read(piece: int, end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_PIECE", piece)
    reads, writes = os.pipe()
    os.write(writes, b"one\ntwo\nthree" + end)
    os.close(writes)
    assert list(worker.lines(reads)) == [b"one", b"two", b"three"]
    os.close(reads)
