"""What the configuration says about cool-downs and circuits."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cooling:
    """How a backend is spared. All times in seconds.

    `default_wait` counts where a provider asks for a pause and does not say, or not readably, how long; no pause is
    longer than `longest_wait`. After `failures` in a row the circuit opens for `open_for`, and for twice as long each
    time that a probe fails, up to `longest_open`.
    """

    default_wait: float = 5.0
    longest_wait: float = 60.0
    failures: int = 5
    open_for: float = 10.0
    longest_open: float = 60.0


@dataclass(frozen=True, slots=True)
class Watched:
    """A configured backend: the names under which models are deployed there, and how it is spared.

    `owner`: the team that brings it, for nobody else; empty: the gateway.
    """

    models: frozenset[str]
    cooling: Cooling = Cooling()
    owner: str = ""
