"""Changes of a body in bytes."""

from extproc.values import frozen


@frozen
class Span:
    """A half-open range of bytes in a body."""

    start: int
    end: int


@frozen
class Edit:
    """Bytes to stand in place of a span; an empty span inserts."""

    span: Span
    text: bytes
