"""HTTP headers of one message, as Envoy hands them over: lower-case names, raw byte values."""

from collections.abc import Iterator


class Headers:
    """Looked up by lower-case name. Values decode as Latin-1, which never fails (RFC 9110, section 5.5)."""

    __slots__ = ("_first", "_pairs")

    def __init__(self, pairs: list[tuple[str, bytes]]) -> None:
        self._pairs = pairs
        self._first = dict(reversed(pairs))

    def get(self, name: str) -> str | None:
        """The first value of a header, or None."""
        value = self._first.get(name)
        return None if value is None else value.decode("latin-1")

    def all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value.decode("latin-1") for given, value in self._pairs if given == name]

    def __contains__(self, name: str) -> bool:
        return name in self._first

    def __iter__(self) -> Iterator[str]:
        """The names, once each."""
        return iter(self._first)
