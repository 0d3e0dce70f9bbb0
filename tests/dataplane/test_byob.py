"""Backends that teams bring: by `sluice apply` into a running gateway, for the team alone, all policies applied."""

import json
import sqlite3
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from extproc import dataplane
from extproc.cli import app
from extproc.config.backends import Backend, Cooling
from extproc.config.byob import Byob, OwnBackend, TeamBackends, troubles
from extproc.config.schema import Gateway
from tests.dataplane.conftest import SECRETS, standard_settings
from tests.support.fake import FakeProvider
from tests.support.gateway import FORGIVING, RunningGateway, until

Json = dict[str, Any]

CHAT = "/v1/chat/completions"
PROMISE = 60.0
"""Seconds within which a change is in force: several times what a machine takes that does nothing else."""
EMAIL = "zoe.miller@example.com"
OWN = {
    f"SLUICE_TEAM_{name.upper()}_OURS": f"secret-of-{name}"
    for name in ("finance", "retail", "capped", "broken", "late")
}
FAKES = ("openai", "azure", "azure-v1", "anthropic", "finance", "retail", "capped")


def said(text: str = "Hello!") -> list[Json]:
    return [{"role": "user", "content": text}]


@dataclass
class Site:
    """A gateway that lets teams bring backends, with the team files of a person who runs `sluice apply`."""

    gateway: RunningGateway
    fake: FakeProvider
    secrets: Path
    client: httpx.Client
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.gateway.folder

    def configure(self, settings: Json) -> None:
        """The gateway's file, replaced whole."""
        aside = self.gateway.config.with_suffix(".aside")
        with aside.open("w") as file:
            YAML().dump(settings, file)
        aside.rename(self.gateway.config)

    def write_all(self) -> None:
        (self.folder / "teams").mkdir()
        few = {"requests": 2, "per": "hour", "only": {"backends": ["capped.ours"]}}
        unused = {"tokens": 10**9, "per": "hour", "only": {"models": ["llama"]}}
        in_file = {"file": "ours"}
        self.write("finance", **paired(self.fake))
        self.write("retail", **brings(self.fake, "retail"))
        self.write("capped", **brings(self.fake, "capped"), limits={"few": few, "unused": unused})
        self.write("broken", **brings(self.fake, "capped", {"env": "SLUICE_TEAM_BROKEN_OURS"}))
        self.write("vault", **brings(self.fake, "capped", in_file))
        self.write("linked", **brings(self.fake, "capped", in_file))
        self.write("plain")
        (self.secrets / "linked").mkdir()
        (self.secrets / "of-the-gateway").write_text("secret-of-the-gateway")
        (self.secrets / "linked" / "ours").symlink_to(self.secrets / "of-the-gateway")

    def write(self, team: str, **fields: Any) -> None:
        """The team's file, whole."""
        given = {"area": "money", "owner": f"boss@{team}.example", "models": [{"name": "gpt-4o"}], **fields}
        with (self.folder / "teams" / f"{team}.yaml").open("w") as file:
            YAML().dump({**given, "keys": [{"name": "app"}, *fields.get("keys", ())]}, file)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--config", str(self.gateway.config)])

    def apply(self) -> None:
        done = self.run("apply", "--yes", "--deliver-to", f"file:{self.folder}/keys")
        assert done.exit_code == 0, done.output
        delivered = (self.folder / "keys").glob("*/*")
        self.keys |= {f"{file.parent.name}/{file.name}": file.read_text() for file in delivered}

    def post(self, key: str, body: Json, path: str = CHAT) -> httpx.Response:
        told = {"authorization": f"Bearer {self.keys[key]}"}
        return self.client.post(path, json=body, headers=told)

    def get(self, key: str, path: str) -> httpx.Response:
        told = {"authorization": f"Bearer {self.keys[key]}"}
        return self.client.get(path, headers=told)

    def chat(self, team: str, model: str = "llama", text: str = "Hello!") -> httpx.Response:
        return self.post(f"{team}/app", {"model": model, "messages": said(text)})

    def listed(self, team: str) -> list[str]:
        return [model["id"] for model in self.get(f"{team}/app", "/v1/models").json()["data"]]

    def comes(self, team: str) -> None:
        """In force; of the calls until then the last alone reached it."""
        until(lambda: self.chat(team).status_code == 200, PROMISE, f"what {team} brings")

    def goes(self, team: str) -> None:
        until(lambda: self.chat(team).status_code == 404, PROMISE, f"the end of what {team} brings")

    def seen(self, name: str) -> list[Json]:
        return [dict(call["headers"]) for call in self.fake.calls(name)]


def brings(fake: FakeProvider, instance: str, credential: Json | None = None) -> Json:
    """A backend `ours` at an instance of the fake, with a model `llama` there."""
    secret = credential or {"env": f"SLUICE_TEAM_{instance.upper()}_OURS"}
    return {
        "backends": {"ours": {"dialect": "openai", "url": fake.url(instance), "credential": secret}},
        "own_models": {"llama": {"targets": [[{"backend": "ours", "model": "gpt-4o"}]]}},
    }


def paired(fake: FakeProvider) -> Json:
    """The same, and `pair`, which has a second backend."""
    given = brings(fake, "finance")
    given["backends"]["spare"] = {**given["backends"]["ours"], "headers": {"x-spare": "yes"}}
    groups = [[{"backend": "ours", "model": "gpt-4o"}], [{"backend": "spare", "model": "gpt-4o-mini"}]]
    given["own_models"]["pair"] = {"targets": groups}
    return given


def settings(fake: FakeProvider) -> Json:
    return {
        **standard_settings(fake),
        "routing": {**FORGIVING, "tell_backend": True},
        "policies": {"redaction": {"default": {"entities": {"DEFAULT": "mask"}}}},
    }


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Teams `finance`, `retail`, `capped`, `vault`, `linked`, `broken` and `plain`, applied before the start."""
    with FakeProvider(*FAKES) as fake:
        gateway = RunningGateway(settings(fake), {**SECRETS, **OWN})
        secrets = tmp_path_factory.mktemp("of-teams")
        gateway.settings |= {
            "teams": str(gateway.folder / "teams"),
            "byob": {
                "hosts": ["127.0.0.1"],
                "ports": [fake.port(name) for name in FAKES[-3:]],
                "private": True,
                "credentials": {"env": "SLUICE_TEAM_{team}_", "files": f"{secrets}/{{team}}"},
            },
        }
        with httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as client:
            site = Site(gateway, fake, secrets, client)
            site.configure(gateway.settings)
            site.write_all()
            site.apply()
            with gateway:
                yield site


@pytest.fixture
def site(shared: Site) -> Site:
    """With nothing scripted and nothing recorded at the fakes."""
    shared.fake.reset()
    return shared


def test_two_teams_with_the_same_names_never_meet(site: Site) -> None:
    texts = {team: [f"{team} {number}" for number in range(4)] for team in ("finance", "retail")}
    for one, other in zip(*texts.values(), strict=True):
        answers = site.chat("finance", text=one), site.chat("retail", text=other)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert [answer.headers["x-sluice-backend"] for answer in answers] == ["finance.ours", "retail.ours"]
    for team, sent in texts.items():
        assert {headers["authorization"] for headers in site.seen(team)} == {f"Bearer secret-of-{team}"}
        assert [json.loads(b64decode(call["body_base64"]))["messages"] for call in site.fake.calls(team)] == [
            said(text) for text in sent
        ]
    assert not any(site.fake.calls(name) for name in FAKES if name not in texts)


def test_for_others_it_does_not_exist(site: Site) -> None:
    lists = {team: site.listed(team) for team in ("finance", "retail", "plain")}
    assert lists == {"finance": ["gpt-4o", "llama", "pair"], "retail": ["gpt-4o", "llama"], "plain": ["gpt-4o"]}
    site.keys["nobody"] = site.gateway.key
    unknown = site.post("plain/app", {"model": "no-such-model", "messages": said()})
    named = [("plain/app", "llama"), ("nobody", "llama"), ("retail/app", "pair")]
    named += [("retail/app", name) for name in ("finance.llama", "finance/llama", "finance.ours", "ours")]
    for key, model in named:
        answer = site.post(key, {"model": model, "messages": said()})
        assert (answer.status_code, answer.json()["error"]) == (404, unknown.json()["error"])
        azure = f"/openai/deployments/{model}/chat/completions?api-version=2024-10-21"
        assert site.post(key, {"messages": said()}, azure).status_code == 404
        assert site.get(key, f"/v1/models/{model}").status_code == 404
    assert not any(site.fake.calls(name) for name in FAKES)


def test_limits_count_and_hold(site: Site) -> None:
    assert [site.chat("capped").status_code for _ in range(3)] == [200, 200, 429]
    assert site.chat("capped", "gpt-4o").status_code == 200
    assert len(site.seen("capped")) == 2


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_goes_there_is_redacted_and_recorded(stream: bool, site: Site) -> None:
    text = f"Write to {EMAIL} today."
    answer = site.post("finance/app", {"model": "llama", "messages": said(text), "stream": stream})
    assert answer.status_code == 200
    body = b64decode(site.fake.calls("finance")[0]["body_base64"]).decode()
    assert "Write to" in body
    assert EMAIL not in body
    record = site.gateway.record(answer.headers["x-request-id"])
    assert (record["team"], record["model"], record["backend"]) == ("finance", "llama", "finance.ours")
    assert not any(secret in site.gateway.told() for secret in OWN.values())


def test_stored_answers_are_found_where_they_were_made(site: Site) -> None:
    made = site.post("finance/app", {"model": "llama", "input": "Hello!", "store": True}, "/v1/responses").json()
    found = [site.get(key, f"/v1/responses/{made['id']}") for key in ("finance/app", "retail/app")]
    assert [answer.status_code for answer in found] == [200, 404]
    assert site.seen("retail") == []


def test_the_next_backend_of_the_team_serves_and_no_other(site: Site) -> None:
    site.fake.script("finance", [{"status": 500}])
    answer = site.chat("finance", "pair")
    assert (answer.status_code, answer.headers["x-sluice-backend"]) == (200, "finance.spare")
    assert [headers.get("x-spare") for headers in site.seen("finance")] == [None, "yes"]
    site.fake.script("finance", [{"status": 500}, {"status": 500}])
    assert site.chat("finance", "pair").status_code >= 500
    assert not any(site.fake.calls(name) for name in FAKES if name != "finance")


def test_an_emergency_stop_holds_for_a_backend_by_its_name_in_the_gateway(site: Site) -> None:
    assert site.run("emergency", "stop", "backend", "finance.ours").exit_code == 0
    until(lambda: site.chat("finance").status_code == 403, PROMISE, "the stop")
    assert site.chat("retail").status_code == 200
    assert site.run("emergency", "lift", "backend", "finance.ours").exit_code == 0
    until(lambda: site.chat("finance").status_code == 200, PROMISE, "the end of the stop")


def test_a_link_out_of_the_folder_is_not_followed(site: Site) -> None:
    assert site.chat("linked").status_code == 404
    assert "team linked: backends.ours is left out" in site.gateway.told()
    assert "a link that leads out of the team's folder" in site.gateway.told()


# ---- what changes while it runs ------------------------------------------------------------------------


def test_what_a_team_brings_comes_and_goes_by_apply_alone(site: Site) -> None:
    site.write("late", **brings(site.fake, "capped", {"env": "SLUICE_TEAM_LATE_OURS"}))
    site.apply()
    site.comes("late")
    assert [headers["authorization"] for headers in site.seen("capped")] == ["Bearer secret-of-late"]
    site.write("late")
    site.apply()
    site.goes("late")
    site.fake.reset()
    assert (site.chat("late").status_code, site.chat("retail").status_code) == (404, 200)
    assert site.seen("capped") == []


def test_a_secret_in_a_file_of_the_team_comes_changes_and_goes(site: Site) -> None:
    folder = site.secrets / "vault"
    folder.mkdir()

    def put(secret: str) -> None:
        (folder / "aside").write_text(secret)
        (folder / "aside").rename(folder / "ours")

    def is_sent(secret: str) -> bool:
        answer = site.chat("vault")
        calls = site.seen("capped")
        return bool(answer.status_code == 200 and calls[-1]["authorization"] == f"Bearer {secret}")

    assert site.chat("vault").status_code == 404
    put("first-secret")
    until(lambda: is_sent("first-secret"), PROMISE, "the secret")
    put("second-secret")
    until(lambda: is_sent("second-secret"), PROMISE, "the next secret")
    (folder / "ours").unlink()
    site.goes("vault")


def test_a_damaged_entry_costs_nobody_else_anything(site: Site) -> None:
    assert site.chat("broken").status_code == 200
    database = site.gateway.settings["stores"]["database"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE teams SET brought = '{' || brought WHERE name = 'broken'")
    site.goes("broken")
    assert site.chat("broken", "gpt-4o").status_code == 200
    assert site.chat("retail").status_code == 200
    assert "team broken: all that it brings is left out" in site.gateway.told()


def test_what_is_not_allowed_any_more_is_left_out_at_once(site: Site) -> None:
    given = site.gateway.settings
    site.configure({**given, "byob": {**given["byob"], "ports": [site.fake.port("retail")]}})
    try:
        site.goes("finance")
        assert site.chat("retail").status_code == 200
        assert "is not among `byob.ports`" in site.run("plan").output
    finally:
        site.configure(given)
    site.comes("finance")


def test_envoy_takes_whatever_a_team_may_write(tmp_path: Path) -> None:
    """It would refuse all clusters for one that it does not understand, and with them every change of others."""
    label = "x" * 63
    hosts = ["a_b.example", "1a.example", "0.example", f"{'.'.join([label] * 3)}.{'y' * 53}.example", "on.example"]
    urls = [f"https://{host}/v1" for host in hosts]
    urls += [f"https://on.example/{path}" for path in ("a%20b/$&'()*+,;=:@", "~._-!", "%25%", "yes", "a" * 2000)]
    texts = [
        "yes",
        "NO",
        "~",
        "%",
        "%%REQ(x)%",
        "# no comment",
        "a: b",
        "'\"\\",
        "{}",
        "[",
        "&a *b",
        "0x10",
        "0X1f",
        "x" * 500,
    ]
    given: list[Json] = [{"url": url} for url in urls]
    given += [{"url": urls[0], "headers": {f"{'h' * 90}-{number}": text}} for number, text in enumerate(texts)]
    given += [{"url": urls[0], "health": {"path": "/on", "interval": "1s"}, "dialect": "openai"}]
    given += [{"url": urls[0], "dialect": "azure-openai", "api_version": version} for version in ("on", "1.0", "-")]
    given += [{"url": urls[0], "dialect": dialect} for dialect in ("anthropic", "gemini")]
    byob = Byob.model_validate({"hosts": ["*.example"]})
    own = {}
    for number, fields in enumerate(given):
        backend = OwnBackend.model_validate({"dialect": "openai", **fields})
        assert not list(troubles("finance", backend, byob, Cooling()))
        own[f"b{number}"] = Backend.model_validate(backend.model_dump(exclude_unset=True))
    base = Gateway.model_validate(
        {
            "backends": {"ours": {"dialect": "openai", "url": "https://ours.example"}},
            "models": {"gpt-4o": {"targets": [[{"backend": "ours"}]]}},
        }
    )
    gateway = base.model_copy(update={"team_backends": {"finance": TeamBackends(backends=own)}})
    layout = dataplane.Layout(str(tmp_path), str(tmp_path), (f"{tmp_path}/w.sock",), f"{tmp_path}/admin.sock")
    file = dataplane.write_for_validation(gateway, layout, tmp_path)
    command = [str(Path(sys.executable).with_name("envoy")), "--mode", "validate", "-l", "error", "-c", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr
