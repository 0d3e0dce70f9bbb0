"""Backends that teams bring, on their way from the database into the configuration that a gateway serves.

What the database holds was checked against the gateway's `byob` when it was written, and may be older than what `byob`
says now. So it is checked again, and with what only this machine can tell: whether a secret is there, and where a name
leads. What does not pass is left out, told in the log, and keeps neither the rest nor the gateway itself from serving.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from extproc.config import addresses
from extproc.config.backends import Backend
from extproc.config.byob import Byob, OwnBackend, OwnModel, TeamBackends, credential_of, entries, has_weight, troubles
from extproc.config.fields import Credential, ModelName, Name
from extproc.config.files import contents
from extproc.config.models import Model
from extproc.config.problems import dotted
from extproc.config.schema import Gateway
from extproc.secrets import SecretError, source_of
from extproc.stores import snapshot
from extproc.stores.ports import DirectoryStore, StoreUnavailable, TeamRecord
from extproc.stores.sql import Stores, open_stores

log = logging.getLogger(__name__)

_PATIENCE = 3.0  # seconds for all names together
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_MODEL_NAME: TypeAdapter[str] = TypeAdapter(ModelName)

Resolve = Callable[[str], Collection[str]]
"""The addresses of a name. Raises OSError where it has none."""


def resolved(host: str) -> Collection[str]:
    """As this machine resolves names, and so most likely as Envoy beside it does."""
    return {str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}


class Brought:
    """What teams bring, read from the database of one gateway. Its methods block, and fail for nothing that may pass.

    `saved`: the workers' snapshot of the directory, for a start without the database.
    """

    def __init__(
        self, database: str, saved: Path | None, environ: Mapping[str, str], resolve: Resolve = resolved
    ) -> None:
        self._database = database
        self._saved = saved
        self._environ = environ
        self._resolve = resolve
        self._stores: Stores | None = None
        self._known: Mapping[str, str] | None = None  # as read last, by team
        self._allowed: Byob | None = None  # by the configuration that was merged last
        self._secrets: Sequence[tuple[Credential, Path | None]] = ()  # of all that were looked at then
        self._told: frozenset[str] = frozenset()
        self._merged = self._seen = ""  # digests: of what was merged last, and as it was read last

    def merged(self, gateway: Gateway) -> Gateway:
        """The configuration with what teams bring, as far as it is allowed and can be served."""
        self._allowed = gateway.byob
        self._merged = self._seen = ""
        if gateway.byob is None:
            return gateway
        loading = _Loading(gateway, gateway.byob, self._environ)
        loading.take(self._read())
        loading.leave_out_by_address(self._resolve)
        brought = loading.brought()
        self._secrets = loading.secrets
        told = frozenset(loading.left_out)
        for line in sorted(told - self._told):
            log.warning("%s", line)
        self._told = told
        self._merged = self._seen = self._digest(self._known or {})
        return gateway.model_copy(update={"team_backends": brought})

    async def digest(self) -> str:
        """Changes when they have to be merged anew."""
        return await asyncio.to_thread(self._look)

    async def has_changed(self) -> bool:
        """Whether there is something else than was merged last."""
        return await self.digest() != self._merged

    def _look(self) -> str:
        if self._allowed is None:
            return ""
        with contextlib.suppress(StoreUnavailable):  # what is known stays in force
            self._seen = self._digest(self._directory().brought())
        return self._seen

    def _digest(self, brought: Mapping[str, str]) -> str:
        """Of what there is, of whether its secrets are here, and of what stands in their files."""
        troubles = [_secret_trouble(*secret, self._environ) for secret in self._secrets]
        looked_at = zip(self._secrets, troubles, strict=True)
        sound = [secret.file for (secret, _), trouble in looked_at if secret.file and not trouble]
        told = [sorted(brought.items()), troubles, contents(sound).hex()]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def _read(self) -> Mapping[str, str]:
        """By team; what is known, or what the snapshot has, where the database does not answer."""
        try:
            self._known = self._directory().brought()
        except StoreUnavailable as error:
            if self._known is None:
                log.warning("backends of teams are those of the snapshot, if there is one: %s", error)
            return self._from_snapshot() if self._known is None else self._known
        return self._known

    def _directory(self) -> DirectoryStore:
        if self._stores is None:
            self._stores = open_stores(self._database)
        return self._stores.directory

    def _from_snapshot(self) -> Mapping[str, str]:
        if self._saved is None:
            return {}
        try:
            with closing(snapshot.load(self._saved)) as records:
                return {one.name: one.brought for one in records if isinstance(one, TeamRecord) and one.brought}
        except StoreUnavailable as error:
            log.warning("%s", error)
            return {}


def brought_to(gateway: Gateway, environ: Mapping[str, str]) -> Brought:
    """Of the database that a configuration names."""
    saved = gateway.state_dir / snapshot.FILE if gateway.identity.store_outage.snapshot else None
    return Brought(gateway.stores.database, saved, environ)


class _Loading:
    """One pass through what all teams bring."""

    def __init__(self, gateway: Gateway, byob: Byob, environ: Mapping[str, str]) -> None:
        self._gateway = gateway
        self._byob = byob
        self._environ = environ
        self._backends: dict[str, dict[str, Backend]] = {}
        self._models: dict[str, dict[str, OwnModel]] = {}
        self.secrets: list[tuple[Credential, Path | None]] = []
        self.left_out: list[str] = []

    def take(self, brought: Mapping[str, str]) -> None:
        for team, text in sorted(brought.items()):
            try:
                backends, models = entries(text)
            except ValueError:
                self._leave_out(team, "all that it brings", "it cannot be read")
                continue
            self._backends[team] = dict(self._read_backends(team, backends))
            self._models[team] = dict(self._read_models(team, models))

    def leave_out_by_address(self, resolve: Resolve) -> None:
        """Those whose names lead where no backend of a team may be. A name that leads nowhere just now stays."""
        named = [
            (team, name, host)
            for team, backends in self._backends.items()
            for name, backend in backends.items()
            if addresses.address(host := urlsplit(backend.url).hostname or "") is None
        ]
        found = _looked_up({host for _, _, host in named}, resolve)
        for team, name, host in named:
            problems = (addresses.trouble(ip_address(one), self._byob.private) for one in found.get(host, ()))
            if problem := next(filter(None, problems), ""):
                del self._backends[team][name]
                self._leave_out(team, f"backends.{name}", f"its host leads to what {problem}")

    def brought(self) -> dict[str, TeamBackends]:
        """What is left, by team."""
        found = {}
        for team, backends in self._backends.items():
            models = dict(self._served(team, backends))
            if backends:
                found[team] = TeamBackends(backends=backends, models=models)
        return found

    def _read_backends(self, team: str, given: Mapping[str, object]) -> Iterator[tuple[str, Backend]]:
        for name, entry in given.items():
            try:
                own = OwnBackend.model_validate(entry)
                yield _NAME.validate_python(name), self._allowed(team, own)
            except ValidationError as error:
                self._leave_out(team, f"backends.{name}", _unread(error))
            except ValueError as error:
                self._leave_out(team, f"backends.{name}", str(error))

    def _allowed(self, team: str, own: OwnBackend) -> Backend:
        """Raises ValueError for one that the gateway does not allow, or that has no secret here."""
        for steps, problem in troubles(team, own, self._byob, self._gateway.routing.cooling):
            raise ValueError(f"{dotted(steps)}: {problem}")
        fields = own.model_dump(exclude_unset=True, exclude={"credential"})
        if own.credential is not None:
            fields["credential"] = credential = credential_of(own.credential, team, self._byob)
            secret = credential, None if credential.file is None else credential.file.parent
            self.secrets.append(secret)
            if trouble := _secret_trouble(*secret, self._environ):
                raise ValueError(f"credential: {trouble}")
        return Backend.model_validate(fields)

    def _read_models(self, team: str, given: Mapping[str, object]) -> Iterator[tuple[str, OwnModel]]:
        for name, entry in given.items():
            try:
                yield _MODEL_NAME.validate_python(name), OwnModel.model_validate(entry)
            except ValidationError as error:
                self._leave_out(team, f"own_models.{name}", _unread(error))

    def _served(self, team: str, backends: Mapping[str, Backend]) -> Iterator[tuple[str, Model]]:
        """The models with those of their targets that are left."""
        for name, own in self._models[team].items():
            groups = [tuple(target for target in group if target.backend in backends) for group in own.targets]
            targets = [
                tuple(target.model_dump(exclude_unset=True) for target in group)
                for group in groups
                if has_weight(group)
            ]
            if targets:
                yield name, Model.model_validate({**own.model_dump(exclude_unset=True), "targets": targets})
            else:
                self._leave_out(team, f"own_models.{name}", "none of its backends is left")

    def _leave_out(self, team: str, what: str, why: str) -> None:
        self.left_out.append(f"team {team}: {what} is left out: {why}")


def _unread(error: ValidationError) -> str:
    """Where, and never what stands there."""
    steps = error.errors(include_input=False, include_context=False)[0]["loc"]
    return f"{dotted(steps)} cannot be read: it is of another version of Sluice, or damaged".lstrip()


def _secret_trouble(credential: Credential, folder: Path | None, environ: Mapping[str, str]) -> str:
    """Why a secret cannot be sent; empty where it can. `folder`: what a file must lie in, behind all links."""
    try:
        if credential.file and folder and not credential.file.resolve().is_relative_to(folder.resolve()):
            return f"the file {credential.file} is a link that leads out of the team's folder"
        source_of(credential, environ).check()
    except SecretError as error:
        return str(error)
    except (OSError, RuntimeError):  # such as links in a ring
        return f"the file {credential.file} cannot be found"
    return ""


def _looked_up(hosts: Collection[str], resolve: Resolve) -> Mapping[str, Collection[str]]:
    """The addresses of those that resolve in time. A resolver may take half a minute, and cannot be told to stop."""
    found: dict[str, Collection[str]] = {}

    def look(host: str) -> None:
        try:
            found[host] = resolve(host)
        except (OSError, UnicodeError):
            return

    threads = [threading.Thread(target=look, args=(host,), daemon=True) for host in sorted(hosts)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _PATIENCE
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(found)
