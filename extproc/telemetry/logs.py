"""What workers log, and the records of calls, as they go to a collector beside standard error and standard output."""

import logging
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from extproc.telemetry import otlp
from extproc.traceparent import Context

_LONGEST = 16_384  # characters of a line


class Line(NamedTuple):
    """A line of the log. `at` is Unix time, `level` is Python's; `trace` is of the call that it is about."""

    at: float
    level: int
    source: str
    text: str
    trace: Context | None


Item = Line | Mapping[str, object]
"""A line, or a record."""


class Outbox(Protocol):
    """Where what is told goes."""

    def put(self, item: Item) -> None:
        """Take an item. Never blocks, never raises."""


class Journal(Protocol):
    def write(self, record: Mapping[str, object]) -> None: ...


class Lines(logging.Handler):
    """Takes lines of the log. Of an error no more than what the line says: its own text may hold text of a call."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._outbox = outbox

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == otlp.__name__:  # that nothing can be sent to a collector is not for it
            return
        try:
            text = record.getMessage()[:_LONGEST]
        except Exception:  # a line that cannot be made, which standard error tells of
            text = str(record.msg)
        trace = getattr(record, "trace", None)
        self._outbox.put(Line(record.created, record.levelno, record.name, text, trace))


class Both:
    """A journal that hands records on, and to a collector."""

    def __init__(self, journal: Journal, outbox: Outbox) -> None:
        self._journal = journal
        self._outbox = outbox

    def write(self, record: Mapping[str, object]) -> None:
        """Queue a record; never blocks."""
        self._journal.write(record)
        self._outbox.put(record)
