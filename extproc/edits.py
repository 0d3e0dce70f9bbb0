"""Changes of a body in bytes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open range of bytes in a body."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes to stand in place of a span; an empty span inserts."""

    span: Span
    text: bytes
