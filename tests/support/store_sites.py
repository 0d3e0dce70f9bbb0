"""A Redis and a PostgreSQL with TLS, each with a user whose password changes while it is in use, as tokens do."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from extproc import password_files
from extproc.stores.ports import StoreUnavailable
from extproc.stores.sql.engine import connect, transaction
from tests.support.ports import free_port
from tests.support.postgres_server import PostgresServer, postgres_server
from tests.support.redis_server import RedisServer, redis_server

USER = "0a1b2c3d-object-id"
_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Certificates:
    """One for 127.0.0.1 alone, signed by itself, with its key; and an authority that has signed nothing."""

    certificate: Path
    key: Path
    stranger: Path


def certificates(folder: Path) -> Certificates:
    """Made in this folder."""
    for name in ("own", "stranger"):
        words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        words += ["-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
        words += ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        subprocess.run(words, check=True, capture_output=True)
    return Certificates(folder / "own.pem", folder / "own.key", folder / "stranger.pem")


@dataclass(frozen=True, slots=True)
class TlsRedis:
    """A Redis with TLS, on a port of its own beside the plain one, and a user whose password stands in a file."""

    server: RedisServer
    tls_port: int
    certificates: Certificates
    file: Path

    @property
    def plain_url(self) -> str:
        """Without its password."""
        return f"rediss://{USER}@127.0.0.1:{self.tls_port}/0?ssl_ca_certs={self.certificates.certificate}"

    @property
    def url(self) -> str:
        return password_files.named(self.plain_url, self.file)

    def accept(self, *passwords: str) -> None:
        """These and no others, from now on. Who has signed in already stays so, as with any Redis."""
        words = [f">{password}" for password in passwords]
        self.server.call("ACL", "SETUSER", USER, "on", "~*", "&*", "+@all", "resetpass", *words)

    def hand(self, password: str) -> None:
        """Put it in the file."""
        _put(self.file, password)

    def hang_up(self) -> None:
        """On all connections of the user, as a server does when their token is over."""
        self.server.call("CLIENT", "KILL", "USER", USER)

    def connections(self) -> set[str]:
        """The numbers of the user's."""
        return {one["id"] for one in self.server.call("CLIENT LIST") if one["user"] == USER}

    def sign_ins(self) -> int:
        """How often anybody signed in, by whatever connection."""
        return int(self.server.call("INFO", "commandstats").get("cmdstat_auth", {}).get("calls", 0))


@contextmanager
def tls_redis(made: Certificates, file: Path) -> Iterator[TlsRedis]:
    """Running, with the password `first`, which stands in the file. Skips the test where there is no Redis."""
    port = free_port()
    files = {"tls_cert_file": str(made.certificate), "tls_key_file": str(made.key)}
    with redis_server(tls_port=str(port), tls_auth_clients="no", **files) as server:
        site = TlsRedis(server, port, made, file)
        site.accept("first")
        site.hand("first")
        yield site


@dataclass(frozen=True, slots=True)
class TlsPostgres:
    """A PostgreSQL that takes TLS and passwords alone from this user."""

    server: PostgresServer
    certificates: Certificates
    file: Path

    @property
    def plain_url(self) -> str:
        """Without its password."""
        return self._url("127.0.0.1", self.certificates.certificate)

    def url(self, host: str = "127.0.0.1", authority: Path | None = None) -> str:
        return password_files.named(self._url(host, authority or self.certificates.certificate), self.file)

    def _url(self, host: str, authority: Path) -> str:
        query = f"sslmode=verify-full&sslrootcert={authority}"
        return f"postgresql+psycopg://gateway@{host}:{self.server.port}/postgres?{query}"

    def accept(self, password: str) -> None:
        """This and no other, from now on."""
        self.do(f"ALTER ROLE gateway PASSWORD '{password}'")

    def hand(self, password: str) -> None:
        """Put it in the file."""
        _put(self.file, password)

    def opened(self) -> None:
        """Open it once. Raises StoreUnavailable."""
        opened(self.url())

    def do(self, *statements: str) -> None:
        """As the administrator, each by itself."""
        engine = connect(self.server.url)
        with engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()


@contextmanager
def tls_postgres(made: Certificates, file: Path) -> Iterator[TlsPostgres]:
    """Running, with the password `first`, which stands in the file. Skips the test where there is no PostgreSQL."""
    with postgres_server() as server, tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        public, key = Path(folder) / "certificate.pem", Path(folder) / "key.pem"
        shutil.copy(made.certificate, public)
        shutil.copy(made.key, key)
        public.chmod(0o644)
        key.chmod(0o600)
        if os.getuid() == 0:
            shutil.chown(key, "postgres")
        rules = "local all all trust\\nhost all postgres all trust\\nhostssl all gateway all scram-sha-256"
        site = TlsPostgres(server, made, file)
        site.do(
            "CREATE ROLE gateway LOGIN PASSWORD 'first'",
            "GRANT ALL ON SCHEMA public TO gateway",
            f"ALTER SYSTEM SET ssl_cert_file = '{public}'",
            f"ALTER SYSTEM SET ssl_key_file = '{key}'",
            "ALTER SYSTEM SET ssl = on",
            f"COPY (SELECT unnest(string_to_array(E'{rules}', E'\\n'))) TO '{_hba(server)}'",
            "SELECT pg_reload_conf()",
        )
        site.hand("first")
        _wait_for_tls(site)
        yield site


def _put(file: Path, password: str) -> None:
    """As what keeps tokens fresh does."""
    aside = file.with_suffix(".new")
    aside.write_text(password)
    aside.replace(file)


def _hba(server: PostgresServer) -> str:
    engine = connect(server.url)
    with engine.connect() as connection:
        found = str(connection.execute(text("SHOW hba_file")).scalar_one())
    engine.dispose()
    return found


def _wait_for_tls(site: TlsPostgres) -> None:
    """It reads its settings again in its own time."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            site.opened()
            return
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def opened(url: str) -> None:
    """Open a database once. Raises StoreUnavailable."""
    engine = connect(url)
    try:
        with transaction(engine):
            pass
    finally:
        engine.dispose()
