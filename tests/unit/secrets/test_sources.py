"""Each kind of source, asked for its secret. Azure is on loopback, its SDK is real."""

import logging
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from extproc.config.fields import Credential
from extproc.secrets import Secret, SecretError, source_of
from tests.support import azure
from tests.support.azure import LOGIN, MACHINE, SOVEREIGN, TENANT, Answer, Azure

Json = dict[str, Any]
RIGHT = "the-right-secret"
ASSERTION = "federated.token.of-the-cluster"
SCOPE = "https://cognitiveservices.azure.com/.default"
APP = {"tenant_id": TENANT, "client_id": "app"}
WITH_SECRET: Json = {"kind": "client_secret", **APP, "client_secret": {"env": "APP_SECRET"}}
VAULT: Json = {"url": "https://our-keys.vault.azure.net", "secret": "openai", **WITH_SECRET}


def fetch(credential: Json, environ: Mapping[str, str] | None = None) -> Secret:
    return source_of(Credential.model_validate(credential), {"APP_SECRET": RIGHT, **(environ or {})}).fetch()


def trouble(credential: Json, environ: Mapping[str, str] | None = None) -> str:
    """What is said when it cannot be fetched."""
    with pytest.raises(SecretError) as caught:
        fetch(credential, environ)
    return str(caught.value)


# ---- environment and files ----


def test_a_variable_is_taken_as_it_is() -> None:
    assert fetch({"env": "KEY"}, {"KEY": "sk-1"}) == Secret("sk-1")


def test_a_file_is_read_without_the_break_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"sk-1\r\n")
    assert fetch({"file": str(tmp_path / "key")}) == Secret("sk-1")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "is not set"),
        ("", "is empty"),
        ("two words", "holds a space, a line break or a character that is not ASCII"),
        ("two\nlines", "holds a space, a line break or a character that is not ASCII"),
        ("clé", "holds a space, a line break or a character that is not ASCII"),
    ],
)
def test_a_variable_that_no_header_could_hold_is_named_and_not_shown(value: str | None, problem: str) -> None:
    environ = {} if value is None else {"KEY": value}
    assert trouble({"env": "KEY"}, environ) == f"the environment variable KEY {problem}"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert trouble({"file": str(missing)}) == f"the file {missing} cannot be read (No such file or directory)"
    (tmp_path / "empty").touch()
    assert trouble({"file": str(tmp_path / "empty")}) == f"the file {tmp_path / 'empty'} is empty"


def test_no_secret_is_in_what_is_printed_of_it() -> None:
    source = source_of(Credential(env="KEY"), {"KEY": "sk-canary"})
    assert "sk-canary" not in repr(source) + repr(source.fetch())


# ---- Entra ----


def test_an_application_signs_in_with_its_secret(cloud: Azure) -> None:
    secret = fetch({"entra": WITH_SECRET})
    (asked,) = cloud.asked
    assert (asked.host, asked.path) == (LOGIN, f"/{TENANT}/oauth2/v2.0/token")
    assert (asked.fields["client_id"], asked.fields["client_secret"]) == ("app", RIGHT)
    assert (asked.fields["grant_type"], asked.fields["scope"]) == ("client_credentials", SCOPE)
    assert secret.value == asked.token
    assert secret.expires_at == pytest.approx(time.time() + cloud.lifetime, abs=60)
    assert secret.renew_at is None


def test_a_workload_signs_in_with_the_token_of_its_cluster_as_aks_sets_it_up(cloud: Azure, tmp_path: Path) -> None:
    file = tmp_path / "assertion"
    environ = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": "pod", "AZURE_FEDERATED_TOKEN_FILE": str(file)}
    for assertion in (ASSERTION, "the.next.one"):  # read again for every token, for the cluster renews it
        file.write_text(assertion)
        assert fetch({"entra": {}}, environ).value == cloud.tokens[-1]
    assert [asked.fields["client_assertion"] for asked in cloud.asked] == [ASSERTION, "the.next.one"]
    assert {(asked.host, asked.fields["client_id"]) for asked in cloud.asked} == {(LOGIN, "pod")}


def test_what_is_configured_counts_and_not_the_environment(cloud: Azure, tmp_path: Path) -> None:
    (tmp_path / "assertion").write_text(ASSERTION)
    elsewhere = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_FEDERATED_TOKEN_FILE": "/missing"}
    entra = {**APP, "federated_token_file": str(tmp_path / "assertion"), "scope": "api://models/.default"}
    fetch(
        {"entra": {**entra, "authority": f"https://{SOVEREIGN}"}},
        {**elsewhere, "AZURE_AUTHORITY_HOST": f"https://{LOGIN}"},
    )
    (asked,) = cloud.asked
    assert (asked.host, asked.path.split("/")[1], asked.fields["client_id"]) == (SOVEREIGN, TENANT, "app")
    assert asked.fields["scope"] == "api://models/.default"


def test_the_authority_may_come_from_the_environment(cloud: Azure) -> None:
    fetch({"entra": WITH_SECRET}, {"AZURE_AUTHORITY_HOST": f"https://{SOVEREIGN}/"})
    assert [asked.host for asked in cloud.asked] == [SOVEREIGN]


@pytest.mark.parametrize("identity", [None, "user-assigned"])
def test_a_machine_has_a_token_of_its_own_even_in_a_pod_with_a_workload_identity(
    identity: str | None, cloud: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "assertion").write_text(ASSERTION)
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_ID", "pod")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "assertion"))
    entra = {"kind": "managed_identity"} | ({"client_id": identity} if identity else {})
    assert fetch({"entra": entra}).value == cloud.tokens[0]
    (asked,) = cloud.asked
    assert asked.host == MACHINE
    assert asked.fields["resource"] == SCOPE.removesuffix("/.default")
    assert asked.fields.get("client_id") == identity


def test_entra_may_say_when_to_come_back(cloud: Azure) -> None:
    cloud.refresh_in = 1800
    renew_at = fetch({"entra": WITH_SECRET}).renew_at
    assert renew_at == pytest.approx(time.time() + 1800, abs=60)


@pytest.mark.parametrize(
    ("entra", "environ", "problem"),
    [
        ({}, {}, "`tenant_id` is not set, and neither is the environment variable AZURE_TENANT_ID"),
        (APP, {}, "`federated_token_file` is not set, and neither is the environment variable AZURE_FEDERATED"),
        ({**APP, "federated_token_file": "/missing"}, {}, "the file /missing cannot be read, in which the cluster's"),
        (WITH_SECRET, {"AZURE_AUTHORITY_HOST": "http://login"}, "AZURE_AUTHORITY_HOST must begin with https://"),
        (WITH_SECRET, {"APP_SECRET": ""}, "the environment variable APP_SECRET is empty"),
    ],
)
def test_what_is_missing_here_is_told_before_anybody_is_asked(
    entra: Json, environ: Mapping[str, str], problem: str, cloud: Azure
) -> None:
    source = source_of(Credential.model_validate({"entra": entra}), {"APP_SECRET": RIGHT, **environ})
    with pytest.raises(SecretError) as caught:
        source.check()
    assert str(caught.value).startswith(problem)
    assert trouble({"entra": entra}, environ).startswith(problem)
    assert cloud.asked == []


@pytest.mark.parametrize(
    ("entra", "told"),
    [
        (WITH_SECRET, "Entra does not sign in, AADSTS7000215: the client secret is wrong"),
        ({"kind": "managed_identity"}, "Entra does not sign in, AADSTS7000215: the client secret is wrong"),
    ],
)
def test_a_refusal_is_told_by_its_code_and_nothing_that_was_sent(
    entra: Json, told: str, cloud: Azure, caplog: pytest.LogCaptureFixture
) -> None:
    cloud.refuses = "AADSTS7000215"
    with caplog.at_level(logging.DEBUG):
        assert trouble({"entra": entra}) == told
    assert RIGHT not in caplog.text
    assert "AADSTS" not in caplog.text


def test_a_code_that_is_not_known_here_is_told_all_the_same(cloud: Azure) -> None:
    cloud.refuses = "AADSTS123456"
    assert trouble({"entra": WITH_SECRET}) == "Entra does not sign in, AADSTS123456"


def test_nobody_there(cloud: Azure) -> None:
    cloud.down = True
    assert trouble({"entra": WITH_SECRET}) == "no token from Entra; check that `authority` can be reached from here"
    assert "does it have a managed identity" in trouble({"entra": {"kind": "managed_identity"}})
    assert trouble({"key_vault": VAULT}).startswith("no answer; check the name of the vault")


# ---- Key Vault ----


def test_a_secret_of_a_vault_is_fetched_with_a_token_for_it(cloud: Azure) -> None:
    cloud.secrets["our-keys", "openai"] = "sk-of-the-vault\n"  # as `az keyvault secret set --file` leaves it
    secret = fetch({"key_vault": {**VAULT, "interval": "10m"}})
    assert (secret.value, secret.expires_at) == ("sk-of-the-vault", None)
    assert secret.renew_at == pytest.approx(time.time() + 600, abs=60)
    assert cloud.looks == ["/secrets/openai/"]
    assert [asked.fields["scope"] for asked in cloud.asked] == [azure.VAULT_SCOPE]


def test_a_version_of_a_secret(cloud: Azure) -> None:
    fetch({"key_vault": {**VAULT, "version": "0" * 31 + "1"}})
    assert cloud.looks == ["/secrets/openai/" + "0" * 31 + "1"]


@pytest.mark.parametrize(
    ("problem", "told", "withdrawn"),
    [
        (azure.DISABLED, "status 403; the secret is disabled", True),
        (azure.FORBIDDEN, "status 403; the identity needs the role Key Vault Secrets User, and a way through", False),
        ((404, {}, {"error": {"code": "SecretNotFound"}}), "status 404; there is no such secret", True),
        ((429, {"retry-after": "30"}, {"error": {"code": "Throttled"}}), "status 429; the vault is busy", False),
        ((503, {}, {"error": {"code": "Down", "message": RIGHT}}), "status 503", False),
        ((302, {"location": "https://evil.example"}, {}), "status 302", False),
    ],
)
def test_a_vault_that_does_not_give_it(problem: Answer, told: str, withdrawn: bool, cloud: Azure) -> None:
    cloud.vault_problem = problem
    with pytest.raises(SecretError) as caught:
        fetch({"key_vault": VAULT})
    assert str(caught.value).startswith(told)
    assert RIGHT not in str(caught.value)
    assert caught.value.withdrawn is withdrawn
    assert len(cloud.looks) == 1, "the keeper asks again, not the SDK"


def test_a_vault_whose_caller_cannot_sign_in(cloud: Azure) -> None:
    cloud.refuses = "AADSTS700016"
    told = "Entra does not sign in, AADSTS700016: the tenant has no application of this client_id"
    assert trouble({"key_vault": VAULT}) == told
    assert cloud.looks == []


def test_a_secret_of_a_vault_that_no_header_could_hold(cloud: Azure) -> None:
    cloud.secrets["our-keys", "openai"] = "two words"
    assert trouble({"key_vault": VAULT}).startswith("the secret of the vault holds a space")


# ---- the packages ----

_BLOCKED = """
import sys
sys.modules["azure.identity"] = None
from extproc.config.fields import Credential
from extproc.secrets import SecretError, source_of
for given in ({"env": "A"}, {"file": "a"}):
    source_of(Credential.model_validate(given), {})
print([name for name in sys.modules if name.startswith("azure.") and sys.modules[name]])
vault = {"url": "https://our-keys.vault.azure.net", "secret": "s"}
for given in ({"entra": {}}, {"key_vault": vault}):
    try:
        source_of(Credential.model_validate(given), {})
    except SecretError as error:
        print(error)
"""


def test_the_sdk_is_needed_and_loaded_by_those_alone_who_use_it() -> None:
    run = subprocess.run([sys.executable, "-c", _BLOCKED], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "[]",
        "the package azure.identity is missing; install sluice-gateway[azure] to use `entra`",
        "the package azure.identity is missing; install sluice-gateway[azure] to use `key_vault`",
    ]
