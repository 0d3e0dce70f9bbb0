"""The plain switches of a rate limit per key, for deployments that set nothing but environment variables.

They stand for settings of the tree, put over the file and under `SLUICE__…`:

    ENABLE_AI_RATE_LIMIT           true: the others count; else they are ignored
    AI_RATE_LIMIT_STRATEGY         total_tokens (default) or req
    AI_RATE_LIMIT_WINDOW_SECONDS   of a sliding window, 60
    AI_RATE_LIMIT_HIGH_LIMIT       200, for the paths as they are
    AI_RATE_LIMIT_LOW_LIMIT        20, for the same paths behind `listener.low_priority_prefix`
    AI_RATE_LIMIT_REJECT_CODE      503
    AI_RATE_LIMIT_REJECT_MESSAGE   rate limited
    GATEWAY_E2E_TEST_MODE          true: `listener.tells_priority`
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from extproc.config.environment import put
from extproc.config.fields import MOST
from extproc.config.problems import Place, Problem, did_you_mean
from extproc.config.tree import Tree

ENABLED = "ENABLE_AI_RATE_LIMIT"
TELLS = "GATEWAY_E2E_TEST_MODE"
_PREFIX = "AI_RATE_LIMIT_"
_NAMES = frozenset({"STRATEGY", "WINDOW_SECONDS", "HIGH_LIMIT", "LOW_LIMIT", "REJECT_CODE", "REJECT_MESSAGE"})
_LOW_PATHS = "/prioritization-simple"
_LONGEST_WINDOW = 31 * 86_400  # seconds
_WHOLE = re.compile(r"[0-9]{1,16}")
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_MEASURES = {"total_tokens": "tokens", "req": "requests"}
T = TypeVar("T")


class _Switches:
    """The variables as values; what is wrong with one joins the tree's problems, and its default stands in."""

    def __init__(self, tree: Tree, environ: Mapping[str, str]) -> None:
        self._tree = tree
        self._environ = environ

    def truth(self, name: str) -> bool:
        return self._read(name, False, lambda text: _TRUTHS[text.lower()], "must be true or false")

    def measure(self, name: str) -> str:
        return self._read(_PREFIX + name, "tokens", _MEASURES.__getitem__, "must be total_tokens or req")

    def number(self, name: str, default: int, least: int, most: int) -> int:
        def whole(text: str) -> int:
            if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
                raise ValueError
            return int(text)

        return self._read(_PREFIX + name, default, whole, f"must be a whole number from {least} to {most}")

    def line(self, name: str, default: str) -> str:
        def printable(text: str) -> str:
            if not text.isprintable() or len(text) > 200:
                raise ValueError
            return text

        return self._read(
            _PREFIX + name, default, printable, "must be printable characters on one line, at most 200 of them"
        )

    def refuse_unknown(self) -> None:
        for name in sorted(self._environ):
            rest = name.removeprefix(_PREFIX)
            if rest not in (name, *_NAMES):
                hint = did_you_mean(rest, _NAMES).replace("mean ", f"mean {_PREFIX}")
                self._tree.problems.append(Problem(Place(name), "", f"unknown variable{hint}"))

    def _read(self, name: str, default: T, value: Callable[[str], T], wanted: str) -> T:
        text = self._environ.get(name)
        if text is None:
            return default
        try:
            if not text.strip():
                wanted = "is empty: give it a value, or unset it"
                raise ValueError
            return value(text)
        except (KeyError, ValueError):
            self._tree.problems.append(Problem(Place(name), "", wanted))
            return default


def switch(tree: Tree, environ: Mapping[str, str]) -> None:
    """Put what the switches stand for over what the tree holds; what is wrong with one joins the tree's problems."""
    switches = _Switches(tree, environ)
    if not switches.truth(ENABLED):
        return
    switches.refuse_unknown()
    measure = switches.measure("STRATEGY")
    shared: dict[str, Any] = {
        "scope": "key",
        "per": switches.number("WINDOW_SECONDS", 60, 1, _LONGEST_WINDOW),
        "reject": {
            "status": switches.number("REJECT_CODE", 503, 400, 599),
            "message": switches.line("REJECT_MESSAGE", "rate limited"),
        },
    }
    if measure == "tokens":
        shared["hard"] = False  # no call at all would fit into so few tokens with the most that it can use
    high = switches.number("HIGH_LIMIT", 200, 1, MOST)
    low = switches.number("LOW_LIMIT", 20, 1, MOST)
    limits = {
        "ai-rate-limit-high": {**shared, measure: high, "only": {"low_route": False}},
        "ai-rate-limit-low": {**shared, measure: low, "only": {"low_route": True}},
    }
    listener: dict[str, Any] = {"tells_priority": True} if switches.truth(TELLS) else {}
    policies, own = tree.value.get("policies"), tree.value.get("listener")
    if not isinstance(own, dict) or own.get("low_priority_prefix") is None:
        listener["low_priority_prefix"] = _LOW_PATHS
    for section, value, there in (("policies", {"limits": limits}, policies), ("listener", listener, own)):
        if there is None or isinstance(there, dict):  # else the file has a mistake, of which its reader is told
            put(tree, (section,), value, Place(ENABLED))
