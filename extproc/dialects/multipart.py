"""The `model` field of a multipart/form-data body, and its `n`, read while the file streams through.

The model must stand before the file (RFC 7578 lets fields come in any order): a gateway that waited for a
field behind a 25 MB file would have to hold the file. Backends differ in which of two fields of one name
they take, and in how they read odd headers; so the whole body is watched, a second `model` is refused
wherever it stands, and so is every header that could be read in two ways. `n`, the images that an edit asks for,
need not be there; where it is not read before the file, as many as a provider makes must be reckoned with.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

from extproc.edits import Span
from extproc.refusals import BAD_REQUEST, DUPLICATE_FIELD, INVALID_VALUE, MISSING_MODEL, Refused

PREFIX = 128 * 1024
"""Bytes within which the model must be found: image edits put a prompt of up to 32,000 characters before it."""
MAX_HEADER = 8 * 1024
"""Bytes of the headers of one part."""
MAX_MODEL = 200
"""Bytes of a model's name."""

_TCHARS = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # a token of RFC 9110
PARAMETER = rf"[ \t]*;[ \t]*({_TCHARS})=(?:\"([^\"\\\r\n]*)\"|([^\s;\",\\]+))"
_CONTENT_TYPE = re.compile(rf"multipart/form-data((?:{PARAMETER})*)[ \t]*;?[ \t]*", re.IGNORECASE | re.ASCII)
PARAMETERS = re.compile(PARAMETER)
"""Of a content type: name, and value in quotes or without."""
_BOUNDARY = re.compile(r"[\x20-\x7e]{0,69}[\x21-\x7e]")  # RFC 2046, 5.1.1: 70 characters, the last no space

_HEADER = re.compile(rf"({_TCHARS}):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)".encode())
# A name with a backslash is read with or without it, depending on who reads; in a file's name nobody cares.
_ATTRIBUTE = (
    rf"""[ \t]*;[ \t]*(?:(name)=(?:"([^"\\]*)"|({_TCHARS}))|(filename\*?)=(?:"((?>(?:[^"\\]|\\.)*))"|({_TCHARS})))"""
)
_DISPOSITION = re.compile(rf"form-data((?:{_ATTRIBUTE})+)[ \t]*".encode(), re.IGNORECASE)
ATTRIBUTES = re.compile(_ATTRIBUTE.encode(), re.IGNORECASE)
"""Of a disposition: twice a name, and value in quotes or without."""
_MODEL = re.compile(rb"[\x21-\x7e]{1,%d}" % MAX_MODEL)
_COUNT = re.compile(rb"[1-9][0-9]{0,2}")


@dataclass(frozen=True, slots=True)
class Field:
    """The model as the form names it, and where its value stands in the body."""

    model: str
    span: Span


class Inside(Enum):
    """Where in the body the reader stands."""

    START = auto()  # before the first delimiter
    MARK = auto()  # behind a delimiter, which goes on to a part or ends the form
    HEADERS = auto()
    VALUE = auto()
    MODEL = auto()  # the value of the model
    COUNT = auto()  # the value of `n`
    EPILOGUE = auto()  # behind the last delimiter: nobody's


def delimiter(content_type: str) -> bytes:
    """The delimiter of a multipart body. Raises Refused where the header names none, or more than one."""
    whole = _CONTENT_TYPE.fullmatch(content_type.strip(" \t"))
    parameters = PARAMETERS.findall(whole[1]) if whole else []
    named: list[str] = [quoted or token for name, quoted, token in parameters if name.lower() == "boundary"]
    if len(named) != 1 or not _BOUNDARY.fullmatch(named[0]) or any(_is_extended(name) for name, *_ in parameters):
        raise Refused(BAD_REQUEST, "The content-type header must name one multipart boundary.")
    return b"--" + named[0].encode("ascii")


def _is_extended(name: str) -> bool:
    """Whether it is `boundary*` or `boundary*0`, which is the boundary for those who know RFC 2231."""
    return name.lower().startswith("boundary*")


class FormReader:
    """Reads one body as it comes. Linear in its size; holds at most the headers of a part.

    `decided` turns true when all that stands before the file is known: `model` is what it is from then on,
    and None only where it is not `required`, because the path names it. `images` is what `n` asks for; None where that
    is not known, or cannot be read as a plain number.
    """

    __slots__ = (
        *("_counted", "_delimiter", "_end", "_held", "_inside", "_offset", "_required", "_searched"),
        *("decided", "images", "model"),
    )

    def __init__(self, delimiter: bytes, required: bool = True) -> None:
        self.decided = False
        self._required = required
        self.model: Field | None = None
        self.images: int | None = None
        self._counted = False  # an `n` has come, in whatever spelling
        self._delimiter = delimiter
        self._end = b"\r\n" + delimiter
        self._held = bytearray()
        self._offset = 0  # of the held bytes in the body
        self._searched = 0  # held bytes in which what is looked for does not begin
        self._inside = Inside.START

    def part(self, name: str, value: str) -> bytes:
        """A field of this form, as it stands before any other."""
        disposition = f'Content-Disposition: form-data; name="{name}"'
        return self._delimiter + f"\r\n{disposition}\r\n\r\n{value}\r\n".encode()

    def feed(self, chunk: bytes, end: bool) -> None:
        """Take the next bytes; `end` with the last ones.

        Raises Refused when the model cannot come any more, comes twice, or the form can be read in two ways.
        """
        room = PREFIX - self._offset - len(self._held)
        if not self.decided and len(chunk) > room:
            self._take(chunk[:room])
            if not self.decided:
                self._decide()
            chunk = chunk[room:]
        self._take(chunk)
        if end and not self.decided:
            self._decide()

    def _take(self, chunk: bytes) -> None:
        self._held += chunk
        while self._step():
            pass

    def _step(self) -> bool:
        """One step on; False where more bytes are needed."""
        match self._inside:
            case Inside.START:
                return self._start()
            case Inside.MARK:
                return self._mark()
            case Inside.HEADERS:
                return self._headers()
            case Inside.VALUE | Inside.MODEL | Inside.COUNT:
                return self._value()
        self._held.clear()  # the epilogue
        return False

    def _start(self) -> bool:
        if not self._held.startswith(self._delimiter[: len(self._held)]):
            raise Refused(BAD_REQUEST, "The body does not start with its multipart boundary.")
        if len(self._held) < len(self._delimiter):
            return False
        return self._on(Inside.MARK, len(self._delimiter))

    def _mark(self) -> bool:
        if len(self._held) < 2:
            return False
        if self._held.startswith(b"--"):
            if not self.decided:
                self._decide()
            return self._on(Inside.EPILOGUE, 2)
        if not self._held.startswith(b"\r\n"):
            raise unreadable()
        return self._on(Inside.HEADERS, 0)

    def _headers(self) -> bool:
        end = self._find(b"\r\n\r\n")
        if (end if end >= 0 else self._searched) > MAX_HEADER:
            raise unreadable()
        value = end + len(b"\r\n\r\n")
        if end < 0 or len(self._held) < value + len(self._delimiter):
            return False
        if self._held.startswith(self._delimiter, value):
            raise unreadable()  # a part without a value, or a value that begins with the delimiter
        return self._head(end)

    def _head(self, end: int) -> bool:
        return self._on(self._part(bytes(self._held[2:end])), end + len(b"\r\n\r\n"))

    def _part(self, headers: bytes) -> Inside:
        name, is_file = _disposition(headers)
        if is_file and not self.decided:
            self._decide()
        is_model = name.lower() == b"model"
        if is_model and (self.decided or self.model is not None or name != b"model"):
            raise Refused(
                DUPLICATE_FIELD, "The field `model` is given twice, in another spelling, or behind the file.", "model"
            )
        if name.lower() == b"n":
            return self._count(name)
        return Inside.MODEL if is_model else Inside.VALUE

    def _count(self, name: bytes) -> Inside:
        if self.images is not None:
            raise Refused(DUPLICATE_FIELD, "The field `n` is given twice, or in another spelling.", "n")
        first, self._counted = not self._counted, True
        return Inside.COUNT if first and name == b"n" and not self.decided else Inside.VALUE

    def _value(self) -> bool:
        end = self._find(self._end)
        if self._inside is not Inside.VALUE:
            if end < 0 and len(self._held) <= MAX_MODEL + len(self._end):
                return False
            self._read(bytes(self._held[: end if end >= 0 else None]))
        if end < 0:
            self._drop(max(0, len(self._held) - len(self._end) + 1))
            return False
        return self._on(Inside.MARK, end + len(self._end))

    def _read(self, value: bytes) -> None:
        if self._inside is Inside.MODEL:
            self.model = self._named(value)
        else:
            self.images = int(value) if _COUNT.fullmatch(value) else None
        self._inside = Inside.VALUE

    def _named(self, text: bytes) -> Field:
        if not _MODEL.fullmatch(text):
            raise Refused(INVALID_VALUE, "`model` must be a model's name.", "model")
        return Field(text.decode("ascii"), Span(self._offset, self._offset + len(text)))

    def _decide(self) -> None:
        if self.model is None and (self._required or self._inside is Inside.MODEL):
            raise Refused(
                MISSING_MODEL,
                f"Send the form field `model` before the file, within the first {PREFIX // 1024} KiB of the body.",
                "model",
            )
        self.decided = True

    def _find(self, wanted: bytes) -> int:
        at = self._held.find(wanted, self._searched)
        if at < 0:
            self._searched = max(0, len(self._held) - len(wanted) + 1)
        return at

    def _drop(self, count: int) -> None:
        del self._held[:count]
        self._offset += count
        self._searched = max(0, self._searched - count)

    def _on(self, inside: Inside, consumed: int) -> bool:
        self._drop(consumed)
        self._searched = 0
        self._inside = inside
        return True


def _disposition(headers: bytes) -> tuple[bytes, bool]:
    """The name of a part, and whether it is a file."""
    lines = [_HEADER.fullmatch(line) for line in headers.split(b"\r\n")]
    found = [line[2] for line in lines if line and line[1].lower() == b"content-disposition"]
    whole = _DISPOSITION.fullmatch(found[0]) if len(found) == 1 and all(lines) else None
    if whole is None:
        raise unreadable()
    attributes = ATTRIBUTES.findall(whole[1])
    names: list[bytes] = [quoted or token for name, quoted, token, *_ in attributes if name]
    if len(names) != 1:
        raise unreadable()
    return names[0], len(attributes) > 1


def unreadable() -> Refused:
    """Of a part that two readers could read as two."""
    return Refused(BAD_REQUEST, "A part of the multipart body has headers that cannot be read in one way only.")
