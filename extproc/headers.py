"""HTTP headers of one message, as Envoy hands them over: lower-case names, raw byte values."""

from collections.abc import Iterator, Mapping


class Headers:
    """Looked up by lower-case name. Values decode as Latin-1, which never fails (RFC 9110, section 5.5)."""

    __slots__ = ("first", "pairs")

    def __init__(self, first: Mapping[str, bytes], pairs: list[tuple[str, bytes]] | None = None) -> None:
        """`first` has the first value of each name; `pairs` everything, where a name comes more than once."""
        self.first = first
        self.pairs = pairs

    @classmethod
    def of(cls, pairs: list[tuple[str, bytes]]) -> "Headers":
        """From all headers in their order."""
        return cls(dict(reversed(pairs)), pairs)

    def get(self, name: str) -> str | None:
        """The first value of a header, or None."""
        value = self.first.get(name)
        return None if value is None else value.decode("latin-1")

    def all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        if self.pairs is None:
            value = self.get(name)
            return [] if value is None else [value]
        return [value.decode("latin-1") for given, value in self.pairs if given == name]

    def replaced(self, name: str, value: bytes) -> "Headers":
        """With one value in the place of all there were."""
        pairs = None if self.pairs is None else [pair for pair in self.pairs if pair[0] != name] + [(name, value)]
        return Headers({**self.first, name: value}, pairs)

    def __contains__(self, name: str) -> bool:
        return name in self.first

    def __iter__(self) -> Iterator[str]:
        """The names, once each."""
        return iter(self.first)


def content_length(headers: Headers) -> int | None:
    """The content-length, where there is one that can be true."""
    text = headers.get("content-length") or ""
    return int(text) if text.isdecimal() and len(text) < 16 else None
