"""What one worker knows of the targets: from attempts that it was told of, and from the other workers.

Targets are known to the store as `backend/model`, circuits as `backend`: no backend's name has a slash.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from extproc.routing.attempt import Attempt, Meaning, Why, cool_down, is_answered, meaning
from extproc.routing.budget import RetryBudget
from extproc.routing.circuit import Circuit, State
from extproc.routing.policy import Watched
from extproc.stores.cooldowns import Entry

Standing = tuple[float, Why | None]
"""Until when a target is left out (0.0: it is not), and why."""

_FREE: Standing = (0.0, None)
_WHYS = frozenset(Why)


class Condition(NamedTuple):
    """What operators see of a backend: how many of its targets cool or are spent, and its circuit."""

    cooling: int
    circuit: State


class Health:
    """Knows the configured targets and no others. Times are seconds of a clock that is never set back.

    `chance` gives numbers in [0, 1).
    """

    def __init__(self, backends: Mapping[str, Watched], chance: Callable[[], float]) -> None:
        self._chance = chance
        self._retries: Mapping[str, RetryBudget] = {}  # by owner: what one team brings may fail at its own expense
        self._backends: Mapping[str, Watched] = {}
        self._circuits: dict[str, Circuit] = {}
        self._targets: dict[str, tuple[str, str]] = {}  # by their names in the store
        self._cooling: dict[tuple[str, str], Standing] = {}
        self._heard: Collection[str] = ()  # the names that the store had when it was last asked
        self.configure(backends)

    def configure(self, backends: Mapping[str, Watched]) -> None:
        """From now on watch these. Of targets that stay, everything stays known."""
        known = self._circuits
        self._circuits = {}
        for name, watched in backends.items():
            circuit = self._circuits[name] = known.get(name) or Circuit(watched.cooling, self._chance)
            circuit.cooling = watched.cooling
        self._targets = {
            f"{name}/{model}": (name, model) for name, watched in backends.items() for model in watched.models
        }
        owners = {watched.owner for watched in backends.values()}
        self._retries = {owner: self._retries.get(owner) or RetryBudget() for owner in owners}
        stay = set(self._targets.values())
        self._cooling = {target: standing for target, standing in self._cooling.items() if target in stay}
        self._backends = backends

    # ---- for calls ----

    def until(self, backend: str, model: str, now: float) -> Standing:
        """When this target may be tried again. 0.0 with a reason: now, by the one call that `may_probe` lets."""
        circuit = self._circuits.get(backend)
        cooling = self._cooling.get((backend, model), _FREE)
        standing = cooling if cooling[0] > now else _FREE
        if circuit is None or not circuit.span:
            return standing
        at = circuit.until(now)
        if standing[0] and (circuit.answers or standing[0] >= at):  # what only comes last says less
            return standing
        return at, _why(circuit)

    def may_probe(self, backend: str, now: float) -> bool:
        """Whether a call may go to the backend now. If it is to be probed, this call does it and no other may."""
        circuit = self._circuits.get(backend)
        return circuit is None or circuit.may_probe(now)

    def unprobed(self, backend: str) -> None:
        """The call that `may_probe` let does not ask the backend: another one may."""
        circuit = self._circuits.get(backend)
        if circuit is not None:
            circuit.unprobed()

    def may_retry(self, owner: str, share: float, now: float) -> bool:
        """Whether a call may be tried at another backend, as long as so few of all calls are. See RetryBudget.

        `owner`: whose backends these are, see Watched.
        """
        retries = self._retries.get(owner)
        return retries is None or retries.allows(share, now)

    # ---- for operators ----

    def conditions(self, now: float) -> dict[str, Condition]:
        """Of every backend."""
        cooling = Counter(backend for (backend, _), (until, _) in self._cooling.items() if until > now)
        return {name: Condition(cooling[name], circuit.state(now)) for name, circuit in self._circuits.items()}

    def trouble(self, backend: str) -> Why | None:
        """Why its circuit is not closed; None: it is, or nobody knows the backend."""
        circuit = self._circuits.get(backend)
        return None if circuit is None or not circuit.span else _why(circuit)

    # ---- from attempts ----

    def note(self, attempt: Attempt, now: float, wall: float) -> list[str]:
        """Learn from an attempt; the names of what others should know. `wall`: Unix time, for dates in headers."""
        watched = self._backends.get(attempt.backend)
        if watched is None:
            return []
        circuit, means = self._circuits[attempt.backend], meaning(attempt, wall)
        has_failed = means is Meaning.FAILED
        self._retries[watched.owner].note(attempt.call, has_failed, now)
        has_turned = (has_failed and circuit.failed(now, is_answered(attempt))) or (
            means is Meaning.ALIVE and circuit.succeeded(now)
        )
        changed = [attempt.backend] if has_turned else []
        asked = cool_down(attempt, watched.cooling, wall)
        if asked is not None:
            models = watched.models if attempt.model is None else watched.models & {attempt.model}
            changed += [
                f"{attempt.backend}/{model}"
                for model in sorted(models)
                if self._cool((attempt.backend, model), now + asked[0], asked[1])
            ]
        return changed

    def forget(self, backend: str) -> list[str]:
        """Let calls go to a backend again, whatever is known of it; the names that others should forget, too."""
        names = [name for name, target in self._targets.items() if target[0] == backend]
        if backend in self._circuits:
            names.append(backend)
        for name in names:
            self._lift(name)
        return names

    # ---- from and for other workers ----

    def entry(self, name: str, now: float) -> Entry | None:
        """What others should know under a name; None: that there is nothing (any more)."""
        circuit = self._circuits.get(name)
        if circuit is not None:
            keep = _ms(circuit.span)
            return Entry(_ms(circuit.left(now)), keep, _why(circuit)) if keep else None
        standing = self._cooling.get(self._targets.get(name, ("", "")))
        return None if standing is None else Entry(_ms(standing[0] - now), 0, standing[1] or Why.RATE_LIMITED)

    def learn(self, entries: Mapping[str, Entry], now: float) -> None:
        """Take over what the store has. What it had and has no more was lifted by another worker, or is over."""
        for name in set(self._heard) - entries.keys():
            self._lift(name)
        self._heard = frozenset(entries)
        for name, entry in entries.items():
            until = now + entry.wait / 1000
            if name in self._circuits and entry.keep > 0:
                self._circuits[name].open(until, entry.keep / 1000, entry.why == Why.FAILING)
            elif name in self._targets:
                why = Why(entry.why) if entry.why in _WHYS else Why.RATE_LIMITED
                self._cool(self._targets[name], until, why)

    def _cool(self, target: tuple[str, str], until: float, why: Why) -> bool:
        """True where it has to wait for longer than before."""
        if until <= self._cooling.get(target, _FREE)[0]:
            return False
        self._cooling[target] = until, why
        return True

    def _lift(self, name: str) -> None:
        if name in self._circuits:
            self._circuits[name].close()
        elif name in self._targets:
            self._cooling.pop(self._targets[name], None)


def _why(circuit: Circuit) -> Why:
    return Why.FAILING if circuit.answers else Why.CIRCUIT_OPEN


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
