"""The `model` field of a multipart/form-data body, read while the file streams through.

The model must stand before the file (RFC 7578 lets fields come in any order): a gateway that waited for a
field behind a 25 MB file would have to hold the file. Backends differ in which of two fields of one name
they take, and in how they read odd headers; so the whole body is watched, a second `model` is refused
wherever it stands, and so is every header that could be read in two ways.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

from extproc.model import Span
from extproc.refusals import BAD_REQUEST, DUPLICATE_FIELD, INVALID_VALUE, MISSING_MODEL, Refused

PREFIX = 128 * 1024
"""Bytes within which the model must be found: image edits put a prompt of up to 32,000 characters before it."""
MAX_HEADER = 8 * 1024
"""Bytes of the headers of one part."""
MAX_MODEL = 200
"""Bytes of a model's name."""

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = rf';[ \t]*({_TOKEN})=(?:"([^"\\\r\n]*)"|([^\s;",\\]+))[ \t]*'
_CONTENT_TYPE = re.compile(rf"multipart/form-data[ \t]*((?:{_PARAMETER})*)", re.IGNORECASE | re.ASCII)
_PARAMETERS = re.compile(_PARAMETER, re.ASCII)
_BOUNDARY = re.compile(r"[\x20-\x7e]{0,69}[\x21-\x7e]")  # RFC 2046, 5.1.1: 70 characters, the last no space

_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_VALUE = rb'(?:"(?:[^"\\]|\\.)*+"|[!#$%&\'*+\-.^_`|~0-9A-Za-z]++)'
_DISPOSITION = re.compile(
    rb'form-data[ \t]*;[ \t]*name=(?:"([^"\\]*)"|([!#$%&\'*+\-.^_`|~0-9A-Za-z]+))[ \t]*'
    rb"((?:;[ \t]*filename\*?=" + _VALUE + rb"[ \t]*)*+)",
    re.IGNORECASE,
)
_MODEL = re.compile(rb"[\x21-\x7e]{1,%d}" % MAX_MODEL)


@dataclass(frozen=True, slots=True)
class Field:
    """The model as the form names it, and where its value stands in the body."""

    model: str
    span: Span


class _Inside(Enum):
    """Where in the body the reader stands."""

    START = auto()  # before the first delimiter
    MARK = auto()  # behind a delimiter, which goes on to a part or ends the form
    HEADERS = auto()
    VALUE = auto()
    MODEL = auto()  # the value of the model
    EPILOGUE = auto()  # behind the last delimiter: nobody's


def delimiter(content_type: str) -> bytes:
    """The delimiter of a multipart body. Raises Refused where the header names none, or more than one."""
    whole = _CONTENT_TYPE.fullmatch(content_type.strip(" \t"))
    named = [
        quoted or token
        for name, quoted, token in _PARAMETERS.findall(whole[1] if whole else "")
        if name.lower() == "boundary"
    ]
    if len(named) != 1 or not _BOUNDARY.fullmatch(named[0]):
        raise Refused(BAD_REQUEST, "The content-type header must name one multipart boundary.")
    return b"--" + named[0].encode("ascii")


class FormReader:
    """Reads one body as it comes. Linear in its size; holds at most the headers of a part.

    `decided` turns true when all that stands before the file is known: `model` is set from then on.
    """

    __slots__ = ("_delimiter", "_end", "_held", "_inside", "_offset", "_searched", "decided", "model")

    def __init__(self, delimiter: bytes) -> None:
        self.decided = False
        self.model: Field | None = None
        self._delimiter = delimiter
        self._end = b"\r\n" + delimiter
        self._held = bytearray()
        self._offset = 0  # of the held bytes in the body
        self._searched = 0  # held bytes in which what is looked for does not begin
        self._inside = _Inside.START

    def feed(self, chunk: bytes, end: bool) -> None:
        """Take the next bytes; `end` with the last ones.

        Raises Refused when the model cannot come any more, comes twice, or the form can be read in two ways.
        """
        self._held += chunk
        while self._step():
            pass
        if not self.decided and (end or self._offset + len(self._held) > PREFIX):
            self._decide()

    def _step(self) -> bool:
        """One step on; False where more bytes are needed."""
        match self._inside:
            case _Inside.START:
                return self._start()
            case _Inside.MARK:
                return self._mark()
            case _Inside.HEADERS:
                return self._headers()
            case _Inside.VALUE | _Inside.MODEL:
                return self._value()
            case _Inside.EPILOGUE:
                self._held.clear()
                return False

    def _start(self) -> bool:
        if not self._held.startswith(self._delimiter[: len(self._held)]):
            raise Refused(BAD_REQUEST, "The body does not start with its multipart boundary.")
        if len(self._held) < len(self._delimiter):
            return False
        return self._on(_Inside.MARK, len(self._delimiter))

    def _mark(self) -> bool:
        if len(self._held) < 2:
            return False
        if self._held.startswith(b"--"):
            self._decide()
            return self._on(_Inside.EPILOGUE, 2)
        if not self._held.startswith(b"\r\n"):
            raise _unreadable()
        return self._on(_Inside.HEADERS, 0)

    def _headers(self) -> bool:
        end = self._find(b"\r\n\r\n", MAX_HEADER)
        if end < 0:
            if len(self._held) > MAX_HEADER:
                raise _unreadable()
            return False
        name, is_file = _disposition(bytes(self._held[2:end]))
        if is_file:
            self._decide()
        is_model = name.lower() == b"model"
        if is_model and (is_file or name != b"model" or self.model is not None):
            raise Refused(DUPLICATE_FIELD, "The field `model` is given twice, or in another spelling.", "model")
        # From the empty line on: in an empty value its end is the delimiter's start.
        return self._on(_Inside.MODEL if is_model else _Inside.VALUE, end + 2)

    def _value(self) -> bool:
        is_model = self._inside is _Inside.MODEL
        end = self._find(self._end, len(self._held))
        if end >= 0:
            if is_model:
                self._name(bytes(self._held[2:end]))
            return self._on(_Inside.MARK, end + len(self._end))
        if is_model:
            if len(self._held) > MAX_MODEL + 2 + len(self._end):
                self._name(bytes(self._held[2:]))
            return False
        self._drop(max(0, len(self._held) - len(self._end)))
        return False

    def _name(self, text: bytes) -> None:
        if not _MODEL.fullmatch(text):
            raise Refused(INVALID_VALUE, "`model` must be a model's name.", "model")
        start = self._offset + 2
        self.model = Field(text.decode("ascii"), Span(start, start + len(text)))

    def _decide(self) -> None:
        if self.model is None:
            raise Refused(
                MISSING_MODEL,
                f"Send the form field `model` before the file, within the first {PREFIX // 1024} KiB of the body.",
                "model",
            )
        self.decided = True
