"""The configuration of a worker as it is now: what new calls are decided by. A call keeps what it began with.

The supervisor hands on what it has checked. It is compiled in a thread, swapped in whole, and told in a file beside
the worker's socket, as JSON: {serving: revision, older: [others that calls in flight began with]}.
"""

import asyncio
import gc
import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from extproc.config import compile as compiled
from extproc.config.files import contents, read_by_workers
from extproc.config.revision import Revision
from extproc.config.schema import Gateway
from extproc.guardrails.injection import heuristics
from extproc.metering import tokenizer
from extproc.model import Catalogue
from extproc.screening.ner import LocalModel

log = logging.getLogger(__name__)

_LOOK_S = 0.1  # between two looks at which calls are in flight

Swapped = Callable[[Gateway], None]
"""Configures what knows the backends beside the catalogue."""


class Screening(Protocol):
    """What looks through texts, with models in processes of their own."""

    async def add(self, models: Mapping[str, LocalModel], /) -> None: ...
    async def keep(self, models: Collection[str], /) -> None: ...


def models_of(catalogue: Catalogue) -> set[str]:
    """The models of names that its policies need."""
    tiers = [profile.policy.names for profile in catalogue.redaction.values()]
    return {tier.model for tier in tiers if tier is not None and tier.model is not None}


class Current:
    """Holds the catalogue of the newest configuration."""

    def __init__(self, revision: Revision, file: Path) -> None:
        """Compiles: up to a second for each policy that looks through texts. `file` is where it is told."""
        self._revision = revision
        self._file = file
        self._contents = contents(read_by_workers(revision.gateway))
        self._told = ""
        self._taking = self._untidy = False
        self.catalogue = _compiled(revision)

    async def take(self, revision: Revision, screening: Screening, swapped: Swapped) -> None:
        """Make this the newest; `swapped` is called with it before any call is decided by it."""
        self._taking = True
        try:
            catalogue, now = await asyncio.to_thread(self._next, revision)
            await screening.add({name: LocalModel(name) for name in models_of(catalogue)})
            swapped(revision.gateway)
            self.catalogue, self._revision, self._contents = catalogue, revision, now
        finally:
            self._taking, self._untidy = False, True

    async def follow(self, handed: "asyncio.Queue[Revision]", screening: Screening, swapped: Swapped) -> None:
        """Take whatever is handed over, for ever; of several the newest."""
        while True:
            newest = await handed.get()
            while not handed.empty():
                newest = handed.get_nowait()
            try:
                await self.take(newest, screening, swapped)
            except Exception as error:  # whatever it is: were this to end, no later one would be taken
                log.error("the configuration %s cannot be served: %s", newest.name, type(error).__name__)

    async def tell(self, in_flight: Callable[[], list[str]], screening: Screening) -> None:
        """Keep the file in step, for ever, and end what only calls of an older configuration needed."""
        while True:
            older = [name for name in in_flight() if name != self.catalogue.revision]
            await self._write(older)
            if self._untidy and not self._taking and not older:
                self._untidy = False
                await screening.keep(models_of(self.catalogue))
            await asyncio.sleep(_LOOK_S)

    def _next(self, revision: Revision) -> tuple[Catalogue, bytes]:
        """With no garbage collection meanwhile, which would hold up calls to visit all that is being made."""
        now = contents(read_by_workers(revision.gateway))
        if now != self._contents:
            tokenizer.load.cache_clear()
        gc.disable()
        try:
            catalogue = self._again(revision) if self._keeps_policies(revision, now) else _compiled(revision)
            gc.freeze()
        finally:
            gc.enable()
        return catalogue, now

    def _keeps_policies(self, revision: Revision, now: bytes) -> bool:
        old, new = self._revision.gateway, revision.gateway
        return now == self._contents and (old.policies, old.services) == (new.policies, new.services)

    def _again(self, revision: Revision) -> Catalogue:
        """With the compiled policies that there are, and so with what is remembered of texts."""
        known = self.catalogue
        fresh = compiled.without_policies(revision.gateway)
        return replace(fresh, redaction=known.redaction, guardrails=known.guardrails, revision=revision.name)

    async def _write(self, older: list[str]) -> None:
        standing = json.dumps({"serving": self.catalogue.revision, "older": older})
        if standing != self._told:
            await asyncio.to_thread(_replace, self._file, standing)
            self._told = standing


def _compiled(revision: Revision) -> Catalogue:
    """With all that a first call would have to wait for."""
    gateway = revision.gateway
    catalogue = replace(compiled.catalogue(gateway), revision=revision.name)
    if any(one.injection is not None for one in catalogue.guardrails.values()):
        heuristics()
    for file in {model.tokenizer for model in gateway.models.values() if model.tokenizer is not None}:
        tokenizer.load(str(file))
    return catalogue


def _replace(file: Path, text: str) -> None:
    aside = file.with_suffix(".next")
    aside.write_text(text)
    aside.replace(file)
