"""Carrying a plan out, so that a death at any point leaves the directory as it was, or as it shall be.

Keys are made and delivered first and come in force last, with all else, in one transaction: what was delivered and
never came in force is replaced by the next run. No key is delivered over one that works, whose text that would lose: a
key that is older than its new lifetime ends before, in a transaction of its own.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from extproc.config.team_files import Offer
from extproc.gitops.declared import Declared
from extproc.gitops.delivery import DeliveredKey, Delivery
from extproc.gitops.plan import KeyName, Plan, make_plan
from extproc.identity import keys
from extproc.stores.memory import in_force
from extproc.stores.ports import Conflict, DirectoryState, DirectoryStore, KeySpec, MintedKey

_ATTEMPTS = 3
_PIECE = 250  # keys delivered at once: between pieces the progress is told

Approve = Callable[[Plan], None]
"""Asks whether a plan shall be carried out; raises where it shall not."""
Progress = Callable[[str, int, int], None]
"""Hears what is being done, and how much of how much; 0 of 0 where that is not known."""


class NoDelivery(Exception):
    """Keys would have to be minted, and there is no place to deliver them to."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} keys without a place")
        self.count = count


class Busy(Exception):
    """The directory changed at every attempt."""


class Overwritten(Exception):
    """Keys of another run work, and this one, which should have been alone, has put others into their places."""

    def __init__(self, names: Sequence[KeyName]) -> None:
        super().__init__(f"{len(names)} keys overwritten")
        self.names = names


@dataclass(frozen=True, slots=True)
class Wish:
    """What shall be: the records that the files declare, and the models that they were checked against."""

    declared: Declared
    offered: Offer


def apply(
    store: DirectoryStore,
    wish: Wish,
    delivery: Delivery | None,
    approve: Approve,
    progress: Progress,
    now: Callable[[], datetime],
) -> Plan:
    """Plan, ask, deliver and carry out; returns the plan that was carried out, which may be empty.

    Where the directory changes meanwhile it is planned anew, and asked again if other steps come of it. Raises what
    `approve` raises, NoDelivery before anything is done, DeliveryError, StoreUnavailable, Conflict where another
    apply is at work, Busy and Overwritten.
    """
    approved: Plan | None = None
    delivered: frozenset[KeyName] = frozenset()
    with store.alone():
        for _ in range(_ATTEMPTS):
            state = store.state()
            if lost := _overwritten(state, delivered, now()):
                raise Overwritten(lost)
            plan = make_plan(state, wish.declared, wish.offered, now())
            if plan.is_empty():
                return plan
            if plan.to_mint() and delivery is None:
                raise NoDelivery(len(plan.to_mint()))
            if approved is None or plan.steps() != approved.steps():
                approve(plan)
                approved = plan
            try:
                ending = plan.ending()
                revision = store.apply(ending, plan.revision) if ending.keys_changed else plan.revision
                minted = [] if delivery is None else _mint_and_deliver(plan.to_mint(), delivery, now(), progress)
                delivered |= {(key.spec.team, key.spec.name) for key in minted}
                progress("writing to the database", 0, 0)
                store.apply(plan.change_set(minted), revision)
            except Conflict:
                continue
            return plan
    raise Busy


def _overwritten(state: DirectoryState, delivered: frozenset[KeyName], now: datetime) -> list[KeyName]:
    """Declared keys that work, of the names under which this run has delivered others."""
    working = (key.spec for key in state.keys if key.spec.declared and in_force(key, now))
    return sorted({(spec.team, spec.name) for spec in working} & delivered)


def _mint_and_deliver(
    specs: Sequence[KeySpec], delivery: Delivery, now: datetime, progress: Progress
) -> list[MintedKey]:
    """The digests of new keys, once the keys themselves are where they belong. They are held no longer than that."""
    minted: list[MintedKey] = []
    for start in range(0, len(specs), _PIECE):
        piece = specs[start : start + _PIECE]
        made = [_deliverable(spec, now) for spec in piece]
        delivery.deliver(made)
        minted += (
            MintedKey(spec, keys.digest(key.secret), keys.hint(key.secret))
            for spec, key in zip(piece, made, strict=True)
        )
        progress("delivering keys", len(minted), len(specs))
    return minted


def _deliverable(spec: KeySpec, now: datetime) -> DeliveredKey:
    end = None if spec.lifetime is None else now + spec.lifetime
    return DeliveredKey(spec.team, spec.name, keys.mint(secrets.token_bytes(32)), spec.environment, end)
