"""Which targets are tried, in which order. Python draws; Envoy carries out."""

from collections.abc import Callable

from extproc.dialects import paths
from extproc.model import Caller, Catalogue, Chain, CleanPrompt, PublicModel, Target
from extproc.refusals import (
    MISSING_MODEL,
    MODEL_NOT_FOUND,
    STATE_NOT_FOUND,
    UNSUPPORTED_BY_MODEL,
    Refused,
)
from extproc.surfaces import Place

Draw = Callable[[], float]
"""A random number in [0, 1)."""


def model_for(caller: Caller, place: Place, named: str | None, catalogue: Catalogue) -> PublicModel:
    """The public model that the call names: in Azure's legacy path, in the body, or by default of its surface.

    A model that the caller may not use is not told apart from one that does not exist.
    """
    name = place.deployment or named or catalogue.defaults.get(place.surface)
    if name is None:
        raise Refused(MISSING_MODEL, "`model` is required.", "model")
    model = catalogue.models.get(name)
    if model is None or not caller.may_use(model):
        raise Refused(
            MODEL_NOT_FOUND,
            "The model does not exist or this key may not use it. GET /v1/models lists what it may use.",
            "model",
        )
    return model


def chain(model: PublicModel, place: Place, clean: CleanPrompt, draw: Draw) -> Chain:  # noqa: ARG001
    """The targets in the order to try them: group by group, inside a group by weighted draw.

    Made from a CleanPrompt, so that nothing is routed that has not been through the guard. A backend stands
    in a chain once: its cluster has one path and one model name per call.
    """
    targets: dict[str, Target] = {}
    for group in model.groups:
        able = [target for target in group if paths.serves(target.backend, place.surface)]
        for target in shuffled(able, draw):
            targets.setdefault(target.backend.name, target)
    if not targets:
        raise Refused(
            UNSUPPORTED_BY_MODEL,
            f"No backend of this model serves the {place.surface.value} API.",
            "model",
        )
    return Chain(model, tuple(targets.values()))


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


def pinned(model: PublicModel, place: Place, backend: str) -> Chain:
    """The one target that holds the state of this call; there is no other to fail over to."""
    for group in model.groups:
        for target in group:
            if target.backend.name == backend and paths.serves(target.backend, place.surface):
                return Chain(model, (target,))
    raise Refused(
        STATE_NOT_FOUND,
        "The state that this call refers to was made with another model. Use that model, or send the full input.",
        "model",
    )
