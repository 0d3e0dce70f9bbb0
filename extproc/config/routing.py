"""From the configuration to what the health of backends is watched by."""

from collections.abc import Iterator, Mapping

from extproc.config.backends import cooling
from extproc.config.byob import own_name, owner_of
from extproc.config.models import Target
from extproc.config.schema import Gateway
from extproc.routing.policy import Watched


def watched(gateway: Gateway) -> Mapping[str, Watched]:
    """Each backend with the names under which models are deployed there, those that are not enabled too.

    What is known of a backend so outlasts the time for which a model is not.
    """
    backends = gateway.all_backends()
    deployed: dict[str, set[str]] = {name: set() for name in backends}
    for model, backend, target in _targets(gateway):
        deployed[backend].add(target.model or model)
    usual = gateway.routing.cooling
    return {
        name: Watched(frozenset(deployed[name]), cooling(usual, backend.cooling), owner_of(name))
        for name, backend in backends.items()
    }


def _targets(gateway: Gateway) -> Iterator[tuple[str, str, Target]]:
    """Each with the name of its model and that of its backend."""
    for name, model in gateway.models.items():
        yield from ((name, target.backend, target) for group in model.targets for target in group)
    for team, brought in gateway.team_backends.items():
        for name, model in brought.models.items():
            for target in (target for group in model.targets for target in group):
                yield name, own_name(team, target.backend), target
