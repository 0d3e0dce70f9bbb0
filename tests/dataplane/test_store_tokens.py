"""A gateway that signs in to its Redis and its PostgreSQL with tokens of Entra, which are renewed while calls run."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import azure
from tests.support.azure import TENANT, Azure
from tests.support.fake import FakeProvider
from tests.support.gateway import ROOT, RunningGateway, until
from tests.support.store_sites import TlsPostgres, TlsRedis, certificates, tls_postgres, tls_redis

LIFETIME = 10  # seconds
PATIENCE = 90.0
FOR_DATABASE = "https://ossrdbms-aad.database.windows.net/.default"
FOR_REDIS = "https://redis.azure.com/.default"
SAY: Any = [{"role": "user", "content": "hi"}]


@dataclass(frozen=True, slots=True)
class Site:
    gateway: RunningGateway
    azure: Azure
    redis: TlsRedis
    postgres: TlsPostgres
    environ: dict[str, str]

    def tokens(self, scope: str) -> list[str]:
        return [one.token for one in self.azure.asked if one.token and one.fields.get("scope") == scope]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "extproc.cli", *words, "--config", str(self.gateway.config)],
            cwd=ROOT,
            env=self.environ,
            capture_output=True,
            text=True,
        )


@contextmanager
def followed(fake: Azure, postgres: TlsPostgres) -> Iterator[None]:
    """PostgreSQL takes the newest token as soon as it is given, as with Entra; Redis takes each of them."""
    over = threading.Event()

    def follow() -> None:
        known = ""
        while not over.wait(0.01):
            given = [one.token for one in [*fake.asked] if one.token and one.fields.get("scope") == FOR_DATABASE]
            if given and given[-1] != known:
                known = given[-1]
                postgres.accept(known)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("stores")
    (folder / "assertion").write_text("federated.token.of-the-cluster")
    made = certificates(folder)
    fake = Azure(LIFETIME, pem=azure.certificate(folder))
    with (
        tls_redis(made, folder / "unused-redis") as redis,
        tls_postgres(made, folder / "unused-postgres") as postgres,
        FakeProvider("swe") as providers,
        azure.serving(fake),
        followed(fake, postgres),
    ):
        redis.accept(*(f"token-{number}-of-stores" for number in range(1000)))
        environ = {
            **os.environ,
            **fake.environ,
            "AZURE_TENANT_ID": TENANT,
            "AZURE_FEDERATED_TOKEN_FILE": str(folder / "assertion"),
        }
        credential = {"entra": {"client_id": "stores"}}
        settings = {
            "stores": {
                "database": postgres.plain_url,
                "database_credential": credential,
                "counters": redis.plain_url,
                "counters_credential": credential,
                "counters_wait": "1s",
            },
            "backends": {"swe": {"dialect": "openai", "url": providers.url("swe")}},
            "models": {"gpt-4o": {"targets": [[{"backend": "swe"}]]}},
            "policies": {"limits": {"many": {"scope": "key", "requests": 100_000, "per": "minute"}}},
        }
        with RunningGateway(settings, environ) as gateway:
            yield Site(gateway, fake, redis, postgres, environ)


@pytest.mark.timeout(240)
def test_calls_go_on_while_tokens_of_both_stores_are_renewed(site: Site) -> None:
    connected = site.redis.sign_ins()
    first = len(site.tokens(FOR_REDIS)), len(site.tokens(FOR_DATABASE))
    with site.gateway.client() as client:

        def renewed() -> bool:
            answer = client.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": SAY, "max_tokens": 5})
            assert answer.status_code == 200, answer.text
            now = len(site.tokens(FOR_REDIS)), len(site.tokens(FOR_DATABASE))
            return all(count >= before + 2 for count, before in zip(now, first, strict=True)) and (
                site.redis.sign_ins() > connected
            )

        until(renewed, PATIENCE, "two newer tokens for each store, told to Redis")
    assert "store_unavailable" not in site.gateway.told()


def test_a_token_is_in_a_file_of_its_own_that_its_owner_alone_reads(site: Site) -> None:
    folder = site.gateway.folder / "var/tokens"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = {path.name: path for path in folder.iterdir() if not path.name.startswith(".")}
    assert set(files) == {"database", "counters"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files.values())
    tokens = site.azure.tokens
    assert files["database"].read_text() in tokens
    elsewhere = [path for path in (site.gateway.folder / "var").rglob("*") if path.is_file() and path.parent != folder]
    assert elsewhere
    told = site.gateway.told() + site.gateway.metrics()
    for token in tokens:
        assert token not in told
        assert not [path for path in elsewhere if token.encode() in path.read_bytes()]


def test_commands_use_the_tokens_of_the_gateway_beside_them(site: Site) -> None:
    run = site.command("db", "check")
    assert run.returncode == 0, run.stderr
    run = site.command("keys", "list", "--json")
    assert run.returncode == 0, run.stderr


def test_a_command_without_a_gateway_fetches_its_own(site: Site, tmp_path: Path) -> None:
    before = len(site.tokens(FOR_DATABASE))
    alone = {**site.environ, "SLUICE__STATE_DIR": str(tmp_path / "state")}
    run = subprocess.run(
        [sys.executable, "-m", "extproc.cli", "db", "check", "--config", str(site.gateway.config)],
        cwd=ROOT,
        env=alone,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert len(site.tokens(FOR_DATABASE)) > before


def test_a_command_says_why_there_is_no_token(site: Site, tmp_path: Path) -> None:
    alone = {**site.environ, "SLUICE__STATE_DIR": str(tmp_path / "state"), "AZURE_TENANT_ID": ""}
    run = subprocess.run(
        [sys.executable, "-m", "extproc.cli", "db", "check", "--config", str(site.gateway.config)],
        cwd=ROOT,
        env=alone,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert "stores.database: no token: `tenant_id` is not set" in run.stderr
    assert "Check stores.database" in run.stderr
