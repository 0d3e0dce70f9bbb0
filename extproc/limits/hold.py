"""What a call has reserved, from the decision to its settlement."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from extproc.limits.demand import Extent
from extproc.limits.limit import Limit
from extproc.model import Demand
from extproc.stores.counters import Answer, Draw, Reading

_NOTHING = Extent()
_LITTLE = Demand()


class Stake(NamedTuple):
    """What a hold has of one counter, and by which limit. `values` are those of its scopes; `backend`: of a limit by
    backend, whose counter it is. `models`: it counts where one of these serves the call; None: whichever does."""

    limit: Limit
    draw: Draw
    values: tuple[str, ...] = ()
    backend: str | None = None
    models: frozenset[str] | None = None


@dataclass(slots=True)
class Hold:
    """The stakes of a call in all the limits that it falls under. `id`: see `counters.hold_name`.

    `cap`: tokens of one choice that it paid for at first. `local`: the store was down, and the worker counts by
    itself. `once`: refuses a repeat of the call, by its Idempotency-Key, for as long as this one is open. `surely`:
    what the call uses if it is sent, as far as that is known. `note`: whose it is, should nobody settle it.
    """

    id: str
    stakes: tuple[Stake, ...]
    demand: Demand
    extent: Extent = _NOTHING
    surely: Demand = _LITTLE
    cap: int = 0
    leased: bool = False
    local: bool = False
    once: Draw | None = None
    note: bytes = b""

    @property
    def draws(self) -> tuple[Draw, ...]:
        """The draws of the stakes in their order, and that of `once` behind them."""
        draws = tuple([stake.draw for stake in self.stakes])
        return draws if self.once is None else (*draws, self.once)

    def read(self, answer: Answer) -> Iterator[tuple[Stake, Reading]]:
        """Each stake with its counter after the step that gave this answer."""
        return zip(self.stakes, answer.readings, strict=False)  # `once` has no stake
