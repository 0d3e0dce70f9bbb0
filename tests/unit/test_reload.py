"""What has changed, who takes it over, and in which order."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from extproc.cli import envoy_files, handover, reload
from extproc.cli.envoy_admin import Updates, Watched
from extproc.cli.envoy_files import ListenerChanges, NextFiles, NotRendered
from extproc.cli.handover import Handover, Refused
from extproc.cli.processes import State
from extproc.cli.reload import Files, Reloader
from extproc.config.changes import Takes, differences, needs_restart, takes
from extproc.config.files import read_by_envoy, read_by_workers, watched_files
from extproc.config.loader import ConfigError
from extproc.config.problems import Place, Problem, dotted
from extproc.config.revision import Revision
from extproc.config.schema import Gateway
from extproc.secrets.named import named_secrets
from extproc.supervisor import Child, Program

BASE: dict[str, Any] = {
    "backends": {
        "a": {"dialect": "openai", "url": "http://127.0.0.1:1"},
        "b": {"dialect": "openai", "url": "http://127.0.0.1:2", "credential": {"env": "KEY"}},
    },
    "models": {"m": {"targets": [[{"backend": "a"}]]}, "n": {"targets": [[{"backend": "b"}]]}},
}


def gateway(**changes: Any) -> Gateway:
    return Gateway.model_validate({**BASE, **changes})


WITH_C = gateway(backends={**BASE["backends"], "c": BASE["backends"]["a"]})


def without_b() -> Gateway:
    return gateway(backends={"a": BASE["backends"]["a"]}, models={"m": BASE["models"]["m"]})


# ---- what differs -------------------------------------------------------------------------------------


def changed(**changes: Any) -> list[str]:
    return [dotted(steps) for steps in differences(gateway(), gateway(**changes))]


def test_differences_are_as_deep_as_both_have_them() -> None:
    assert changed() == []
    assert changed(listener={"port": 1}, timeouts={"call": 7}) == ["listener.port", "timeouts.call"]
    assert changed(models={"m": {**BASE["models"]["m"], "enabled": False}}) == ["models.m.enabled", "models.n"]
    assert changed(listener={"cors": {"origins": ["*"]}}) == ["listener.cors"]
    assert changed(areas={"x": {}}) == ["areas.x"]


@pytest.mark.parametrize(
    ("changes", "concerned"),
    [
        ({}, Takes.WORKERS),
        ({"models": {**BASE["models"], "m": {**BASE["models"]["m"], "enabled": False}}}, Takes.WORKERS),
        ({"policies": {"currency": "EUR"}}, Takes.WORKERS),
        ({"cache": {"mode": "enforce", "rules": [{"models": ["m"], "ttl": "5m"}]}}, Takes.WORKERS),
        ({"models": {"m": BASE["models"]["m"]}}, Takes.ENVOY),
        ({"timeouts": {"connect": 1}}, Takes.ENVOY),
        ({"services": {"s": {"api": "openai-moderation", "url": "http://127.0.0.1:9"}}}, Takes.LISTENER),
        ({"policies": {"currency": "EUR"}, "workers": 2}, Takes.RESTART),
        ({"timeouts": {"call": 1}}, Takes.RESTART),
        ({"cache": {"size": 2**20}}, Takes.RESTART),
        ({"cache": {"key": {"env": "KEY"}}}, Takes.RESTART),
        ({"cache": {"semantic": {"model": "folder"}}}, Takes.RESTART),
        ({"stores": {"answers": "redis://host"}}, Takes.RESTART),
    ],
)
def test_whom_changes_concern(changes: dict[str, Any], concerned: Takes) -> None:
    assert takes(differences(gateway(), gateway(**changes))) is concerned


TAKEN = {"areas", "backends", "byob", "default_models", "models", "overload", "policies", "routing"}
TAKEN |= {"team_backends", "teams"}


def test_whatever_nobody_has_thought_of_takes_a_restart() -> None:
    """A new field of the configuration comes here, too: is it taken over while the gateway runs?"""
    restarts = {name for name in Gateway.model_fields if takes([(name, "inside")]) is Takes.RESTART}
    assert set(Gateway.model_fields) - restarts == {*TAKEN, "services"}


def test_a_listener_that_would_change_names_what_it_changes_by() -> None:
    service = {"services": {"s": {"api": "openai-moderation", "url": "http://127.0.0.1:9"}}}
    both = differences(gateway(), gateway(**service, routing={"attempts": 2}))
    assert needs_restart(both, listener_changes=False) == []
    assert needs_restart(both, listener_changes=True) == ["services.s"]
    unforeseen = differences(gateway(), gateway(routing={"attempts": 2}))
    assert needs_restart(unforeseen, listener_changes=True) == ["routing.attempts"]
    several = differences(gateway(), gateway(**service, workers=2, limits={"json_request": 2048}))
    assert needs_restart(several, listener_changes=True) == ["workers", "limits.json_request"]


# ---- files and revisions ------------------------------------------------------------------------------


def with_files(folder: Path) -> Gateway:
    return gateway(
        state_dir=folder / "var",
        teams=folder / "teams",
        backends={"a": {**BASE["backends"]["a"], "credential": {"file": folder / "key"}}},
        models={"m": {"targets": [[{"backend": "a"}]], "tokenizer": folder / "tokenizer.json"}},
        policies={"redaction": {"default": {"recognizers": [folder / "own.yaml"]}}},
    )


def test_the_files_of_a_configuration_are_known_by_who_reads_them(tmp_path: Path) -> None:
    named = with_files(tmp_path)
    assert {path.name for path in watched_files(named)} == {"key", "tokenizer.json", "own.yaml"}
    assert {path.name for path in read_by_workers(named)} == {"tokenizer.json", "own.yaml"}
    assert [path.name for path in read_by_envoy(named)] == ["key"]


def test_a_revision_has_another_name_when_a_file_of_the_workers_changes(tmp_path: Path) -> None:
    named = with_files(tmp_path)
    first = Revision.of(named)
    assert first == Revision.of(with_files(tmp_path))
    (tmp_path / "key").write_text("secret")
    assert Revision.of(named).name == first.name
    (tmp_path / "own.yaml").write_text("[]")
    assert Revision.of(named).name != first.name
    assert Revision.of(gateway()).name != Revision.of(gateway(workers=2)).name


def test_a_revision_is_one_line_and_comes_back_the_same() -> None:
    revision = Revision.of(gateway(identity={"accept": {"default": "key"}}))
    assert revision.line().count(b"\n") == 1
    assert Revision.model_validate_json(revision.line()) == revision


async def test_files_are_seen_when_they_are_replaced_written_linked_or_gone(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("one")
    files = Files(config)
    seen = [await files.digest()]
    files.watch(with_files(tmp_path))
    assert [await files.digest()] == seen == [""]

    async def is_new(change: Callable[[], object]) -> None:
        change()
        seen.append(await files.digest())
        assert seen.count(seen[-1]) == 1

    def swap() -> None:
        (tmp_path / "real").write_text("key")
        (tmp_path / "link").symlink_to("real")
        (tmp_path / "link").replace(tmp_path / "key")

    await is_new(lambda: config.write_text("another"))
    await is_new(lambda: (tmp_path / "key").write_text("late"))
    await is_new(swap)
    await is_new(lambda: (tmp_path / "real").write_text("longer key"))
    await is_new(lambda: config.unlink())

    for version in ("v1", "v2"):  # of a folder that Kubernetes mounts
        (tmp_path / version).mkdir()
        (tmp_path / version / "gateway.yaml").write_text("the same")
    (tmp_path / "..data").symlink_to("v1")
    await is_new(lambda: config.symlink_to("..data/gateway.yaml"))

    def swap_data() -> None:
        (tmp_path / "..data_tmp").symlink_to("v2")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")

    await is_new(swap_data)
    files.watch(gateway())
    assert str(tmp_path / "real") not in await files.digest()


# ---- looking for changes ------------------------------------------------------------------------------


class Puts:
    """Stands for what puts a configuration in force."""

    def __init__(self) -> None:
        self.revision = Revision.of(gateway())
        self.taken: list[Gateway] = []
        self.raises: Exception | None = None

    async def take(self, given: Gateway) -> bool:
        if self.raises is not None:
            raise self.raises
        self.taken.append(given)
        self.revision, before = Revision.of(given), self.revision
        return self.revision.name != before.name

    async def close(self) -> None: ...


class Sources:
    """A source whose digest a test sets, and what is loaded then."""

    def __init__(self) -> None:
        self.digest = "0"
        self.looks = 0
        self.loads = 0
        self.gateway: Gateway | Exception = gateway()

    async def look(self) -> str:
        self.looks += 1
        return self.digest

    def load(self) -> Gateway:
        self.loads += 1
        if isinstance(self.gateway, Exception):
            raise self.gateway
        return self.gateway

    async def looked(self, times: int) -> None:
        aim = self.looks + times
        async with asyncio.timeout(20):
            while self.looks < aim:
                await asyncio.sleep(0.001)


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Sources:
    monkeypatch.setattr(reload, "_LOOK_S", 0.001)
    return Sources()


@pytest.fixture
def puts() -> Puts:
    return Puts()


async def running(sources: Sources, puts: Puts, change: Callable[[], object], at_once: bool = False) -> None:
    """Run for some looks, a change, and some more."""
    task = asyncio.ensure_future(Reloader(sources.load, [sources.look], puts).run(at_once))
    await sources.looked(4)
    change()
    await sources.looked(8)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("sluice_config_reloads_total", {"outcome": outcome}) or 0


async def test_a_change_is_loaded_once_and_put_in_force(
    sources: Sources, puts: Puts, caplog: pytest.LogCaptureFixture
) -> None:
    taken = counted("taken")
    before = Revision.of(gateway())

    def change() -> None:
        assert sources.loads == 0
        sources.digest, sources.gateway = "1", gateway(routing={"attempts": 2})

    await running(sources, puts, change)
    assert (sources.loads, puts.taken) == (1, [gateway(routing={"attempts": 2})])
    assert counted("taken") == taken + 1
    assert f"the configuration {puts.revision.name} is in force, with routing.attempts" in caplog.text
    name = "sluice_config_loaded_timestamp_seconds"
    assert REGISTRY.get_sample_value(name, {"revision": puts.revision.name})
    assert REGISTRY.get_sample_value(name, {"revision": before.name}) is None


async def test_what_changed_before_the_first_look_is_loaded(sources: Sources, puts: Puts) -> None:
    await running(sources, puts, lambda: None, at_once=True)
    assert sources.loads == 1


async def test_what_is_still_being_written_is_left_alone(sources: Sources, puts: Puts) -> None:
    task = asyncio.ensure_future(Reloader(sources.load, [sources.look], puts).run(at_once=False))
    for number in range(1, 12):
        sources.digest = str(number)
        await sources.looked(1)
        assert sources.loads == 0
    await sources.looked(8)
    assert sources.loads == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


WRONG = ConfigError([Problem(Place("gateway.yaml", 3), "models.m", "is wrong"), Problem(Place("X"), "", "is empty")])


async def test_a_wrong_one_is_refused_with_every_problem(
    sources: Sources, puts: Puts, caplog: pytest.LogCaptureFixture
) -> None:
    refused = counted("refused")

    def change() -> None:
        sources.digest, sources.gateway = "1", WRONG

    await running(sources, puts, change)
    assert (sources.loads, puts.taken, counted("refused")) == (1, [], refused + 1)
    assert "gateway.yaml:3: models.m: is wrong\nX: is empty" in caplog.text


@pytest.mark.parametrize(
    ("error", "told"),
    [(Refused("needs a restart: listener.port"), "listener.port"), (KeyError("sk-secret"), "KeyError in the gateway")],
)
async def test_whatever_fails_the_next_change_is_seen(
    error: Exception, told: str, sources: Sources, puts: Puts, caplog: pytest.LogCaptureFixture
) -> None:
    puts.raises = error
    task = asyncio.ensure_future(Reloader(sources.load, [sources.look], puts).run(at_once=False))
    await sources.looked(2)
    sources.digest = "1"
    await sources.looked(6)
    puts.raises, sources.digest = None, "2"
    await sources.looked(6)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert told in caplog.text
    assert "sk-secret" not in caplog.text
    assert (sources.loads, len(puts.taken)) == (2, 1)


BROUGHT = gateway(routing={"attempts": 3})  # stands for the one in force with what teams bring now


@pytest.mark.parametrize("wrong", [WRONG, Refused("needs a restart: listener.port")])
async def test_a_file_that_is_refused_keeps_no_team_from_changing(
    wrong: Exception, sources: Sources, puts: Puts
) -> None:
    sources.gateway = wrong
    reloader = Reloader(sources.load, [], puts, lambda _: BROUGHT)
    await reloader.reload()
    await reloader.reload()
    assert (sources.loads, puts.taken, puts.revision.gateway) == (2, [BROUGHT], BROUGHT)


async def test_what_was_just_refused_is_not_tried_twice(sources: Sources, puts: Puts) -> None:
    puts.raises, sources.gateway = Refused("Envoy refuses the clusters"), BROUGHT
    refused = counted("refused")
    await Reloader(sources.load, [], puts, lambda _: BROUGHT).reload()
    assert counted("refused") == refused + 1


async def test_what_teams_bring_may_fail_to_be_read(sources: Sources, puts: Puts) -> None:
    def fails(_: Gateway) -> Gateway:
        raise RecursionError

    sources.gateway = WRONG
    refused = counted("refused")
    await Reloader(sources.load, [], puts, fails).reload()
    assert (puts.taken, counted("refused")) == ([], refused + 2)


async def test_a_source_that_fails_does_not_end_the_watch(sources: Sources, puts: Puts) -> None:
    async def fails() -> str:
        raise ValueError("embedded null byte")

    task = asyncio.ensure_future(Reloader(sources.load, [fails, sources.look], puts).run(at_once=False))
    await sources.looked(4)
    sources.digest = "1"
    await sources.looked(8)
    assert sources.loads == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_only_a_configuration_that_is_taken_over_is_told(sources: Sources, puts: Puts) -> None:
    told: list[Gateway] = []
    reloader = Reloader(sources.load, [], puts, lambda given: given, told.append)
    sources.gateway = WRONG
    await reloader.reload()
    assert told == []
    sources.gateway = BROUGHT
    await reloader.reload()
    assert told == [BROUGHT]


# ---- handing over -------------------------------------------------------------------------------------


class Worker:
    """Stands for a worker's process: says what it was told, and which older calls it has."""

    def __init__(self, state: State, number: int) -> None:
        self._file = state.worker_standing(number)
        self.handed: list[str] = []
        self.older: list[str] = []
        self.is_slow = False

    def hand(self, program: Program) -> None:
        self.handed.append(Revision.model_validate_json(program.stdin).name)
        if not self.is_slow:
            self.say(self.handed[-1])

    def say(self, serving: str) -> None:
        self._file.write_text(json.dumps({"serving": serving, "older": self.older}))


class Scene:
    """A handover between files and workers that tests look at; there is no Envoy to ask."""

    def __init__(self, folder: Path) -> None:
        self.state = State(folder)
        for name in ("envoy", "secrets", "run"):
            (folder / name).mkdir()
        self.first = Revision.of(gateway())
        self.put("clusters", self.rendered(gateway()))
        self.put("routes", "routes")
        (self.state.secrets / "other.yaml").write_text("stays")
        self.workers = [Worker(self.state, number) for number in (0, 1)]
        self.fetched: list[Gateway] = []
        self.raises: Exception | None = None
        self.handover = Handover(
            self.first, self.state, cast("Sequence[Child]", self.workers), self.programs, self.fetched.append
        )
        for worker in self.workers:
            worker.say(self.first.name)

    @staticmethod
    def rendered(*given: Gateway) -> str:
        return " ".join(sorted({name for one in given for name in one.backends}))

    @staticmethod
    def programs(revision: Revision) -> list[Program]:
        return [Program("worker", [], revision.line())] * 2

    def put(self, name: str, text: str) -> None:
        (self.state.envoy / f"{name}.yaml").write_text(text)

    def has(self, name: str) -> str:
        return (self.state.envoy / f"{name}.yaml").read_text()

    async def prepare(self, new: Gateway, older: Sequence[Gateway], _state: State) -> NextFiles:
        if self.raises is not None:
            raise self.raises
        return NextFiles(self.rendered(new, *older), self.rendered(new), "routes")

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene(tmp_path)
    monkeypatch.setattr(envoy_files, "prepare", made.prepare)
    for name in ("_LOOK_S", "_UNSEEN_S"):
        monkeypatch.setattr(handover, name, 0.001)
    yield made
    if made.handover._tidying is not None:
        made.handover._tidying.cancel()


async def test_envoy_has_both_configurations_until_no_older_call_is_left(scene: Scene) -> None:
    scene.workers[0].older = [scene.first.name]
    assert await scene.handover.take(without_b())
    new = Revision.of(without_b()).name
    assert [worker.handed for worker in scene.workers] == [[new], [new]]
    await asyncio.sleep(0.05)
    assert scene.has("clusters") == "a b"
    scene.workers[0].older = []
    scene.workers[0].say(new)
    await scene.until(lambda: scene.has("clusters") == "a")


async def test_what_workers_alone_take_leaves_envoy_alone(scene: Scene) -> None:
    scene.raises = AssertionError("rendered")
    assert await scene.handover.take(gateway(policies={"currency": "EUR"}))
    assert scene.has("clusters") == "a b"


async def test_several_changes_in_a_row_keep_what_any_of_their_calls_needs(scene: Scene) -> None:
    for worker in scene.workers:
        worker.older = [scene.first.name]
    await scene.handover.take(without_b())
    moved = {"c": BASE["backends"]["a"]}
    third = gateway(backends=moved, models={"m": {"targets": [[{"backend": "c"}]]}})
    await scene.handover.take(third)
    assert scene.has("clusters") == "a b c"
    for worker in scene.workers:
        worker.older = []
        worker.say(Revision.of(third).name)
    await scene.until(lambda: scene.has("clusters") == "c")


async def test_back_to_the_first_one_is_a_change_as_any_other(scene: Scene) -> None:
    await scene.handover.take(without_b())
    assert await scene.handover.take(gateway())
    await scene.until(lambda: scene.has("clusters") == "a b")
    assert scene.handover.revision == scene.first


async def test_the_same_configuration_is_no_change(scene: Scene) -> None:
    scene.raises = AssertionError("rendered")
    assert not await scene.handover.take(gateway())
    assert [worker.handed for worker in scene.workers] == [[], []]


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        (gateway(workers=2), None, "needs a restart: workers"),
        (gateway(routing={"attempts": 2}), ListenerChanges(), "needs a restart: routing.attempts"),
        (without_b(), NotRendered("backends.a.credential: is empty"), "backends.a.credential: is empty"),
    ],
)
async def test_what_is_refused_changes_nothing(
    given: Gateway, error: Exception | None, told: str, scene: Scene
) -> None:
    scene.raises = error
    with pytest.raises(Refused, match=told):
        await scene.handover.take(given)
    assert scene.has("clusters") == "a b"
    assert [worker.handed for worker in scene.workers] == [[], []]
    assert scene.handover.revision == scene.first


async def test_a_worker_that_is_late_is_told_and_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handover, "_WORKERS_S", 0.05)
    scene.workers[1].is_slow = True
    with caplog.at_level(logging.ERROR):
        assert await scene.handover.take(without_b())
    assert "not every worker has taken" in caplog.text
    assert scene.has("clusters") == "a b"
    scene.workers[1].say(scene.workers[1].handed[-1])
    await scene.until(lambda: scene.has("clusters") == "a")


async def test_a_call_that_never_ends_keeps_a_cluster_no_longer_than_calls_may_take(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "_MARGIN_S", -gateway().timeouts.call.total_seconds())
    for worker in scene.workers:
        worker.older = [scene.first.name]
    await scene.handover.take(without_b())
    await scene.until(lambda: scene.has("clusters") == "a")


async def test_secrets_go_with_the_clusters_that_asked_for_them(scene: Scene) -> None:
    (secret,) = [named.secret for named in named_secrets(gateway())]
    file = scene.state.secrets / f"{secret}.yaml"
    file.write_text("key")
    await scene.handover.take(without_b())
    await scene.until(lambda: not file.exists())
    assert (scene.state.secrets / "other.yaml").exists()


async def test_a_folder_that_cannot_be_written_is_told_and_later_changes_are_taken(scene: Scene) -> None:
    aside = scene.state.envoy / ".clusters.yaml.next"
    aside.mkdir()
    with pytest.raises(Refused, match=r"clusters\.yaml cannot be written"):
        await scene.handover.take(WITH_C)
    assert await scene.handover.take(without_b())  # whose clusters are there already, and cannot be taken away
    await asyncio.sleep(0.05)
    aside.rmdir()
    assert await scene.handover.take(WITH_C)
    assert scene.has("clusters") == "a b c"


# ---- what Envoy says ----------------------------------------------------------------------------------


class Envoy:
    """Counts what it was asked, and answers as a test wants."""

    def __init__(self, *answers: Updates, warming: int = 0) -> None:
        self._answers = list(answers)
        self.warming = warming

    async def updates(self, _path: Path, _what: Watched) -> Updates:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    async def clusters_are_warming(self, _path: Path) -> bool:
        self.warming -= 1
        return self.warming >= 0


def asked(envoy: Envoy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "updates", envoy.updates)
    monkeypatch.setattr(handover, "clusters_are_warming", envoy.clusters_are_warming)
    monkeypatch.setattr(handover, "_ENVOY_S", 0.2)


@pytest.mark.parametrize(
    ("envoy", "told"),
    [
        (Envoy(Updates(4, 1), Updates(4, 2)), "Envoy refuses the clusters"),
        (Envoy(Updates(4, 0)), "Envoy did not take the clusters in time"),
        (Envoy(Updates(4, 0), Updates(5, 0), warming=1_000_000), "Envoy did not take the clusters in time"),
    ],
    ids=["refused", "silent", "warming"],
)
async def test_what_envoy_does_not_take_is_put_back(
    envoy: Envoy, told: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(envoy, monkeypatch)
    with pytest.raises(Refused, match=told):
        await scene.handover.take(WITH_C)
    assert scene.has("clusters") == "a b"
    assert [worker.handed for worker in scene.workers] == [[], []]
    assert scene.fetched == [WITH_C, gateway()]


async def test_workers_wait_until_envoy_has_found_the_addresses(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    envoy = Envoy(Updates(4, 0), Updates(4, 0), Updates(5, 0), warming=3)
    asked(envoy, monkeypatch)
    assert await scene.handover.take(WITH_C)
    assert envoy.warming < 0
    assert scene.has("clusters") == "a b c"
    assert scene.fetched == [WITH_C]
