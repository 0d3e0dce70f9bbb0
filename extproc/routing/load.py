"""How many calls each target has, of those of one worker."""

from collections import Counter

Target = tuple[str, str]
"""A backend, and the name under which the model is deployed there."""


class Load:
    """Counts the calls that are under way. Each that enters must leave."""

    def __init__(self) -> None:
        self._under_way: Counter[Target] = Counter()

    def of(self, target: Target) -> int:
        return self._under_way[target]

    def enter(self, target: Target) -> None:
        self._under_way[target] += 1

    def leave(self, target: Target) -> None:
        self._under_way[target] -= 1
        if self._under_way[target] <= 0:  # else targets of former configurations would stay
            del self._under_way[target]
