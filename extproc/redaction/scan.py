"""Where in a text each trigger matches: one pass by Hyperscan, or one of `re` for each trigger where it is missing.

Hyperscan tells the end of every match, overlapping ones too; `re` those that do not overlap. Recognizers are made so
that both lead to the same values.
"""

import importlib.util
import re
from collections.abc import Sequence
from typing import Any, Protocol

Ends = dict[int, list[int]]
"""By the number of a trigger, the ends of its matches, ascending."""


class TriggerError(ValueError):
    """A trigger that Hyperscan does not take: its number, and why."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


class Scanner(Protocol):
    """Tells the ends of all matches. May be used by several threads at once."""

    def ends(self, data: bytes) -> Ends: ...


class PlainScanner:
    """In pure Python. Holds the interpreter's lock for the whole scan."""

    def __init__(self, triggers: Sequence[str | None]) -> None:
        """A trigger that is None is said to match in any text."""
        self._triggers = [trigger and re.compile(trigger.encode("latin-1")) for trigger in triggers]

    def ends(self, data: bytes) -> Ends:
        found: Ends = {}
        for number, trigger in enumerate(self._triggers):
            ends = [match.end() for match in trigger.finditer(data)] if trigger else [len(data)]
            if ends:
                found[number] = ends
        return found


class HyperscanScanner:
    """By Hyperscan, which lets other threads run meanwhile."""

    def __init__(self, triggers: Sequence[str]) -> None:
        """Raises TriggerError."""
        import hyperscan

        self._scratch = hyperscan.Scratch
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        expressions = [trigger.encode("latin-1") for trigger in triggers]
        try:
            self._database.compile(expressions, ids=list(range(len(triggers))))
        except (hyperscan.HyperscanError, hyperscan.error) as error:
            raise _refused(expressions) from error
        # One for each scan that runs at the same time. Lists of CPython are safe to share.
        self._idle: list[Any] = []

    def ends(self, data: bytes) -> Ends:
        scratch = self._idle.pop() if self._idle else self._scratch(self._database)
        found: Ends = {}
        self._database.scan(data, match_event_handler=_note, context=found, scratch=scratch)
        self._idle.append(scratch)
        return found


def _refused(expressions: Sequence[bytes]) -> TriggerError:
    """Hyperscan does not say which of many it does not take, so they are compiled one by one."""
    import hyperscan

    for number, expression in enumerate(expressions):
        try:
            hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK).compile([expression], ids=[0])
        except (hyperscan.HyperscanError, hyperscan.error) as error:
            return TriggerError(number, str(error))
    return TriggerError(0, "all of them together are too large")


def _note(number: int, _start: int, end: int, _flags: int, found: Any) -> None:
    ends: list[int] | None = found.get(number)
    if ends is None:
        found[number] = [end]
    else:
        ends.append(end)


def has_hyperscan() -> bool:
    return importlib.util.find_spec("hyperscan") is not None
