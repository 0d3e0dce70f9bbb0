"""Which targets are tried, in which order. Python draws; Envoy carries out."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from math import ceil, log
from typing import Protocol

import orjson

from extproc.dialects import json_spans, paths
from extproc.dialects.translate import directions
from extproc.dialects.translate.direction import Direction, Field
from extproc.model import (
    Backend,
    Caller,
    Catalogue,
    Chain,
    CleanPrompt,
    Dialect,
    Order,
    PublicModel,
    Target,
    Team,
)
from extproc.refusals import (
    MISSING_MODEL,
    MODEL_NOT_FOUND,
    PERMISSION_DENIED,
    PRICE_UNKNOWN,
    STATE_NOT_FOUND,
    STOPPED,
    UNSUPPORTED_BY_MODEL,
    UPSTREAM_RATE_LIMITED,
    UPSTREAM_UNAVAILABLE,
    Refusal,
    Refused,
    after,
)
from extproc.routing.attempt import Why
from extproc.routing.health import Standing
from extproc.surfaces import Place
from extproc.values import frozen

_UNPRICED = "The gateway serves only what has a price, and this model has none. Ask its operators for one."

Draw = Callable[[], float]
"""A random number in [0, 1)."""


def model_for(caller: Caller, place: Place, named: str | None, catalogue: Catalogue) -> PublicModel:
    """The public model that the call names: in Azure's legacy path, in the body, or by default of its surface.

    A model that the caller may not use is not told apart from one that does not exist.
    """
    name = written(place, named) or catalogue.defaults.get(place.surface)
    if name is None:
        raise Refused(MISSING_MODEL, "`model` is required.", "model")
    model = catalogue.named(name, caller.team)
    if model is None or not caller.may_use(model):
        raise Refused(
            MODEL_NOT_FOUND,
            "The model does not exist or this key may not use it. GET /v1/models lists what it may use.",
            "model",
        )
    if model.surfaces is not None and place.surface not in model.surfaces:
        raise Refused(UNSUPPORTED_BY_MODEL, f"This model is not for the {place.surface.value} API.", "model")
    return model


def written(place: Place, named: str | None) -> str | None:
    """The model's name as the caller wrote it."""
    return place.deployment or named


class Health(Protocol):
    """What is known of the targets just now, see routing.health. Times are seconds of its clock."""

    def until(self, backend: str, model: str, now: float) -> Standing:
        """Until when the target is left out or tried last, and why; 0.0 with a reason: one call probes it."""

    def may_probe(self, backend: str, now: float) -> bool:
        """Whether this call may be the probe. It is one from then on."""

    def unprobed(self, backend: str) -> None:
        """The call that was to be the probe is none: another one may."""

    def may_retry(self, owner: str, share: float, now: float) -> bool:
        """Whether a call may be tried at another backend, as long as so few of all calls to an owner's backends are."""


class Traffic(Protocol):
    """What the other calls are doing, see stages.traffic."""

    def ordered(self, order: Order, drawn: list[Target], stream: bool, draw: Draw, now: float) -> list[Target]:
        """The targets of a group, `drawn` by weight, as a model wants them. `stream`: what the call asks for."""


Lacks = Mapping[Dialect, Field | None]
"""By dialects to which a request would be translated: the field that cannot be expressed there, None: all can."""


@frozen
class Conditions:
    """What the order of a model's targets depends on beside the configuration."""

    draw: Draw
    health: Health
    now: float
    team: Team | None = None  # the caller's
    binding: str | None = None  # calls that share it go to the same backend of a group as long as it serves
    attempts: int = 5  # the most targets of a chain
    stops: Collection[tuple[str, str]] = ()  # emergency stops in force, see identity.directory
    lacks: Lacks | None = None  # as `lacks` gives it; None: yet to be found out
    retry_share: float = 1.0  # of all calls, the most that may be tried again after failures; 1: any number
    traffic: Traffic | None = None  # None: nothing is known of it
    began: int = 0  # when the call did, in milliseconds of Unix time: it is paid by the prices of then
    priced_only: bool = False  # targets without a price are left out


def alone(
    model: PublicModel, place: Place, team: Team | None, priced_only: bool, health: Health, now: float
) -> Chain | None:
    """The chain of a model with one target in all, which needs no order, where nothing is in its way and no stop is in
    force. None: see `chain`."""
    if len(model.groups) != 1 or len(model.groups[0]) != 1:
        return None
    target = model.groups[0][0]
    backend = target.backend
    if target.versions or target.weight <= 0 or (priced_only and target.price is None):
        return None
    if (team is not None and not team.admits(backend)) or not paths.serves(backend, place.surface):
        return None
    return Chain(model, (target,)) if health.until(backend.name, target.model, now)[1] is None else None


def chain(model: PublicModel, place: Place, clean: CleanPrompt, given: Conditions) -> Chain:
    """The targets in the order to try them: group by group, inside a group by weighted draw.

    Made from a CleanPrompt, so that nothing is routed that has not been through the guard. A backend stands
    in a chain once: its cluster has one path and one model name per call.

    What cools is left out; what says that nothing is left there comes later, and what answers by errors last. A
    backend whose circuit is half-open is tried where it is drawn first, so that the next one serves if it fails.
    """
    found: dict[Why | None, dict[str, Target]] = {None: {}, Why.SPENT: {}, Why.FAILING: {}}
    targets = found[None]
    cooling: list[Standing] = []
    probe: str | None = None
    if given.stops:
        check_stops(model, given.stops)
    fit = _Fit(place, given, lacks(model, place, clean, given.team) if given.lacks is None else given.lacks)
    for group in model.groups:
        able = [target for one in group if fit.takes(target := one.at(given.began))]
        for target in _ordered(able, model.order, clean.prompt.stream, given):
            standing = given.health.until(target.backend.name, target.model, given.now)
            if standing[1] is not None and not targets and _may_probe(target, standing, given):
                probe, standing = target.backend.name, (0.0, None)
            if standing[1] in found:
                found[standing[1]].setdefault(target.backend.name, target)
            else:
                cooling.append(standing)
    for late in (found[Why.SPENT], found[Why.FAILING]):
        for name, target in late.items():
            targets.setdefault(name, target)
    if not targets:
        raise Refused.of(_all_cooling(cooling, given.now)) if cooling else fit.refused()
    if len(targets) == 1:
        return Chain(model, tuple(targets.values()), probe)
    return Chain(model, tuple(targets.values())[: _attempts(model, given, probe)], probe)


def _attempts(model: PublicModel, given: Conditions, probe: str | None) -> int:
    """The most targets of a chain. While too much fails a call has one, and behind a backend that it probes another."""
    if given.health.may_retry(model.owner, given.retry_share, given.now):
        return given.attempts
    return min(given.attempts, 1 if probe is None else 2)


def lacks(model: PublicModel, place: Place, clean: CleanPrompt, team: Team | None) -> Lacks:
    """Whether the request as it will be sent can be translated for those of the model's backends that need that.

    Each costs a translation, of a large request more than the event loop has time for.
    """
    surface, wanted = place.surface, dict[Dialect, Direction]()
    for backend in (target.backend for group in model.groups for target in group):
        direction = directions.needed(backend, surface)
        if direction is not None and (team is None or team.admits(backend)):
            wanted[backend.dialect] = direction
    if not wanted:
        return {}
    try:
        request = clean.prompt.plain
        if request is None or clean.edits:
            request = orjson.loads(json_spans.splice(clean.prompt.body, clean.edits))
    except ValueError:  # the readers of surfaces are more patient
        return dict.fromkeys(wanted, Field("", "It has characters that only backends of its own dialect take."))
    return {dialect: direction.refused(request) for dialect, direction in wanted.items()}


class _Fit:
    """Which backends can take one request: those that its team may use, in their own dialect or translated."""

    def __init__(self, place: Place, given: Conditions, lacks: Lacks) -> None:
        self._surface = place.surface
        self._team = given.team
        self._stops = given.stops
        self._known = lacks
        self._is_stopped = False
        self._lacks: dict[Dialect, Field | None] = {}  # of the backends that were asked about
        self._is_kept_away = False
        self._priced_only = given.priced_only
        self._is_unpriced = False

    def takes(self, target: Target) -> bool:
        takes = self._takes(target.backend)
        if takes and self._priced_only and target.price is None:
            self._is_unpriced = True
            return False
        return takes

    def _takes(self, backend: Backend) -> bool:
        if self._team is not None and not self._team.admits(backend):
            self._is_kept_away = True
            return False
        if ("backend", backend.name) in self._stops:
            self._is_stopped = True
            return False
        if paths.serves(backend, self._surface):
            return True
        if directions.needed(backend, self._surface) is None:
            return False
        self._lacks[backend.dialect] = lack = self._known[backend.dialect]
        return lack is None

    def refused(self) -> Refused:
        """For where none takes it, by what is in its way."""
        if self._is_stopped:  # what it could have taken is not known
            why = "The operators of the gateway have taken the backends of this model out of service. Ask them."
            return Refused(STOPPED, why, "model")
        lack = next((lack for lack in self._lacks.values() if lack is not None), None)
        if lack is None and self._is_unpriced:
            return Refused(PRICE_UNKNOWN, _UNPRICED, "model")
        if lack is None and self._is_kept_away:
            return Refused(
                PERMISSION_DENIED, "The team's providers and regions leave no backend of this model.", "model"
            )
        if lack is None:
            why = f"No backend of this model serves the {self._surface.value} API."
            return Refused(UNSUPPORTED_BY_MODEL, why, "model")
        what = f"`{lack.name}`" if lack.name else "this request"
        why = f"No backend of this model can take {what}. {lack.why}".rstrip()
        return Refused(UNSUPPORTED_BY_MODEL, why, lack.name or None)


def _may_probe(target: Target, standing: Standing, given: Conditions) -> bool:
    """Whether the circuit of one that is left out is half-open, and this call is the one that tries it."""
    return standing[0] <= given.now and given.health.may_probe(target.backend.name, given.now)


def _all_cooling(cooling: list[Standing], now: float) -> Refusal:
    """With the shortest wait after which one of them is tried again."""
    wait = max(1, ceil(1000 * (min(until for until, _ in cooling) - now)))
    if any(why is Why.RATE_LIMITED for _, why in cooling):
        message = "All backends of this model ask for a pause. Try again after the time that retry-after tells."
        return Refusal(UPSTREAM_RATE_LIMITED, message, headers=after(wait))
    message = "No backend of this model answers at the moment. Try again after the time that retry-after tells."
    return Refusal(UPSTREAM_UNAVAILABLE, message, headers=after(wait))


def _ordered(group: list[Target], order: Order, stream: bool, given: Conditions) -> list[Target]:
    """A bound call goes where the others of its kind went, however busy that is."""
    if given.binding is not None:
        return bound(group, given.binding)
    drawn = shuffled(group, given.draw)
    return drawn if given.traffic is None else given.traffic.ordered(order, drawn, stream, given.draw, given.now)


def shuffled(group: list[Target], draw: Draw) -> list[Target]:
    """The group in an order in which each place is drawn by weight; weight 0 is never drawn."""
    left = [target for target in group if target.weight > 0]
    order: list[Target] = []
    while len(left) > 1:
        point = draw() * sum(target.weight for target in left)
        for target in left:
            point -= target.weight
            if point < 0:
                break
        order.append(target)
        left.remove(target)
    return order + left


def bound(group: list[Target], binding: str) -> list[Target]:
    """The group in the one order that calls with this binding have, in which each place goes by weight.

    Weighted rendezvous hashing: without a target the others keep their order, so only its own calls move.
    """
    return sorted([target for target in group if target.weight > 0], key=lambda target: _distance(target, binding))


def _distance(target: Target, binding: str) -> float:
    name = f"{len(binding)} {binding} {target.backend.name}/{target.model}"
    number = int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest())
    return -log((number + 1) / 2**64) / target.weight


def _priced(target: Target, only: bool) -> Target:
    if only and target.price is None:
        raise Refused(PRICE_UNKNOWN, _UNPRICED, "model")
    return target


def check_stops(model: PublicModel, stops: Collection[tuple[str, str]]) -> None:
    """Raises Refused where operators have stopped the model, or all that serves it."""
    backends = {("backend", target.backend.name) for group in model.groups for target in group}
    if ("model", model.name) in stops or (backends and backends <= set(stops)):
        raise Refused(STOPPED, "The operators of the gateway have taken this model out of service. Ask them.", "model")


def pinned(
    model: PublicModel,
    place: Place,
    backend: str,
    team: Team | None,
    stops: Collection[tuple[str, str]] = (),
    began: int = 0,
    priced_only: bool = False,
) -> Chain:
    """The one target that holds the state of this call; there is no other to fail over to. See Conditions."""
    if not {("model", model.name), ("backend", backend)}.isdisjoint(stops):
        raise Refused(STOPPED, "The operators of the gateway have taken what made this state out of service. Ask them.")
    for group in model.groups:
        for target in group:
            is_it = target.backend.name == backend and paths.serves(target.backend, place.surface)
            if is_it and (team is None or team.admits(target.backend)):
                return Chain(model, (_priced(target.at(began), priced_only),))
    raise Refused(
        STATE_NOT_FOUND,
        "The state that this call refers to was made with another model. Use that model, or send the full input.",
        "model",
    )
