"""From one configuration to the next, while calls run: Envoy has what a call may be sent to before any worker does.

Secrets come first, then clusters, those of both configurations, then routes, then the workers. Once no call is left
that began with an older configuration, Envoy loses what only those had.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Sequence

from extproc.cli import envoy_files
from extproc.cli.envoy_admin import CLUSTERS, ROUTES, Watched, clusters_are_warming, updates
from extproc.cli.envoy_files import ListenerChanges, NextFiles, NotRendered
from extproc.cli.processes import State
from extproc.config.changes import Takes, differences, needs_restart, takes
from extproc.config.files import contents, read_by_envoy
from extproc.config.problems import Steps
from extproc.config.revision import Revision
from extproc.config.schema import Gateway
from extproc.secrets import SecretError
from extproc.secrets.named import named_secrets, secret_file
from extproc.supervisor import Child, Program

log = logging.getLogger(__name__)

_LOOK_S = 0.05
_UNSEEN_S = 2.0  # for an Envoy that cannot be asked
_ENVOY_S = 30.0  # for the addresses of new clusters
_WORKERS_S = 60.0  # for policies that are compiled, and models that are loaded
_MARGIN_S = 5.0  # beyond the time that a call may take


class Refused(Exception):
    """The next configuration is not taken over; the text has one problem a line."""


class Handover:
    """Knows the configuration that is in force, and hands over to the next.

    `programs` gives the workers' for a configuration, which their standard input holds. `fetch` brings secrets that
    must be fetched; it blocks, and raises SecretError.
    """

    def __init__(
        self,
        revision: Revision,
        state: State,
        children: Sequence[Child],
        programs: Callable[[Revision], Sequence[Program]],
        fetch: Callable[[Gateway], None],
    ) -> None:
        self.revision = revision
        self._state = state
        self._children = children
        self._programs = programs
        self._fetch = fetch
        self._older: dict[str, Gateway] = {}  # that calls in flight may have begun with, by the names of revisions
        self._clusters = (state.envoy / CLUSTERS.file).read_text(encoding="utf-8")  # of the revision alone
        self._secrets = contents(read_by_envoy(revision.gateway))  # with which they were written
        self._tidying: asyncio.Future[None] | None = None

    async def take(self, gateway: Gateway) -> bool:
        """Hand over. False where nothing has changed but secrets. Raises Refused; then all is as it was."""
        old, new = self.revision, await asyncio.to_thread(Revision.of, gateway)
        secrets = await asyncio.to_thread(lambda: contents(read_by_envoy(gateway)))
        changed = differences(old.gateway, gateway)
        if fixed := needs_restart(changed, listener_changes=False):
            raise _restart(fixed)
        await self.close()
        try:
            if takes(changed) > Takes.WORKERS or secrets != self._secrets:
                await self._have_envoy_take(gateway, changed)
                self._secrets = secrets
            if new.name == old.name:
                return False
            self._succeed(new)
        finally:
            self._tidying = asyncio.ensure_future(self._tidy())
        if not await self._served(_WORKERS_S):
            log.error("not every worker has taken the configuration %s over yet; the lines above may say why", new.name)
        return True

    async def close(self) -> None:
        """End what goes on behind."""
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.gather(self._tidying, return_exceptions=True)

    def _succeed(self, new: Revision) -> None:
        self._older[self.revision.name] = self.revision.gateway
        self._older.pop(new.name, None)
        self.revision = new
        for child, program in zip(self._children, self._programs(new), strict=True):
            child.hand(program)

    async def _prepared(self, gateway: Gateway, changed: list[Steps]) -> NextFiles:
        older = [*self._older.values(), self.revision.gateway]
        try:
            files = await envoy_files.prepare(gateway, older, self._state)
            await asyncio.to_thread(self._fetch, gateway)
        except ListenerChanges:
            raise _restart(needs_restart(changed, listener_changes=True)) from None
        except (NotRendered, SecretError) as error:
            raise Refused(str(error)) from None
        return files

    # ---- Envoy ----

    async def _have_envoy_take(self, gateway: Gateway, changed: list[Steps]) -> None:
        files = await self._prepared(gateway, changed)
        before = {what: self._has(what) for what in (CLUSTERS, ROUTES)}
        try:
            await self._put(CLUSTERS, files.between)
            await self._put(ROUTES, files.routes)
        except Refused:
            for what, text in before.items():
                if self._has(what) != text:
                    self._write(what, text)
            await asyncio.to_thread(self._fetch, self.revision.gateway)
            raise
        self._clusters = files.clusters

    def _has(self, what: Watched) -> str:
        return (self._state.envoy / what.file).read_text(encoding="utf-8")

    def _write(self, what: Watched, text: str) -> None:
        file = self._state.envoy / what.file
        try:
            envoy_files.put(text, file)
        except OSError as error:
            raise Refused(f"{file} cannot be written ({error.strerror})") from None

    async def _put(self, what: Watched, text: str) -> None:
        """Have Envoy take a file, and wait until it serves it. Raises Refused."""
        if self._has(what) == text:
            return
        before = await updates(self._state.admin_socket, what)
        self._write(what, text)
        if before is None:
            await asyncio.sleep(_UNSEEN_S)
            return
        deadline = time.monotonic() + _ENVOY_S
        while time.monotonic() < deadline:
            now = await updates(self._state.admin_socket, what)
            if now is not None and now.refused > before.refused:
                raise Refused(f"Envoy refuses {what.name}; its lines above say why")
            has_taken = now is not None and now.taken > before.taken
            if has_taken and not await clusters_are_warming(self._state.admin_socket):
                return
            await asyncio.sleep(_LOOK_S)
        raise Refused(f"Envoy did not take {what.name} in time")

    # ---- the workers, and what only older calls need ----

    async def _served(self, patience: float) -> bool:
        """Whether all workers decide new calls by the newest configuration, waited for."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if all(standing is not None and standing[0] == self.revision.name for standing in self._standings()):
                return True
            await asyncio.sleep(_LOOK_S)
        return False

    def _standings(self) -> list[tuple[str, list[str]] | None]:
        """Of each worker: which revision it serves, and which others calls in flight began with."""
        return [_standing(self._state, number) for number in range(len(self._children))]

    def _older_calls(self) -> bool:
        """Whether there is any that began with an older configuration, as far as is known."""
        return any(standing is None or standing[1] for standing in self._standings())

    async def _tidy(self) -> None:
        """Once no older call is left, or none can be any more, take away what only those needed."""
        if not self._older:
            return
        while not await self._served(_WORKERS_S):
            pass
        deadline = time.monotonic() + self.revision.gateway.timeouts.call.total_seconds() + _MARGIN_S
        while time.monotonic() < deadline and self._older_calls():  # noqa: ASYNC110 - in other processes
            await asyncio.sleep(_LOOK_S)
        try:
            await self._put(CLUSTERS, self._clusters)
        except Refused as error:
            log.error("clusters of an older configuration stay: %s", error)
            return
        stale = {named.secret for gateway in self._older.values() for named in named_secrets(gateway)}
        for secret in stale - {named.secret for named in named_secrets(self.revision.gateway)}:
            with contextlib.suppress(OSError):  # nobody asks for it any more
                (self._state.secrets / secret_file(secret)).unlink()
        self._older.clear()


def _restart(fields: Sequence[str]) -> Refused:
    return Refused("\n".join(f"needs a restart: {field}" for field in fields))


def _standing(state: State, number: int) -> tuple[str, list[str]] | None:
    try:
        told = json.loads(state.worker_standing(number).read_text())
    except (OSError, ValueError):
        return None
    return told["serving"], told["older"]
