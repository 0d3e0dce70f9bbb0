"""Credentials that are fetched, in a running gateway: tokens of Entra and secrets of a Key Vault, renewed beside the
calls, missing, and gone. What the backends were sent is the oracle.
"""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from extproc import contract
from tests.support import azure
from tests.support.azure import TENANT, Azure
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until

Json = dict[str, Any]
SAY: Any = [{"role": "user", "content": "hi"}]
NAMES = ("workload", "late", "vaulted", "keyed")  # of what the gateway starts with
LIFETIME = 6  # seconds
PATIENCE = 60.0
RIGHT, WRONG = "the-right-client-secret", "a-wrong-client-secret"
CREDENTIALS = set(contract.CREDENTIAL_HEADERS)
ASSERTION = "federated.token.of-the-cluster"


def _variables(providers: FakeProvider, folder: Path) -> dict[str, str]:
    """Backends, models and credentials, by variables alone: field by field, and as mappings."""
    late = f"{{kind: client_secret, client_id: late, client_secret: {{file: {folder / 'late'}}}}}"
    vault = "{url: https://our-keys.vault.azure.net, secret: anthropic, interval: 1s, client_id: vaulted}"
    variables = {
        "BACKENDS__WORKLOAD__DIALECT": "azure-openai",
        "BACKENDS__WORKLOAD__URL": providers.url("workload"),
        "BACKENDS__WORKLOAD__CREDENTIAL__ENTRA__KIND": "workload_identity",
        "BACKENDS__LATE": f"{{dialect: azure-openai, url: '{providers.url('late')}'}}",
        "BACKENDS__LATE__CREDENTIAL__ENTRA": late,
        "BACKENDS__VAULTED": f"{{dialect: anthropic, url: '{providers.url('vaulted')}'}}",
        "BACKENDS__VAULTED__CREDENTIAL__KEY_VAULT": vault,
        "BACKENDS__KEYED": f"{{dialect: azure-openai, url: '{providers.url('keyed')}', credential: {{env: KEYED}}}}",
        "MODELS__LATE_OR_KEYED__TARGETS": "[[{backend: late}], [{backend: keyed, weight: 2}]]",
        "MODELS__WORKLOAD_OR_KEYED__TARGETS": "[[{backend: workload}], [{backend: keyed}]]",
    }
    alone = {f"MODELS__{name.upper()}__TARGETS": f"[[{{backend: {name}}}]]" for name in NAMES}
    return {f"SLUICE__{name}": value for name, value in (variables | alone).items()}


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway with a client of it, the providers, and the Azure that it gets its credentials from."""

    gateway: RunningGateway
    client: httpx.Client
    providers: FakeProvider
    azure: Azure
    folder: Path

    def chat(self, model: str) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json={"model": model, "messages": SAY, "max_tokens": 5})

    def headers(self, backend: str) -> set[str]:
        """The names of the headers of the newest call at a backend."""
        return {name.lower() for name, _ in self.providers.calls(backend)[-1]["headers"]}

    def sent(self, backend: str, header: str) -> str | None:
        """What a header of the newest call at a backend was."""
        return dict(self.providers.calls(backend)[-1]["headers"]).get(header)

    def token_at(self, backend: str) -> str:
        """The token that a call of now takes to a backend; empty where it takes none."""
        assert self.chat(backend).status_code == 200
        return (self.sent(backend, "authorization") or "").removeprefix("Bearer ")

    def reconfigure(self, **changed: Json) -> None:
        """Replace the file of the configuration, as an editor does."""
        aside = self.gateway.config.with_suffix(".new")
        with aside.open("w") as file:
            YAML().dump({**self.gateway.settings, **changed}, file)
        aside.replace(self.gateway.config)

    def log(self) -> str:
        return "\n".join(line["text"] for line in self.gateway.records("log"))

    def fetched(self, backend: str) -> float:
        """When the secret of a backend was fetched, in seconds since the epoch; 0: it has none."""
        return self.metric("sluice_secret_fetched_timestamp_seconds", secret=f"backends.{backend}")

    def metric(self, name: str, **labels: str) -> float:
        wanted = name + "{" + ",".join(f'{label}="{value}"' for label, value in sorted(labels.items())) + "}"
        lines = (line.rpartition(" ") for line in self.gateway.metrics().splitlines())
        return next((float(value) for series, _, value in lines if series == wanted), 0.0)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("azure")
    (folder / "assertion").write_text(ASSERTION)
    (folder / "late").write_text(WRONG)
    fake = Azure(LIFETIME, pem=azure.certificate(folder), client_secrets={"late": RIGHT})
    fake.secrets["our-keys", "anthropic"] = "first-of-the-vault"
    with FakeProvider(*NAMES, "added") as providers, azure.serving(fake):
        environ = {
            **fake.environ,
            **_variables(providers, folder),
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": "workload",
            "AZURE_FEDERATED_TOKEN_FILE": str(folder / "assertion"),
            "AZURE_CLIENT_SECRET": "of-the-machine",
            "KEYED": "a-key",
        }
        with RunningGateway({}, environ) as gateway, gateway.client() as client:
            yield Site(gateway, client, providers, fake, folder)


def test_a_backend_whose_token_cannot_be_had_at_the_start_is_passed_by_until_it_can(site: Site) -> None:
    """Nobody's credential goes there, so the backend refuses, and the next one serves."""
    site.providers.script("late", [{"status": 401}])
    assert site.chat("late-or-keyed").status_code == 200
    assert site.headers("late").isdisjoint(CREDENTIALS)
    assert site.sent("keyed", "api-key") == "a-key"
    assert "backends.late: no secret: Entra does not sign in, AADSTS7000215: the client secret is wrong" in site.log()
    assert site.fetched("late") == 0
    (site.folder / "late").write_text(RIGHT)
    until(lambda: site.fetched("late"), PATIENCE, "a token with the right secret")
    until(lambda: site.token_at("late"), PATIENCE, "a call with the token")
    assert site.headers("late") & CREDENTIALS == {"authorization"}
    assert site.metric("sluice_secret_refreshes_total", outcome="failed", secret="backends.late") >= 1


def test_a_token_is_renewed_while_calls_go_on(site: Site) -> None:
    seen: set[str] = set()

    def two_tokens() -> bool:
        seen.add(site.token_at("workload"))
        return len(seen) >= 2

    until(two_tokens, PATIENCE, "the next token")
    assert seen <= set(site.azure.tokens), "and no call was without"
    assert site.headers("workload") & CREDENTIALS == {"authorization"}
    asked = [one for one in site.azure.asked if one.token in seen]
    assert {one.fields["scope"] for one in asked} == {"https://cognitiveservices.azure.com/.default"}
    assert {one.fields["client_assertion"] for one in asked} == {ASSERTION}


def test_an_outage_leaves_the_token_in_force_to_its_end_and_no_longer(site: Site) -> None:
    until(lambda: site.token_at("workload"), PATIENCE, "a token")
    site.azure.down = True
    assert site.token_at("workload"), "the token outlives the start of the outage"
    until(lambda: not site.token_at("workload"), PATIENCE, "the end of the token")
    assert site.fetched("workload") == 0
    site.providers.script("workload", [{"status": 401}])
    assert site.chat("workload-or-keyed").status_code == 200
    assert site.headers("workload").isdisjoint(CREDENTIALS)
    assert site.sent("keyed", "api-key") == "a-key"
    site.azure.down = False
    until(lambda: site.token_at("workload"), PATIENCE, "a token after the outage")
    assert site.token_at("workload") in site.azure.tokens


def test_a_secret_of_a_vault_is_taken_up_when_it_is_rotated_and_dropped_when_it_is_disabled(site: Site) -> None:
    def key_is(value: str | None) -> bool:
        assert site.chat("vaulted").status_code == 200
        return site.sent("vaulted", "x-api-key") == value

    until(lambda: key_is("first-of-the-vault"), PATIENCE, "the secret")
    site.azure.secrets["our-keys", "anthropic"] = "second-of-the-vault"
    until(lambda: key_is("second-of-the-vault"), PATIENCE, "the rotated secret")
    site.azure.vault_problem = azure.FORBIDDEN
    looks = len(site.azure.looks)
    until(lambda: len(site.azure.looks) > looks, PATIENCE, "a look that is refused")
    assert key_is("second-of-the-vault"), "what was fetched serves on"
    site.azure.vault_problem = azure.DISABLED
    until(lambda: key_is(None), PATIENCE, "the end of the secret")
    site.azure.vault_problem = None
    until(lambda: key_is("second-of-the-vault"), PATIENCE, "the secret after it was enabled again")


def test_a_backend_that_a_reload_brings_has_its_token_from_its_first_call_on(site: Site) -> None:
    def added(credential: Json) -> None:
        backend = {"dialect": "azure-openai", "url": site.providers.url("added"), "credential": credential}
        site.reconfigure(backends={"added": backend}, models={"added": {"targets": [[{"backend": "added"}]]}})

    added({"entra": {"kind": "client_secret", "client_secret": {"env": "UNSET"}}})
    problem = "backends.added.credential: the environment variable UNSET is not set"
    until(lambda: problem in site.log(), PATIENCE, "the refusal of what cannot work")
    added({"entra": {"kind": "managed_identity"}})
    until(lambda: site.chat("added").status_code == 200, PATIENCE, "the new backend")
    (first, *_) = site.providers.calls("added")
    token = dict(first["headers"])["authorization"].removeprefix("Bearer ")
    assert [asked.host for asked in site.azure.asked if asked.token == token] == [azure.MACHINE]
    assert site.token_at("workload"), "the others go on"


def test_what_was_fetched_is_in_no_log_and_with_no_worker(site: Site) -> None:
    assert site.chat("keyed").status_code == 200
    told = site.gateway.told() + site.gateway.metrics()
    values = [*site.azure.tokens, "first-of-the-vault", "second-of-the-vault", RIGHT, WRONG, ASSERTION, "a-key"]
    assert [value for value in values if value in told] == []
    workers, envoys = site.gateway.processes("extproc.worker"), site.gateway.processes("bootstrap.yaml")
    assert workers
    assert envoys
    for process in (*workers, *envoys):
        assert not {"AZURE_CLIENT_SECRET", "KEYED"} & process.environ().keys()
    secrets = site.gateway.folder / "var/secrets"
    assert {stat.S_IMODE(file.stat().st_mode) for file in secrets.iterdir()} == {0o600}
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
