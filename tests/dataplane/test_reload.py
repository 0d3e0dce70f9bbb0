"""A configuration that changes on disk while the gateway runs: in force at once, or refused as a whole."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from extproc.cli import processes
from extproc.cli.processes import State
from tests.support.fake import FakeProvider
from tests.support.gateway import ROOT, RunningGateway, until

CHAT = "/v1/chat/completions"
PATIENCE = 90.0  # seconds, on a busy machine; nothing is asserted about time
Settings = dict[str, Any]


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("a", "b", "c") as running:
        yield running


class Reloading:
    """A gateway with two workers, whose settings a test may change."""

    def __init__(self, gateway: RunningGateway, provider: FakeProvider) -> None:
        self.gateway = gateway
        self.provider = provider
        self.secret = gateway.folder / "secret-a"
        until(lambda: "sluice_config_loaded_timestamp_seconds{" in gateway.metrics(), PATIENCE, "the first revision")
        self.at_first = self.loaded()

    def settings(self, **changes: Any) -> Settings:
        """Those it started with, and what is changed."""
        return {**self.gateway.settings, **changes}

    def write(self, settings: Settings) -> None:
        """As an editor does that never leaves half a file."""
        aside = self.gateway.folder / "next.yaml"
        with aside.open("w") as file:
            YAML().dump(settings, file)
        aside.replace(self.gateway.config)

    def take(self, settings: Settings) -> None:
        """Write, and wait until it is in force in every worker."""
        before = self.loaded()
        self.write(settings)
        self.until_loaded(lambda: self.loaded() != before)

    def until_loaded(self, condition: Callable[[], bool]) -> None:
        until(condition, PATIENCE, f"the configuration:\n{self.said()}")
        assert set(self.revisions()) == {self.loaded()}

    def refuse(self, settings: Settings) -> str:
        """Write, and wait until it is refused; what was said of it."""
        before, lines = self.refused(), len(self.said().splitlines())
        self.write(settings)
        until(lambda: self.refused() > before, PATIENCE, "the refusal")
        until(lambda: len(self.said().splitlines()) > lines + 1, what="the reason")
        return "\n".join(self.said().splitlines()[lines:])

    def loaded(self) -> str:
        """The revision that is in force."""
        (revision,) = re.findall(r'sluice_config_loaded_timestamp_seconds{revision="(\w+)"}', self.gateway.metrics())
        return str(revision)

    def refused(self) -> int:
        found = re.findall(r'sluice_config_reloads_total{outcome="refused"} (\d+)', self.gateway.metrics())
        return int(found[0]) if found else 0

    def said(self) -> str:
        return "\n".join(str(line.get("text", "")).rstrip("\n") for line in self.gateway.records("log"))

    def chat(self, model: str = "m", **more: Any) -> httpx.Response:
        with self.gateway.client() as client:
            return client.post(CHAT, json=chat(model, **more))

    def served_by(self, count: int = 1, model: str = "m") -> Counter[str]:
        """Which backend served each of some calls, all of which succeed."""
        self.provider.reset()
        assert [self.chat(model).status_code for _ in range(count)] == [200] * count
        return Counter({name: len(calls) for name in "abc" if (calls := self.provider.calls(name))})

    def revisions(self) -> list[str]:
        """That each worker serves."""
        standings = sorted((self.gateway.folder / "var/run").glob("*.standing"))
        return [json.loads(file.read_text())["serving"] for file in standings]


def chat(model: str = "m", **more: Any) -> Settings:
    return {"model": model, "messages": [{"role": "user", "content": "Hello!"}], **more}


def backend(provider: FakeProvider, name: str, **more: Any) -> Settings:
    return {"dialect": "openai", "url": provider.url(name), **more}


def served(*names: str, **more: Any) -> Settings:
    """A model with all targets in one group."""
    return {"targets": [[{"backend": name} for name in names]], **more}


def weighed(**weights: int) -> Settings:
    return {"targets": [[{"backend": name, "weight": weight} for name, weight in weights.items()]]}


@pytest.fixture(scope="module")
def running(provider: FakeProvider) -> Iterator[Reloading]:
    gateway = RunningGateway({"workers": 2}, {"SECRET_B": "key-b"})
    secret = gateway.folder / "secret-a"
    secret.write_text("key-a\n")
    gateway.settings |= {
        "backends": {
            "a": backend(provider, "a", credential={"file": str(secret)}),
            "b": backend(provider, "b", credential={"env": "SECRET_B"}),
        },
        "models": {"m": weighed(a=1, b=0), "other": served("b")},
    }
    with gateway.config.open("w") as file:
        YAML().dump(gateway.settings, file)
    with gateway:
        yield Reloading(gateway, provider)


@pytest.fixture
def gateway(running: Reloading) -> Iterator[Reloading]:
    """The shared gateway, with what it started with in force before and after the test."""
    running.provider.reset()
    yield running
    running.write(running.settings())
    running.until_loaded(lambda: running.loaded() == running.at_first)


def test_a_backend_that_is_added_is_used_as_soon_as_its_credential_is_there(gateway: Reloading) -> None:
    late = gateway.gateway.folder / "late"
    added = backend(gateway.provider, "c", credential={"file": str(late)})
    three = {**gateway.gateway.settings["backends"], "c": added}
    settings = gateway.settings(backends=three, models={"m": weighed(a=1, b=0), "new": served("c")})
    assert "backends.c.credential: the file" in gateway.refuse(settings)
    assert gateway.chat("new").status_code == 404
    assert gateway.served_by() == {"a": 1}
    late.write_text("late-key")
    gateway.until_loaded(lambda: gateway.loaded() != gateway.at_first)
    assert gateway.served_by(4, "new") == {"c": 4}
    assert all(["authorization", "Bearer late-key"] in call["headers"] for call in gateway.provider.calls("c"))
    assert gateway.served_by(2) == {"a": 2}
    assert gateway.chat("other").status_code == 404


def test_a_model_is_switched_off_and_on(gateway: Reloading) -> None:
    off = {**weighed(a=1, b=0), "enabled": False}
    gateway.take(gateway.settings(models={"m": off, "other": served("b")}))
    assert [gateway.chat().status_code for _ in range(4)] == [404] * 4
    gateway.take(gateway.settings())
    assert gateway.served_by(4) == {"a": 4}


def test_a_weight_changes(gateway: Reloading) -> None:
    gateway.take(gateway.settings(models={"m": weighed(a=0, b=1), "other": served("b")}))
    assert gateway.served_by(6) == {"b": 6}


def renamed_model(gateway: Reloading) -> Settings:
    """What workers alone take, and what a call can tell."""
    return gateway.settings(models={"m": weighed(a=1, b=0), "other": served("b", aliases=["new"])})


def test_a_record_names_the_configuration_of_its_call(gateway: Reloading) -> None:
    gateway.take(renamed_model(gateway))
    record = gateway.gateway.record(gateway.chat().headers["x-request-id"])
    assert record["config"] == gateway.loaded() != gateway.at_first


# ---- live streams -------------------------------------------------------------------------------------


class Held:
    """A stream that has begun, and goes on when the provider is told to."""

    def __init__(self, gateway: Reloading, model: str) -> None:
        self._client = gateway.gateway.client()
        body = chat(model, stream=True, x_fake={"events": 20, "held": 5})
        self._answer = self._client.send(self._client.build_request("POST", CHAT, json=body), stream=True)
        assert self._answer.status_code == 200
        self._pieces = self._answer.iter_bytes()
        self._begun = next(self._pieces)

    def rest(self) -> bytes:
        try:
            return self._begun + b"".join(self._pieces)
        finally:
            self._client.close()


def test_live_streams_of_backends_that_are_removed_or_moved_end_whole(gateway: Reloading) -> None:
    """The cluster of one that moved is replaced; the connections of the old one end with what runs on them."""
    clusters, secrets = gateway.gateway.folder / "var/envoy/clusters.yaml", gateway.gateway.folder / "var/secrets"
    of_a, of_b = Held(gateway, "m"), Held(gateway, "other")
    moved = backend(gateway.provider, "c", credential={"env": "SECRET_B"})
    gateway.take(gateway.settings(backends={"a": moved}, models={"m": served("a")}))
    assert gateway.chat("other").status_code == 404
    assert gateway.served_by(2) == {"c": 2}
    assert all(["authorization", "Bearer key-b"] in call["headers"] for call in gateway.provider.calls("c"))
    assert "backend_b" in clusters.read_text()
    for held, name in ((of_a, "a"), (of_b, "b")):
        gateway.provider.release(name)
        assert held.rest().endswith(b"data: [DONE]\n\n")
    until(lambda: "backend_b" not in clusters.read_text(), what="the cluster to go")
    until(lambda: len([*secrets.glob("backend_*")]) == 1, what="the secrets to go")
    assert gateway.served_by() == {"c": 1}


# ---- credentials --------------------------------------------------------------------------------------


def credential(gateway: Reloading) -> str:
    """Which one the next call carries."""
    gateway.provider.reset()
    assert gateway.chat().status_code == 200
    (call,) = gateway.provider.calls("a")
    return str(dict(call["headers"])["authorization"]).removeprefix("Bearer ")


def renamed(file: Path, text: str) -> None:
    aside = file.with_name("next-secret")
    aside.write_text(text)
    aside.replace(file)


def test_a_credential_file_is_replaced(gateway: Reloading) -> None:
    renamed(gateway.secret, "key-of-tomorrow\n")
    until(lambda: credential(gateway) == "key-of-tomorrow", PATIENCE, f"the key:\n{gateway.said()}")
    renamed(gateway.secret, "key-a\n")
    until(lambda: credential(gateway) == "key-a", PATIENCE, "the first key")


def mounted(file: Path, version: str, text: str) -> None:
    """As Kubernetes puts a Secret there: the file is a link through `..data`, and a rename swaps that."""
    folder = file.parent / "mount"
    (folder / version).mkdir(parents=True)
    (folder / version / file.name).write_text(text)
    (folder / "..data_tmp").symlink_to(version)
    (folder / "..data_tmp").replace(folder / "..data")
    if not file.is_symlink():
        file.with_name("link").symlink_to(f"mount/..data/{file.name}")
        file.with_name("link").replace(file)


def test_a_secret_that_kubernetes_swaps_is_used_and_a_bad_one_refused(gateway: Reloading) -> None:
    mounted(gateway.secret, "..v1", "key-of-v1")
    until(lambda: credential(gateway) == "key-of-v1", PATIENCE, f"the key:\n{gateway.said()}")
    before = gateway.refused()
    mounted(gateway.secret, "..v2", "two words\n")
    until(lambda: gateway.refused() > before, PATIENCE, "the refusal")
    until(lambda: "backends.a.credential: the file" in gateway.said(), what="the reason")
    assert "two words" not in gateway.said()
    assert credential(gateway) == "key-of-v1"
    mounted(gateway.secret, "..v3", "key-of-v3\n")
    until(lambda: credential(gateway) == "key-of-v3", PATIENCE, f"the key:\n{gateway.said()}")
    renamed(gateway.secret, "key-a\n")
    until(lambda: credential(gateway) == "key-a", PATIENCE, "the first key")


# ---- refused ------------------------------------------------------------------------------------------


def test_a_bad_configuration_is_refused_whole_and_the_old_one_goes_on(gateway: Reloading) -> None:
    said = gateway.refuse(gateway.settings(models={"m": {**served("b"), "tiers": 7}, "new": served("b")}))
    assert "The changed configuration is refused" in said
    assert f"{gateway.gateway.config}:" in said
    assert "models.m.tiers" in said
    assert gateway.chat("new").status_code == 404
    assert gateway.served_by(2) == {"a": 2}
    assert set(gateway.revisions()) == {gateway.at_first}


RESTARTS: dict[str, Settings] = {
    "listener.port": {"listener": {"port": 1234}},
    "workers": {"workers": 3},
    "timeouts.call": {"timeouts": {"call": "1m"}},
    "services.judge": {"services": {"judge": {"api": "openai-moderation", "url": "http://127.0.0.1:9"}}},
}


@pytest.mark.parametrize("field", RESTARTS)
def test_what_takes_a_restart_is_refused_by_name(gateway: Reloading, field: str) -> None:
    changed = {name: _merged(gateway.gateway.settings.get(name), value) for name, value in RESTARTS[field].items()}
    said = gateway.refuse({**renamed_model(gateway), **changed})
    assert f"needs a restart: {field}" in said
    assert gateway.chat("new").status_code == 404
    assert gateway.served_by() == {"a": 1}


def _merged(old: Any, new: Any) -> Any:
    return {**old, **new} if isinstance(old, dict) else new


def test_a_policy_that_cannot_be_carried_out_is_refused(gateway: Reloading) -> None:
    said = gateway.refuse(gateway.settings(policies={"redaction": {"default": {"entities": {"NO_SUCH": "mask"}}}}))
    assert "policies.redaction.default.entities" in said
    assert gateway.served_by() == {"a": 1}


def test_a_file_that_is_not_there_any_more_is_refused(gateway: Reloading) -> None:
    before = gateway.refused()
    gateway.gateway.config.unlink()
    until(lambda: gateway.refused() > before, PATIENCE, "the refusal")
    assert gateway.served_by() == {"a": 1}


# ---- how it comes and who takes it --------------------------------------------------------------------


def test_a_folder_that_kubernetes_swaps_is_seen(gateway: Reloading) -> None:
    """A mounted ConfigMap: the file is a link through `..data`, which is renamed over."""
    folder = gateway.gateway.folder
    for name, settings in {"v1": gateway.settings(), "v2": renamed_model(gateway)}.items():
        (folder / name).mkdir()
        with (folder / name / "gateway.yaml").open("w") as file:
            YAML().dump(settings, file)
    (folder / "..data").symlink_to("v1")
    (folder / "link").symlink_to("..data/gateway.yaml")
    (folder / "link").replace(gateway.gateway.config)
    assert gateway.chat("new").status_code == 404
    (folder / "..data_tmp").symlink_to("v2")
    (folder / "..data_tmp").replace(folder / "..data")
    gateway.until_loaded(lambda: gateway.loaded() != gateway.at_first)
    assert gateway.served_by(4, "new") == {"b": 4}


def test_a_worker_that_dies_comes_up_with_the_newest(gateway: Reloading) -> None:
    gateway.take(renamed_model(gateway))
    workers = gateway.gateway.processes("extproc.worker")
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
    until(lambda: _all_new(gateway, [worker.pid for worker in workers]), PATIENCE, "both workers")
    assert gateway.served_by(6, "new") == {"b": 6}


def _all_new(gateway: Reloading, dead: list[int]) -> bool:
    pids = [worker.pid for worker in gateway.gateway.processes("extproc.worker")]
    is_well = gateway.gateway.envoy_stat("cluster.extproc.membership_healthy") == 2
    return len(pids) == 2 and not set(pids) & set(dead) and is_well


def test_a_policy_is_in_force(gateway: Reloading) -> None:
    gateway.take(gateway.settings(policies={"redaction": {"default": {"entities": {"EMAIL_ADDRESS": "mask"}}}}))
    body = chat(messages=[{"role": "user", "content": "Write to ann@example.com"}])
    with gateway.gateway.client() as client:
        assert client.post(CHAT, json=body).status_code == 200
    (call,) = gateway.provider.calls("a")
    assert "ann@example.com" not in json.dumps(call)


# ---- under load ---------------------------------------------------------------------------------------


STREAM = {"events": 30, "tokens_per_second": 15}


class Load:
    """Callers with a pause of 0.1 s, and streams that follow each other, until told to stop."""

    def __init__(self, gateway: Reloading, callers: int, streams: int) -> None:
        self._port = gateway.gateway.port
        self._key = gateway.gateway.key
        self._callers = callers
        self._streams = streams
        self._stopping = asyncio.Event()
        self.served = Counter[str]()
        self.failed: list[str] = []

    async def run(self) -> None:
        streaming = [self._again("stream", 0, stream=True, x_fake=STREAM) for _ in range(self._streams)]
        calling = [self._again("json", 0.1, x_fake={"delay_ms": 20}) for _ in range(self._callers)]
        await asyncio.gather(*streaming, *calling)

    def stop(self) -> None:
        self._stopping.set()

    async def _again(self, kind: str, pause: float, **more: Any) -> None:
        while not self._stopping.is_set():
            await self._once(kind, chat(**more))
            await asyncio.sleep(pause)

    async def _once(self, kind: str, body: Settings) -> None:
        try:
            answer = await asyncio.wait_for(self._answer(json.dumps(body).encode()), 60)
        except (OSError, TimeoutError) as error:
            self.failed.append(f"{kind}: {type(error).__name__}")
            return
        end = b"data: [DONE]" if kind == "stream" else b'"usage"'
        if answer.startswith(b"HTTP/1.1 200 ") and end in answer:
            self.served[kind] += 1
        else:
            self.failed.append(f"{kind}: {answer[:300]!r}")

    async def _answer(self, body: bytes) -> bytes:
        """All that comes on a connection of its own."""
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {self._key}\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(head.encode() + body)
            return await reader.read()
        finally:
            writer.close()


@pytest.mark.timeout(300)
async def test_under_load_a_backend_is_added_a_key_rotated_and_a_backend_removed(gateway: Reloading) -> None:
    provider = gateway.provider
    two = gateway.gateway.settings["backends"]
    three = {**two, "c": backend(provider, "c")}
    await asyncio.to_thread(gateway.take, gateway.settings(models={"m": served("a", "b")}))
    load = Load(gateway, callers=14, streams=10)
    running = asyncio.ensure_future(load.run())
    await _seen(lambda: len(provider.calls("b")) > 10, "calls at b")
    await asyncio.to_thread(gateway.take, gateway.settings(backends=three, models={"m": served("a", "b", "c")}))
    await _seen(lambda: len(provider.calls("c")) > 10, "calls at c")
    renamed(gateway.secret, "rotated")
    await _seen(lambda: "Bearer rotated" in _keys(provider, "a"), "the new key")
    del three["b"]
    await asyncio.to_thread(gateway.take, gateway.settings(backends=three, models={"m": served("a", "c")}))
    clusters = gateway.gateway.folder / "var/envoy/clusters.yaml"
    await _seen(lambda: "backend_b" not in clusters.read_text(), "the cluster to go")
    before = len(provider.calls("b"))
    await asyncio.sleep(1)
    load.stop()
    await running
    renamed(gateway.secret, "key-a\n")
    assert load.failed == []
    assert load.served["json"] > 100
    assert load.served["stream"] >= 10
    assert len(provider.calls("b")) == before
    assert _keys(provider, "a") == {"Bearer key-a", "Bearer rotated"}
    assert (_keys(provider, "b"), _keys(provider, "c")) == ({"Bearer key-b"}, {""})


def _keys(provider: FakeProvider, name: str) -> set[str]:
    return {dict(call["headers"]).get("authorization", "") for call in provider.calls(name)}


async def _seen(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(until, condition, PATIENCE, what)


# ---- beside an Envoy of its own -----------------------------------------------------------------------


@contextmanager
def process(*command: str, environ: Mapping[str, str]) -> Iterator[None]:
    running = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environ}, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        running.terminate()
        running.wait(60)


def test_serve_writes_envoys_files_and_has_it_take_changes(provider: FakeProvider) -> None:
    provider.reset()
    gateway = RunningGateway({"backends": {"a": backend(provider, "a")}, "models": {"m": served("a")}})
    state = State(gateway.folder / "var")
    serve = (sys.executable, "-m", "extproc.cli", "serve", "--config", str(gateway.config))
    with contextlib.closing(gateway.client()) as client, process(*serve, environ={"KEY": "key-c"}):
        until(lambda: (state.envoy / "bootstrap.yaml").exists(), PATIENCE, "Envoy's files")
        until(lambda: state.worker_standing(0).exists(), PATIENCE, "the worker")
        with process(*processes.envoy(state).argv, environ={}):
            until(lambda: _status(client) == 200, PATIENCE, "a call")
            moved = {"a": backend(provider, "c", credential={"env": "KEY"})}
            with gateway.config.open("w") as file:
                YAML().dump({**gateway.settings, "backends": moved}, file)
            until(lambda: _status(client) == 200 and provider.calls("c"), PATIENCE, "a call at the new address")
    assert _keys(provider, "c") == {"Bearer key-c"}


def _status(client: httpx.Client) -> int:
    try:
        return client.post(CHAT, json=chat()).status_code
    except httpx.HTTPError:
        return 0
