"""A configuration that changes while the gateway runs: seen, loaded, checked, and handed over whole or refused.

A `Source` gives a digest of something that the configuration is read from: files, and what teams bring. It
is asked three times a second and gives the same text while nothing has changed; it does blocking work in a thread, and
raises nothing for what may pass: it gives what it gave last. `Load` runs in a thread after any source has changed and
then kept still for one look; it raises ConfigError with every problem.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from extproc.cli.handover import Refused
from extproc.cli.settings import safety_problems
from extproc.config.changes import differences
from extproc.config.files import watched_files
from extproc.config.loader import ConfigError, read
from extproc.config.problems import dotted
from extproc.config.revision import Revision
from extproc.config.schema import Gateway
from extproc.gitops.team_backends import Brought
from extproc.telemetry import metrics

log = logging.getLogger(__name__)

_LOOK_S = 0.3  # between two looks; what is being written is left alone until one has seen no change
_NAMED = 5  # changed settings that are told

Source = Callable[[], Awaitable[str]]
Load = Callable[[], Gateway]
Renewed = Callable[[Gateway], Gateway]


class Files:
    """The configuration file and all that it names: certificates, credentials, recognizers, tokenizers."""

    def __init__(self, config: Path | None) -> None:
        """Before it is loaded, so that no change is missed."""
        self.config = config
        self._at_first = {} if config is None else {config: _signature(config)}

    def watch(self, gateway: Gateway) -> None:
        """Look at what this configuration names, too."""
        known, named = self._at_first, watched_files(gateway)
        self._at_first = {path: known.get(path) or _signature(path) for path in (*self._config, *named)}

    async def digest(self) -> str:
        """Of the files that are not what they were when they were looked at first; empty where all are."""
        return await asyncio.to_thread(self._changed)

    @property
    def _config(self) -> list[Path]:
        return [] if self.config is None else [self.config]

    def _changed(self) -> str:
        now = {path: _signature(path) for path in self._at_first}
        return "\n".join(signature for path, signature in now.items() if signature != self._at_first[path])


def _signature(path: Path) -> str:
    """Of the file behind all links, and when it was written."""
    try:
        found = path.stat()
        return f"{path.resolve()} {found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns}"
    except OSError as error:
        return f"{path} {error.errno}"


def checked(files: Files, brought: Brought) -> Gateway:
    """What `sluice up` would start with. Raises ConfigError."""
    gateway, tree = read(files.config, os.environ)
    files.watch(gateway)
    if problems := safety_problems(gateway, tree):
        raise ConfigError(problems)
    return brought.merged(gateway)


class Handover(Protocol):
    """Puts a configuration in force."""

    revision: Revision

    async def take(self, gateway: Gateway, /) -> bool: ...
    async def close(self) -> None: ...


class Reloader:
    """Looks for changes for as long as the gateway runs.

    `renewed` gives a configuration with what teams bring by now; it blocks. `told`: each that is taken over.
    """

    def __init__(
        self,
        load: Load,
        sources: Sequence[Source],
        handover: Handover,
        renewed: Renewed = lambda gateway: gateway,
        told: Callable[[Gateway], None] = lambda _: None,
    ) -> None:
        self._load = load
        self._sources = sources
        self._handover = handover
        self._renewed = renewed
        self._told = told
        self._loaded: Gateway | None = None  # by this reload, whatever became of it
        _tell_revision(handover.revision)

    async def run(self, at_once: bool) -> None:
        """For ever. `at_once`: something has changed already since the configuration was loaded."""
        seen = await self._look()
        tried = None if at_once else seen
        while True:
            await asyncio.sleep(_LOOK_S)
            before, seen = seen, await self._look()
            if seen == before and seen != tried:
                await self.reload()
                tried = seen

    async def _look(self) -> list[str]:
        return [await _seen(source) for source in self._sources]

    async def reload(self) -> None:
        """Load and hand over. What is wrong is told, and what was in force goes on. Never raises.

        A file that is wrong, or takes a restart, does not keep in force what a team has taken back.
        """
        self._loaded = None
        if not await self._take(self._load):
            await self._take(self._again)

    def _again(self) -> Gateway | None:
        """The one in force with what teams bring now; None where that is the same, or was refused this minute."""
        in_force = self._handover.revision.gateway
        gateway = self._renewed(in_force)
        return None if gateway in (in_force, self._loaded) else gateway

    async def _take(self, load: Callable[[], Gateway | None]) -> bool:
        """Whether what is loaded is in force then."""
        before = self._handover.revision
        try:
            self._loaded = await asyncio.to_thread(load)
            has_changed = self._loaded is not None and await self._handover.take(self._loaded)
        except (ConfigError, Refused) as error:
            self._refuse(str(error))
        except Exception as error:  # whatever it is: were this to end, no later change would be seen
            self._refuse(f"{type(error).__name__} in the gateway; please report it")
        else:
            if has_changed:
                self._tell(before)
            return True
        return False

    def _refuse(self, why: str) -> None:
        metrics.CONFIG_RELOADS.labels("refused").inc()
        log.error("The changed configuration is refused, the one before stays in force:\n%s", why)

    def _tell(self, before: Revision) -> None:
        now = self._handover.revision
        changed = [dotted(steps) for steps in differences(before.gateway, now.gateway)] or ["a file that it names"]
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        log.warning("the configuration %s is in force, with %s%s", now.name, ", ".join(changed[:_NAMED]), more)
        metrics.CONFIG_RELOADS.labels("taken").inc()
        _tell_revision(now)
        self._told(now.gateway)


@asynccontextmanager
async def reloading(
    files: Files, brought: Brought, handover: Handover, told: Callable[[Gateway], None]
) -> AsyncIterator[None]:
    """Until this is left, what changes is taken over."""
    files.watch(handover.revision.gateway)
    sources = [files.digest, brought.digest]
    reloader = Reloader(lambda: checked(files, brought), sources, handover, brought.merged, told)
    has_changed = bool(await files.digest()) or await brought.has_changed()
    running = asyncio.ensure_future(reloader.run(at_once=has_changed))
    try:
        yield
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await handover.close()


async def _seen(source: Source) -> str:
    """Its digest, or what it fails by: were the look to end, no later change would be seen."""
    try:
        return await source()
    except Exception as error:
        return type(error).__name__


def _tell_revision(revision: Revision) -> None:
    metrics.CONFIG_LOADED.clear()
    metrics.CONFIG_LOADED.labels(revision.name).set(time.time())
