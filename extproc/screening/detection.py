"""Looking through the texts of calls: what was found is remembered, large texts go to a thread, names to a model.

A conversation comes again with every turn, and each of its texts is looked through once: what is kept of a text is a
digest under a key of this process, and where values stand in it; never the text.
"""

import asyncio
import logging
import os
import time
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import count
from typing import ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

from extproc.redaction import names
from extproc.redaction.detector import Finding
from extproc.redaction.policy import NameTier
from extproc.redaction.profile import DetectionFailed, Unreadable
from extproc.screening.services import ServiceFailed

log = logging.getLogger(__name__)

INLINE = 8 * 1024
"""Bytes that are worked through on the event loop: some tenths of a millisecond, of digits a few."""
SHORT = 2 * 1024
"""Bytes of a request all of whose texts are looked through at once: to remember them would cost more."""
_KEPT = 50_000  # texts of which the findings are remembered
_KEPT_FINDINGS = 200_000  # of all of them: some 30 MB
_MOST_FINDINGS = 1_000  # of one
_KEPT_S = 600.0  # for so long after the text came last
_SHORTEST = 64  # characters; to remember a shorter text costs more than to look through it
_THREADS = 2
_TOO_LONG = "it took too long"
_ASKED = 8  # texts of one call about which a service is asked at once

P = ParamSpec("P")
T = TypeVar("T")
Findings = Sequence[Finding]
Look = Callable[[Sequence[str]], Awaitable[Sequence[Findings]]]


class Model(Protocol):
    """A model in a process of its own. Raises DetectionFailed."""

    async def load(self) -> None: ...
    async def findings(self, tier: NameTier, texts: Sequence[str]) -> Sequence[Findings]: ...
    async def close(self) -> None: ...


class Services(Protocol):
    """What is asked over the network, by Envoy. Raises ServiceFailed."""

    async def ask(self, service: str, path: str, body: bytes, timeout: float) -> bytes: ...  # noqa: ASYNC109
    def close(self) -> None: ...


class Finder(Protocol):
    """Finds something in a text, in time that grows with its length and no faster; may be used by several threads."""

    def findings(self, text: str) -> Findings: ...


class _Memory:
    """Findings by a digest of the text they were found in, for a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._key = os.urandom(32)
        self._kept: OrderedDict[bytes, tuple[float, Findings]] = OrderedDict()
        self._size = 0  # findings
        self._numbers = count()
        self._finders: WeakKeyDictionary[object, bytes] = WeakKeyDictionary()

    def digest(self, finder: object, text: str) -> bytes:
        """Of a text for what looks through it: another policy finds other values."""
        number = self._finders.get(finder)
        if number is None:
            number = self._finders[finder] = next(self._numbers).to_bytes(8, "big")
        return blake2b(text.encode(errors="surrogatepass"), digest_size=16, key=self._key, salt=number).digest()

    def get(self, digest: bytes) -> Findings | None:
        known = self._kept.pop(digest, None)
        if known is None:
            return None
        self._size -= len(known[1])
        if self._clock() - known[0] > _KEPT_S:
            return None
        self.put(digest, known[1])
        return known[1]

    def put(self, digest: bytes, found: Findings) -> None:
        if len(found) > _MOST_FINDINGS:
            return
        now = self._clock()
        self._kept[digest] = (now, found)
        self._size += len(found)
        while self._kept:
            _, (since, oldest) = next(iter(self._kept.items()))
            if now - since <= _KEPT_S and len(self._kept) <= _KEPT and self._size <= _KEPT_FINDINGS:
                return
            self._kept.popitem(last=False)
            self._size -= len(oldest)


async def _load(models: Iterable[Model]) -> None:
    loaded = await asyncio.gather(*(model.load() for model in models), return_exceptions=True)
    for trouble in loaded:
        if isinstance(trouble, BaseException) and not isinstance(trouble, DetectionFailed):
            raise trouble


class Detection:
    """Shared by all calls of a worker."""

    def __init__(
        self,
        wait: float,
        models: Mapping[str, Model],
        services: Services,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wait`: seconds for one piece of work. `models` by name."""
        self._wait = wait
        self._models = dict(models)
        self._services = services
        self._clock = clock
        self._memory = _Memory(clock)
        self._threads = ThreadPoolExecutor(_THREADS, "detection")

    async def open(self) -> None:
        """Load the models: seconds. What cannot be loaded says so in the log, and each call that needs it fails."""
        await _load(self._models.values())

    async def add(self, models: Mapping[str, Model]) -> None:
        """Load further models, likewise; of one that is there already nothing is changed."""
        new = {name: model for name, model in models.items() if name not in self._models}
        self._models |= new
        await _load(new.values())

    async def keep(self, names: Collection[str]) -> None:
        """Close the models that are not among these: no call needs them any more."""
        for name in [name for name in self._models if name not in names]:
            await self._models.pop(name).close()

    async def close(self) -> None:
        for model in self._models.values():
            await model.close()

    async def run(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do work on so many bytes, on the loop where they are few. Raises DetectionFailed when it takes too long."""
        if size <= INLINE:
            return work(*args, **kwargs)
        done = asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))
        try:
            return await asyncio.wait_for(done, self._wait)
        except TimeoutError:
            raise DetectionFailed(_TOO_LONG) from None

    def at_once(self, finder: Finder | None, texts: Sequence[str]) -> Sequence[Findings]:
        """What it finds in each of a few short texts, without remembering it. Raises DetectionFailed."""
        return [()] * len(texts) if finder is None else self._all_found(finder, texts, self._clock() + self._wait)

    async def findings(self, finder: Finder, texts: Sequence[str]) -> Sequence[Findings]:
        """What it finds in each of the texts. Raises DetectionFailed."""

        async def look(new: Sequence[str]) -> Sequence[Findings]:
            until = self._clock() + self._wait
            return await self.run(sum(map(len, new)), self._all_found, finder, new, until)

        return await self._remembering(finder, texts, look)

    async def names(self, tier: NameTier, texts: Sequence[str]) -> Sequence[Findings]:
        """The names in each of the texts. Raises DetectionFailed."""

        async def look(new: Sequence[str]) -> Sequence[Findings]:
            if sum(map(len, new)) > tier.max_text:
                raise Unreadable("it has more text than the finder of names is given")
            if tier.service is None:
                return await self._models[tier.model or ""].findings(tier, new)
            return await self._asked(tier, tier.service, new)

        return await self._remembering(tier, texts, look)

    async def _remembering(self, finder: object, texts: Sequence[str], look: Look) -> Sequence[Findings]:
        """The findings in each of the texts; only of those that are new by looking."""
        memory = self._memory
        digests = [memory.digest(finder, text) if len(text) >= _SHORTEST else None for text in texts]
        found = [None if digest is None else memory.get(digest) for digest in digests]
        new = [at for at, findings in enumerate(found) if findings is None]
        if new:
            for at, findings in zip(new, await look([texts[at] for at in new]), strict=True):
                found[at] = findings
                if (digest := digests[at]) is not None:
                    memory.put(digest, findings)
        return [() if findings is None else findings for findings in found]

    async def _asked(self, tier: NameTier, service: str, texts: Sequence[str]) -> Sequence[Findings]:
        turns = asyncio.Semaphore(_ASKED)

        async def one(text: str) -> Findings:
            path, body = names.request(tier, text)
            async with turns:
                return names.findings(tier, await self._services.ask(service, path, body, tier.timeout), text)

        try:
            async with asyncio.timeout(tier.timeout):
                return await asyncio.gather(*map(one, texts))
        except (TimeoutError, ServiceFailed, ValueError):
            raise DetectionFailed("the service that finds names gave no answer that can be used") from None

    def _all_found(self, finder: Finder, texts: Sequence[str], until: float) -> Sequence[Findings]:
        """Gives up when nobody waits any more."""
        found: list[Findings] = []
        try:
            for text in texts:
                if self._clock() > until:
                    raise DetectionFailed(_TOO_LONG)
                found.append(finder.findings(text))
        except DetectionFailed:
            raise
        except Exception as error:  # a fault of ours, whose words may hold words of the text
            where = traceback.extract_tb(error.__traceback__)[-1]
            log.error("texts could not be looked through: %s at %s:%s", type(error).__name__, where.name, where.lineno)
            raise DetectionFailed("an error of the gateway") from None
        return found
