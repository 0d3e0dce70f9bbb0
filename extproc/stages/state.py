"""Server-side state that a call leans on: whose it is, and which backend holds it."""

from collections.abc import Mapping
from typing import Protocol

from extproc.model import Caller, Catalogue, PublicModel, StateReference, Team
from extproc.refusals import STATE_NOT_FOUND, Refused

ADVICE = (
    "There is no stored response or item with this id for this key. Send the full input instead "
    "(store: false; in agent frameworks: the chat completions client, or zero data retention)."
)


class Held(Protocol):
    """What is remembered of an id."""

    @property
    def backend(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def owner(self) -> str: ...


def holder(caller: Caller, state: StateReference, known: Mapping[str, Held]) -> str | None:
    """The backend that holds the state, or None where nothing ties the call to one.

    Another caller's id, an unknown id and ids of different backends are all refused in the same words.
    """
    backends = {_own(caller, known.get(made)) for made in state.ids}
    backends |= {_own(caller, known[sealed]) for sealed in state.sealed if sealed in known}
    if len(backends) > 1:
        raise Refused(STATE_NOT_FOUND, ADVICE)
    return backends.pop() if backends else None


def maker(catalogue: Catalogue, model: str, backend: str | None, team: Team | None) -> PublicModel:
    """The model that made it, by its public name; one that has left the configuration is no longer served."""
    for found in (catalogue.named(model, team), catalogue.models.get(model)):
        if found is not None and any(target.backend.name == backend for group in found.groups for target in group):
            return found
    raise Refused(STATE_NOT_FOUND, ADVICE)


def _own(caller: Caller, held: Held | None) -> str:
    if held is None or held.owner != caller.owner:
        raise Refused(STATE_NOT_FOUND, ADVICE)
    return held.backend
