"""Values of every kind that is looked for, each with a number of its own, and the search for any of them.

All values of a kind have a stem in common, which nothing else has: one search finds them all, however they were
written down, and the number that follows tells where a value had been put.
"""

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Json = dict[str, Any]
Path = tuple[str | int, ...]

_LETTERS = "QWXZKJVYBP"
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def _luhn(digits: str) -> str:
    """With the check digit of a card."""
    doubled = [int(digit) * (2 - at % 2) for at, digit in enumerate(reversed(digits))]
    return digits + str(-sum(number // 10 + number % 10 for number in doubled) % 10)


def _iban(account: str) -> str:
    return f"DE{98 - int(account + '131400') % 97:02d}{account}"


def _wallet(number: int) -> str:
    """A Bitcoin address; all begin alike."""
    payload = b"\0" + bytes.fromhex("77bff20c60e522dfaa3350c39b030a5d") + number.to_bytes(4, "big")
    raw = payload + hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]
    rest, text = int.from_bytes(raw, "big"), ""
    while rest:
        rest, digit = divmod(rest, 58)
        text = _BASE58[digit] + text
    return "1" + text


def _letters(number: int) -> str:
    """A number of five digits as letters, so that a key looks like one."""
    return f"{number:05d}".translate(str.maketrans("0123456789", _LETTERS))


def _token(number: int) -> str:
    head, claims = (
        b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "HS256", "typ": "JWT"}, {"sub": _letters(number)})
    )
    return f"{head}.{claims}.TJVA95OrM7E2cBab30RMHrHDcEfxjoYZgeFONFh7HgQ"


def _private_key(number: int) -> str:
    line = "MIIBVgIBADANBgkqhkiG9w0BAQEFAASCAUAwggE8AgEAAkEAq7BFUpkGp3LQmlQmx2eqTJ8"
    return f"-----BEGIN PRIVATE KEY-----\n{line}\n{_letters(number)}{line[::-1]}\n-----END PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class Kind:
    """One entity: how a value of it with a number looks, and what all of them have in common."""

    entity: str
    value: Callable[[int], str]
    stem: str


KINDS = (
    Kind("EMAIL_ADDRESS", lambda n: f"canary.{n:05d}@quux-mail.com", "@quux-mail.com"),
    Kind("PHONE_NUMBER", lambda n: f"+1 212-736-{n % 10_000:04d}", "212-736-"),
    Kind("CREDIT_CARD", lambda n: _luhn(f"4539148803{n:05d}"), "4539148803"),
    Kind("IBAN_CODE", lambda n: _iban(f"3704004453{n:08d}"), "3704004453"),
    Kind("US_SSN", lambda n: f"536-90-4{n % 1000:03d}", "536-90-4"),
    Kind("IP_ADDRESS", lambda n: f"93.184.216.{n % 250 + 1}", "93.184.216."),
    Kind("CRYPTO", _wallet, "1BvBMSEYstWetqTFn5Au4m4G"),
    Kind("OPENAI_API_KEY", lambda n: f"sk-proj-Qw7Zt9LmX2vB4nK8sR3{_letters(n)}", "Qw7Zt9LmX2vB4nK8sR3"),
    Kind("ANTHROPIC_API_KEY", lambda n: f"sk-ant-api03-Hy6Tg2Rf8Vb4Nm7{_letters(n)}_w-1QAA", "Hy6Tg2Rf8Vb4Nm7"),
    Kind("AWS_ACCESS_KEY", lambda n: f"AKIAQZ7WXM3RT6P{_letters(n)}", "QZ7WXM3RT6P"),
    Kind(
        "GITHUB_TOKEN", lambda n: f"ghp_16C7e42F292c6912E7710c838347Ae1{_letters(n)}", "16C7e42F292c6912E7710c838347Ae1"
    ),
    Kind("JWT", _token, "TJVA95OrM7E2cBab30RMHrHDcEfxjoYZgeFONFh7HgQ"),
    Kind("CONNECTION_STRING", lambda n: f"postgres://app:Zk4vQ9tL{_letters(n)}@db.internal:5432/main", "Zk4vQ9tL"),
    Kind("PRIVATE_KEY", _private_key, "ANBgkqhkiG9w0BAQEFAASCAUAwggE8AgEAAkEAq7BFUpkGp3LQmlQmx2eqTJ8"),
)


_NUMBER = re.compile(
    rf"canary\.([0-9]{{5}})|4539148803([0-9]{{5}})|3704004453[0-9]{{3}}([0-9]{{5}})"
    rf"|(?:sR3|Nm7|T6P|7Ae1|9tL)([{_LETTERS}]{{5}})|\n([{_LETTERS}]{{5}})8JTqe2xm"
)
_DIGITS = str.maketrans(_LETTERS, "0123456789")


class Canaries:
    """Gives out values, and remembers where each was put."""

    def __init__(self) -> None:
        self.places: list[str] = []

    def values(self, place: str) -> Mapping[str, str]:
        """One of each entity, for one place."""
        self.places.append(place)
        number = len(self.places)
        return {kind.entity: kind.value(number) for kind in KINDS}

    def prose(self, place: str, lines: bool = True) -> str:
        """A text with one of each; without `lines` it fits into one, and holds no private key."""
        values = [value for value in self.values(place).values() if lines or "\n" not in value]
        return "Here: " + " and ".join(values) + " are all."

    def where(self, found: bytes) -> str:
        """The place that a value which was found had been given to, as far as it can be told."""
        number = _NUMBER.search(found.decode(errors="replace"))
        told = int(number[number.lastindex or 0].translate(_DIGITS)) if number else 0
        return self.places[told - 1] if 0 < told <= len(self.places) else "?"


# ---- where values can stand -----------------------------------------------------------------------------


def texts(document: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """All strings of a document with their paths."""
    if isinstance(document, str):
        yield path, document
    elif isinstance(document, dict):
        for key, value in document.items():
            yield from texts(value, (*path, key))
    elif isinstance(document, list):
        for at, value in enumerate(document):
            yield from texts(value, (*path, at))


def replaced(document: Any, path: Path, text: str) -> Any:
    """The document with a text at a path."""
    if not path:
        return text
    step, *rest = path
    if isinstance(document, dict):
        return {key: replaced(value, tuple(rest), text) if key == step else value for key, value in document.items()}
    return [replaced(value, tuple(rest), text) if at == step else value for at, value in enumerate(document)]


def filled(document: Any, fill: Callable[[Path], str], path: Path = ()) -> Any:
    """The document with a key more in every object, and another text in the place of each `@`."""
    if isinstance(document, str):
        return document.replace("@", json.dumps(fill(path))[1:-1]) if "@" in document else document
    if isinstance(document, list):
        return [filled(value, fill, (*path, at)) for at, value in enumerate(document)]
    if isinstance(document, dict):
        made = {key: filled(value, fill, (*path, key)) for key, value in document.items()}
        return {**made, fill((*path, "*")): 1}
    return document


def escaped(document: Any) -> bytes:
    """JSON in which every character of every string is escaped, as a cunning caller writes it."""
    return re.sub(
        r'"((?:[^"\\]|\\.)*)"',
        lambda found: '"' + "".join(f"\\u{ord(character):04x}" for character in json.loads(found[0])) + '"',
        json.dumps(document),
    ).encode()


# ---- the search -----------------------------------------------------------------------------------------


def _spellings(stem: str) -> set[bytes]:
    """How a stem can stand in bytes: as it is, in JSON, in a URL, in hexadecimal, and anywhere in Base64."""
    raw = stem.encode()
    made = {raw, quote(stem, safe="").encode(), raw.hex().encode(), raw.hex().upper().encode()}
    made.add("".join(f"\\u{ord(character):04x}" for character in stem).encode())
    for before in range(3):
        coded = b64encode(b"\0" * before + raw)
        first = -(-before * 4 // 3) + (1 if before else 0)
        core = coded[first : len(b"\0" * before + raw) // 3 * 4]
        made |= {core, core.replace(b"+", b"-").replace(b"/", b"_")}
    return {spelling for spelling in made if len(spelling) >= 6}


_SPELLINGS = {kind.entity: _spellings(kind.stem) for kind in KINDS}


def found(haystack: bytes) -> list[tuple[str, bytes]]:
    """The entities of which a value is in the bytes, with what stands around it."""
    result = []
    for entity, spellings in _SPELLINGS.items():
        for spelling in spellings:
            if (at := haystack.find(spelling)) >= 0:
                result.append((entity, haystack[max(0, at - 200) : at + 200]))
                break
    return result
