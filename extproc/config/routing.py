"""From the configuration to what the health of backends is watched by."""

from collections.abc import Mapping

from extproc.config.backends import cooling
from extproc.config.schema import Gateway
from extproc.routing.policy import Watched


def watched(gateway: Gateway) -> Mapping[str, Watched]:
    """Each backend with the names under which models are deployed there, those that are not enabled too.

    What is known of a backend so outlasts the time for which a model is not.
    """
    deployed: dict[str, set[str]] = {name: set() for name in gateway.backends}
    for name, model in gateway.models.items():
        for target in (target for group in model.targets for target in group):
            deployed[target.backend].add(target.model or name)
    usual = gateway.routing.cooling
    return {
        name: Watched(frozenset(deployed[name]), cooling(usual, backend.cooling))
        for name, backend in gateway.backends.items()
    }
