"""Delivery to a Key Vault through Azure's own SDK: the vault is on loopback, everything else is real."""

import itertools
import logging
import socket
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from azure.core.credentials import AccessToken
from azure.core.pipeline.transport import RequestsTransport

from extproc.gitops.delivery import DeliveredKey, DeliveryError, key_vault, open_delivery
from extproc.gitops.delivery.key_vault import KeyVaultDelivery
from extproc.identity import keys
from tests.support.key_vault import TENANT, TOKEN, Answer, KeyVault, certificate, serving

VAULTS = (f"unit-{number}" for number in itertools.count())  # the SDK remembers each vault's challenge for good
SECRET = keys.mint(b"\x07" * 32)
KEYS = [
    DeliveredKey("payments", name, keys.mint(name[0].encode() * 32)) for name in ("ci", "dev", "eval", "app", "web")
]


class StaticCredential:
    """Signs in with one token, and notes where the vault sent it to do so."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        self.asked.append((*scopes, options.get("tenant_id")))
        return AccessToken(TOKEN, 2**40)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Holds nothing."""


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("vault"))


@pytest.fixture
def credential(monkeypatch: pytest.MonkeyPatch) -> StaticCredential:
    credential = StaticCredential()
    monkeypatch.setattr(key_vault, "_credential", lambda: credential)
    return credential


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the SDK wanted to wait between tries."""
    waits: list[float] = []
    monkeypatch.setattr(RequestsTransport, "sleep", lambda self, seconds: waits.append(seconds))
    return waits


@pytest.fixture
def vault(pem: Path, credential: StaticCredential, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyVault]:
    """A vault that every name under vault.azure.net leads to."""
    with serving(KeyVault(), pem) as vault:
        real = socket.getaddrinfo

        def to_loopback(host: str, port: int, *args: Any, **options: Any) -> Any:
            assert host.endswith(".vault.azure.net"), f"{host} is not the vault"
            return real("127.0.0.1", vault.port, *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", to_loopback)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
        monkeypatch.setenv("NO_PROXY", "*")
        yield vault


@pytest.fixture
def delivery() -> KeyVaultDelivery:
    opened = open_delivery(f"key-vault:https://{next(VAULTS)}.vault.azure.net")
    assert isinstance(opened, KeyVaultDelivery)
    return opened


def failure(delivery: KeyVaultDelivery, delivered: list[DeliveredKey]) -> str:
    """What a failed delivery says; nothing of it, not even the traceback, may hold a key."""
    with pytest.raises(DeliveryError) as caught:
        delivery.deliver(delivered)
    told = "".join(traceback.format_exception(caught.value))
    assert not any(key.secret in told for key in delivered)
    return str(caught.value)


def test_a_key_arrives_with_what_is_known_of_it(
    vault: KeyVault, delivery: KeyVaultDelivery, credential: StaticCredential
) -> None:
    expiry = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    delivery.deliver([DeliveredKey("payments", "ci", SECRET, "production", expiry), DeliveredKey("risk", "ci", SECRET)])
    assert vault.secrets["sluice-payments--ci"] == [
        {
            "value": SECRET,
            "contentType": "text/plain",
            "tags": {"team": "payments", "key": "ci", "environment": "production"},
            "attributes": {"exp": int(expiry.timestamp())},
        }
    ]
    assert vault.secrets["sluice-risk--ci"] == [
        {"value": SECRET, "contentType": "text/plain", "tags": {"team": "risk", "key": "ci"}}
    ]
    assert credential.asked == [("https://vault.azure.net/.default", TENANT)]


def test_a_key_is_not_sent_before_the_vault_has_been_signed_in_to(vault: KeyVault, delivery: KeyVaultDelivery) -> None:
    delivery.deliver(KEYS)
    assert vault.before_sign_in == [b""]


def test_a_second_delivery_makes_a_new_version(vault: KeyVault, delivery: KeyVaultDelivery) -> None:
    delivery.deliver(KEYS)
    delivery.deliver([DeliveredKey("payments", "ci", SECRET)])
    assert len(vault.secrets["sluice-payments--ci"]) == 2
    assert vault.value("sluice-payments--ci") == SECRET


def test_names_that_a_vault_could_not_hold_are_mapped_and_stay_apart(
    vault: KeyVault, delivery: KeyVaultDelivery
) -> None:
    names = ["CI", "ci", "Ci", "a b", "a_b", "a-b", "a--b", "../../x", "😀", "é", "k" * 100, "k" * 99, "n/n"]
    teams = ["t" * 63, "t" * 62, "a", "a-b", "a--b", "a-"]
    delivered = [DeliveredKey(team, name, SECRET) for team in teams for name in names]
    delivery.deliver(delivered)
    assert len(vault.secrets) == len(delivered)
    assert all(len(versions) == 1 for versions in vault.secrets.values())


def test_a_failure_half_way_names_the_key_and_says_how_far_it_came(
    vault: KeyVault, delivery: KeyVaultDelivery, sleeps: list[float]
) -> None:
    vault.answers["sluice-payments--eval"] = [Answer(403, "Forbidden", repeats_the_request=True)]
    text = failure(delivery, KEYS)
    assert text.startswith(f"{delivery.url}: team 'payments', key 'eval': status 403 Forbidden; the identity needs")
    assert text.endswith("(2 of 5 keys were delivered)")
    assert set(vault.secrets) == {"sluice-payments--ci", "sluice-payments--dev"}
    assert sleeps == []


def test_a_busy_vault_is_asked_again_when_it_says(
    vault: KeyVault, delivery: KeyVaultDelivery, sleeps: list[float]
) -> None:
    vault.answers["sluice-payments--ci"] = [Answer(429, "Throttled", {"Retry-After": "7"})] * 2
    delivery.deliver(KEYS)
    assert sleeps == [7.0, 7.0]
    assert vault.tries.count("sluice-payments--ci") == 3
    assert len(vault.secrets) == 5


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(429, "Throttled"), "status 429 Throttled; the vault is busy, run it again later"),
        (Answer(500, "Internal"), "status 500 Internal ("),
        (Answer(503), "status 503 ("),
    ],
)
def test_a_vault_that_stays_unwell_is_given_up(
    answer: Answer, told: str, vault: KeyVault, delivery: KeyVaultDelivery, sleeps: list[float]
) -> None:
    vault.answers["sluice-payments--ci"] = [answer] * 20
    assert told in failure(delivery, KEYS)
    assert 1 < len(vault.tries) < 20
    assert len(sleeps) >= len(vault.tries) - 2
    assert vault.secrets == {}


def test_a_deleted_secret_in_the_way_is_explained(vault: KeyVault, delivery: KeyVaultDelivery) -> None:
    vault.answers["sluice-payments--ci"] = [Answer(409, "ObjectIsDeletedButRecoverable")]
    assert "recover or purge it" in failure(delivery, KEYS)


def test_an_error_code_that_is_no_word_is_not_repeated(vault: KeyVault, delivery: KeyVaultDelivery) -> None:
    vault.answers["sluice-payments--ci"] = [Answer(400, KEYS[0].secret)]
    assert "status 400 (0 of 5" in failure(delivery, KEYS)


def test_a_key_is_not_sent_where_a_redirect_leads(vault: KeyVault, delivery: KeyVaultDelivery) -> None:
    vault.answers["sluice-payments--ci"] = [
        Answer(307, headers={"Location": "https://other.vault.azure.net/secrets/x"})
    ]
    assert "status 307" in failure(delivery, KEYS)
    assert vault.tries == ["sluice-payments--ci"]


def test_a_server_that_asks_for_tokens_of_another_service_gets_none(
    vault: KeyVault, delivery: KeyVaultDelivery, credential: StaticCredential
) -> None:
    vault.resource = "https://graph.microsoft.com"
    assert "does not sign callers in as a Key Vault does" in failure(delivery, KEYS)
    assert credential.asked == []
    assert vault.before_sign_in == [b""]


def test_a_token_that_the_vault_does_not_take_is_told(
    vault: KeyVault, delivery: KeyVaultDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StaticCredential, "get_token", lambda self, *scopes, **options: AccessToken("other", 2**40))
    assert "cannot sign in" in failure(delivery, KEYS)
    assert vault.tries == []


@pytest.fixture
def no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to sign in with, and no looking for it on the network."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    for name in ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_USERNAME", "AZURE_TENANT_ID"):
        monkeypatch.delenv(name, raising=False)


REAL_CREDENTIAL = key_vault._credential


def test_no_identity_to_sign_in_with_is_told(
    vault: KeyVault, delivery: KeyVaultDelivery, no_identity: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_vault, "_credential", REAL_CREDENTIAL)
    assert "cannot sign in" in failure(delivery, KEYS)
    assert vault.tries == []


def test_who_signs_in_is_the_job_or_who_ran_az_login() -> None:
    with REAL_CREDENTIAL() as credential:
        kinds = {type(kind).__name__ for kind in credential.credentials}
    assert kinds - {"FailedDACCredential", "WorkloadIdentityCredential"} == {
        "EnvironmentCredential",
        "ManagedIdentityCredential",
        "AzureCliCredential",
    }


def test_no_answer_at_all_is_told(
    vault: KeyVault, delivery: KeyVaultDelivery, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault, "port", 1)
    assert "no answer" in failure(delivery, KEYS)


def test_a_certificate_that_nobody_vouches_for_is_refused(
    vault: KeyVault, delivery: KeyVaultDelivery, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    assert "no answer" in failure(delivery, KEYS)
    assert vault.before_sign_in == []


def test_two_keys_for_one_place_are_refused_before_anything_is_sent(
    vault: KeyVault, delivery: KeyVaultDelivery
) -> None:
    assert "two keys named 'ci'" in failure(delivery, [*KEYS, KEYS[0]])
    assert vault.before_sign_in == []


def test_logs_at_their_loudest_hold_no_key(
    vault: KeyVault, delivery: KeyVaultDelivery, sleeps: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    vault.answers["sluice-payments--app"] = [Answer(429), Answer(500), Answer(400, repeats_the_request=True)]
    failure(delivery, KEYS)
    assert any(record.name.startswith("azure.core") for record in caplog.records)
    assert not any(key.secret in caplog.text for key in KEYS)
    assert TOKEN not in caplog.text
