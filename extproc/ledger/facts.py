"""Reading facts of an event that may hold anything. What is not as it should be is left out, and named in `odd`."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

MOST = 2**53 - 1
"""No counter goes further, and sums of such amounts fit a column."""

_TOKENS = 10**12
"""More than what a provider is believed that one call used; sums of a day of such calls fit a column."""

_FIRST, _LAST = 946_684_800.0, 4_102_444_800.0  # the years 2000 to 2099, Unix time in seconds
_LONGEST_JSON = 8_000  # characters
_LONGEST_SUMMED = 65_536  # characters of what sums are made of
_TOO_LONG = '"too long"'


def moment(seconds: float) -> datetime:
    """UTC without a zone, to the millisecond. Raises ValueError outside the years that are believed."""
    if not _FIRST <= seconds <= _LAST:
        raise ValueError("not a time of this century")
    return datetime.fromtimestamp(round(seconds, 3), UTC).replace(tzinfo=None)


class Facts:
    """Those of one mapping. `where` stands before its names in `odd`, which all parts of an event share."""

    __slots__ = ("_given", "_where", "odd")

    def __init__(self, given: Mapping[str, Any], odd: list[str] | None = None, where: str = "") -> None:
        self._given = given
        self._where = where
        self.odd: list[str] = [] if odd is None else odd

    @property
    def names(self) -> Iterable[str]:
        return self._given.keys()

    def value(self, name: str) -> Any:
        """Whatever it is."""
        return self._given.get(name)

    def part(self, name: str) -> "Facts":
        """A mapping inside, empty where there is none."""
        value = self._given.get(name)
        if value is not None and not isinstance(value, dict):
            self.odd.append(self._where + name)
            value = None
        return Facts(value or {}, self.odd, f"{self._where}{name}.")

    def inner(self, name: str) -> "Facts":
        """A mapping that is written as JSON text, empty where it cannot be read."""
        try:
            value = orjson.loads(self._given.get(name, ""))
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            self.odd.append(self._where + name)
            value = {}
        return Facts(value, self.odd, f"{self._where}{name}.")

    def text(self, name: str, most: int = 200) -> str | None:
        """None for an empty one, too."""
        value = self._given.get(name)
        if value is None:
            return None
        if isinstance(value, str):
            if len(value) <= most and "\0" not in value:  # which PostgreSQL does not store
                return value or None
            self.odd.append(self._where + name)
            return value.replace("\0", "\ufffd")[:most]
        self.odd.append(self._where + name)
        return None

    def whole(self, name: str, most: int = MOST) -> int | None:
        """A whole number from 0 to `most`; what was measured in parts is rounded."""
        value = self._given.get(name)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most:
            return round(value)
        self.odd.append(self._where + name)
        return None

    def count(self, name: str) -> int:
        return self.whole(name) or 0

    def tokens(self, name: str) -> int:
        return self.whole(name, _TOKENS) or 0

    def flag(self, name: str) -> bool:
        value = self._given.get(name)
        if value is not None and not isinstance(value, bool):
            self.odd.append(self._where + name)
        return value is True

    def digits(self, name: str) -> int | None:
        """A small number that is written as text."""
        value = self.text(name, 9)
        if value is None or (value.isascii() and value.isdecimal()):
            return None if value is None else int(value)
        self.odd.append(self._where + name)
        return None

    def thousandths(self, name: str) -> int:
        """Of a number with a fraction, such as milliseconds of seconds."""
        value = self._given.get(name)
        if value is None:
            return 0
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST // 1000:
            return round(value * 1000)
        self.odd.append(self._where + name)
        return 0

    def json(self, name: str) -> str | None:
        """Anything that is not empty, written as JSON."""
        value = self._given.get(name)
        return packed(value) if value else None

    def summed_json(self, name: str) -> str | None:
        """As `json`, of what no part may lack: it can be longer, and what is too long is odd."""
        value = self._given.get(name)
        text = packed(value, _LONGEST_SUMMED) if value else None
        if text == _TOO_LONG:
            self.odd.append(self._where + name)
        return text

    def thousands(self, name: str) -> datetime | None:
        """A time in milliseconds."""
        value = self.whole(name)
        try:
            return None if value is None else moment(value / 1000)
        except ValueError:
            self.odd.append(self._where + name)
            return None

    def moment(self, name: str) -> datetime | None:
        value = self._given.get(name)
        try:
            if value is not None and not isinstance(value, bool):
                return moment(value)
        except (TypeError, ValueError):
            pass
        self.odd.append(self._where + name)
        return None


def packed(value: object, most: int = _LONGEST_JSON) -> str:
    """JSON text that both databases store. What is too long, or too deep, is left out: it says so."""
    try:
        text = orjson.dumps(value).decode().replace("\\u0000", "\\ufffd")
    except TypeError:  # nested too deep
        return _TOO_LONG
    return text if len(text) <= most else _TOO_LONG
