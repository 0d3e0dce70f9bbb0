"""The texts of a multipart/form-data body, handed out before they pass, while its files stream through unread.

A part is a file where the APIs want one, and where every backend takes it for one; all other parts are texts, whatever
they call themselves, and are held until they are whole. What is handed out must be what a backend reads: so texts are
UTF-8, nothing encodes them a second time, and what no backend needs of a part's headers stays behind.
"""

import re
from base64 import b64decode
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from extproc.dialects.multipart import (
    ATTRIBUTES,
    MAX_MODEL,
    PARAMETER,
    PARAMETERS,
    Field,
    FormReader,
    Inside,
    delimiter,
    unreadable,
)
from extproc.edits import Span
from extproc.refusals import BAD_REQUEST, INVALID_VALUE, TOO_LARGE, Refused

MAX_TEXT = 128 * 1024
"""Bytes of one text: the prompt of an image may have 32,000 characters, of four bytes each."""
MOST_TEXTS = 64
"""Texts of one form that are looked at: its fields, and the names of fields and files."""
MAX_TEXTS = 256 * 1024
"""Bytes of all texts, and of the headers of all parts."""

_FILES = re.compile(rb"(?:file|image|mask)(?:\[[0-9]{0,3}\])?")
_TYPE = re.compile(rf"[a-z]+/[a-z0-9.+-]+((?:{PARAMETER})*)[ \t]*;?[ \t]*", re.IGNORECASE | re.ASCII)
_TEXT_TYPE = re.compile(r"text/|[a-z]+/(?:[a-z0-9.-]+\+)?(?:json|xml|x?html)\b", re.IGNORECASE | re.ASCII)
_UTF_8 = ("utf-8", "utf8", "us-ascii")
_PLAIN = (b"7bit", b"8bit", b"binary")
_EXTENDED = re.compile(r"utf-8'[a-z-]*'([^']*)", re.IGNORECASE | re.ASCII)
_WORDS = re.compile(r"=\?[^?]*\?[bq]\?", re.IGNORECASE)
_WORD = re.compile(r"=\?utf-8\?b\?([A-Za-z0-9+/]*={0,2})\?=", re.IGNORECASE)
_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A", "\\": "%5C"})  # as browsers write names
_QUOTED = (2, 5)  # groups of an attribute

# Fields that say how to work, and what they say; a trained model could take one of these words for a name.
_SETTINGS = frozenset(
    (
        *(b"background", b"chunking_strategy", b"include[]", b"input_fidelity", b"language", b"moderation", b"n"),
        *(b"output_compression", b"output_format", b"partial_images", b"quality", b"response_format", b"size"),
        *(b"stream", b"temperature", b"timestamp_granularities[]"),
    )
)
_SETTING = re.compile(rb"[a-z]{1,16}(?:[_-][A-Za-z]{1,16})?|[0-9]{1,4}(?:[.x][0-9]{1,4})?")
_FIELDS = _SETTINGS | {b"file", b"image", b"image[]", b"mask", b"model", b"prompt", b"user"}
_KIND = re.compile(r"[a-z]+/[a-z.+-]+[0-9]?", re.IGNORECASE | re.ASCII)  # a plain content type

# A sample of a voice or an image within a field. What it holds is known by its type, as a file's is.
_DATA_URL = re.compile(rb"data:(?:audio|image|video)/[a-z0-9.+-]{1,64};base64,", re.IGNORECASE)
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="


@dataclass(frozen=True, slots=True)
class _Text:
    """One text, the bytes that it is read from, and how another one is written in their place."""

    raw: bytes
    text: str
    written: Callable[[str], bytes]


class UnreadableForm(Refused):
    """Raised for a form of which a text cannot be looked at as its backend reads it."""


class _Model(bytes):
    """The name of the model, of which the caller must know where it stands."""


_Piece = bytes | _Text


class FormTexts(FormReader):
    """Reads one body as it comes, and holds back what has not been looked at.

    Where it `changes` nothing, the body passes as it comes, and its texts are only told. `lenient`: where a text cannot
    be looked at, it and what follows pass as they are, and `unread` turns true; else that raises UnreadableForm.
    """

    __slots__ = (
        "_given",
        "_in_data",
        "_is_file",
        "_lenient",
        "_name",
        "_pieces",
        "_sent",
        "_spent",
        "changes",
        "unread",
    )

    def __init__(
        self, content_type: str, required: bool = True, *, changes: bool = True, lenient: bool = False
    ) -> None:
        """Raises Refused for a content type without one boundary, or with texts that are not UTF-8."""
        super().__init__(delimiter(content_type), required)
        self.changes = changes
        self.unread = False
        self._lenient = lenient
        try:
            _refuse_charsets(content_type)
        except UnreadableForm as why:
            self._give_up(why)
        self._pieces: list[_Piece] = []
        self._name = b""  # of the part in which the reader stands
        self._is_file = False
        self._in_data = False  # its value is a data URL
        self._given = 0  # texts
        self._spent = 0  # bytes of texts and headers
        self._sent = 0  # bytes that have passed

    def texts(self, chunk: bytes, end: bool) -> Generator[str, str, bytes]:
        """Take the next bytes, as `feed` does: gives each text that is whole, and is sent what may pass in its place.

        Returns the bytes that may pass; the model's span is in all of them. Raises Refused as `feed` does, and
        UnreadableForm where a text is too large, is not UTF-8, or ends with the body.
        """
        refused = self._refused(chunk, end)
        pieces, self._pieces = self._pieces, []
        passed = bytearray()
        for piece in pieces:
            if isinstance(piece, _Text):
                text = yield piece.text
                passed += piece.raw if text == piece.text else piece.written(text)
                continue
            if isinstance(piece, _Model) and self.changes:
                start = self._sent + len(passed)
                self.model = Field(piece.decode("ascii"), Span(start, start + len(piece)))
            passed += piece
        if refused is not None:
            raise refused
        if not self.changes:
            return chunk
        if end:  # what stood behind the last delimiter has stayed behind
            passed += b"\r\n" if self._inside is Inside.EPILOGUE else self._held
        self._sent += len(passed)
        return bytes(passed)

    def _refused(self, chunk: bytes, end: bool) -> Refused | None:
        """Feed; what was read before a refusal is looked at first, however the body is cut."""
        try:
            self.feed(chunk, end)
        except Refused as refused:
            return refused
        if end and self._inside is not Inside.EPILOGUE and not self._lenient:
            return UnreadableForm(BAD_REQUEST, "The multipart body ends before its last boundary.")
        return None

    def _give_up(self, why: UnreadableForm) -> None:
        if not self._lenient:
            raise why
        self.unread = True

    # ---- what passes -----------------------------------------------------------------------------------

    def _drop(self, count: int) -> None:
        self._pieces.append(bytes(self._held[:count]))
        super()._drop(count)

    def _head(self, end: int) -> bool:
        raw = bytes(self._held[2:end])
        inside = self._part(raw)
        head = self._look_at_head(raw)
        super()._drop(end)
        self._pieces += head.pieces
        self._name, self._is_file, self._in_data = head.name, head.is_file, False
        return self._on(inside, len(b"\r\n\r\n"))

    def _look_at_head(self, raw: bytes) -> "_Head":
        try:
            if not self.unread:
                self._spend(len(raw))
                return _read_head(raw)
        except UnreadableForm as why:
            self._give_up(why)
        return _Head(b"", True, [b"\r\n", raw])

    def _value(self) -> bool:
        if self._inside is Inside.MODEL:
            return self._model()
        if not self._is_file:
            try:
                return self._text()
            except UnreadableForm as why:
                self._give_up(why)
                self._is_file, self._in_data = True, False
        if self._in_data and self._held[: self._size()].translate(None, _BASE64):
            self._give_up(UnreadableForm(INVALID_VALUE, "A data URL of the form is not base64."))
            self._in_data = False
        return super()._value()

    def _model(self) -> bool:
        size = self._size()
        if self._find(self._end) < 0 and size <= MAX_MODEL:
            return False
        self._read(bytes(self._held[:size]))
        self._pieces.append(_Model(self._held[:size]))
        super()._drop(size)
        return self._on(Inside.MARK, len(self._end))

    def _text(self) -> bool:
        if self._inside is Inside.VALUE and (url := _DATA_URL.match(self._held)):
            self._hand_out(url.end())
            self._is_file = self._in_data = True
            return True
        size = self._size()
        self._check(size)
        if self._find(self._end) < 0:
            return False
        if self._inside is not Inside.VALUE:
            self._read(bytes(self._held[:size]))
        self._spend(size)
        self._hand_out(size)
        return self._on(Inside.MARK, len(self._end))

    def _size(self) -> int:
        """Bytes that are known to be of the value."""
        end = self._find(self._end)
        return end if end >= 0 else self._searched

    def _spend(self, size: int) -> None:
        self._check(size)
        self._spent += size

    def _check(self, size: int) -> None:
        if size > MAX_TEXT or self._spent + size > MAX_TEXTS:
            raise UnreadableForm(
                TOO_LARGE,
                f"A text of this form is larger than {MAX_TEXT // 1024} KiB, or all of them than {MAX_TEXTS // 1024}.",
            )

    def _hand_out(self, size: int) -> None:
        """Take so many bytes out of the body, as a text."""
        self._given += 1
        if self._given > MOST_TEXTS:
            raise UnreadableForm(TOO_LARGE, f"This form has more than {MOST_TEXTS} fields.")
        raw = bytes(self._held[:size])
        text = _decoded(raw)
        if self._name.lower() == b"_charset_" and text.lower() not in _UTF_8:
            raise _foreign()
        is_setting = not raw or (self._name in _SETTINGS and _SETTING.fullmatch(raw))
        super()._drop(size)
        self._pieces.append(raw if is_setting else _Text(raw, text, self._written))

    def _written(self, text: str) -> bytes:
        raw = text.encode()
        if self._end in b"\r\n" + raw:
            raise Refused(BAD_REQUEST, "A text of the form cannot be told from its boundary.")
        return raw


def _foreign() -> UnreadableForm:
    return UnreadableForm(BAD_REQUEST, "The texts of a form must be UTF-8, and its files must be sent as files.")


def _ambiguous() -> UnreadableForm:
    why = unreadable().refusal
    return UnreadableForm(why.kind, why.message)


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _foreign() from None


# ---- the headers of a part --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Head:
    """A part's headers, without those that no backend needs."""

    name: bytes
    is_file: bool
    pieces: list[_Piece]


def _read_head(headers: bytes) -> _Head:
    """Of a part that has one disposition and a name."""
    pieces: list[_Piece] = []
    found: list[re.Match[bytes]] = []
    kinds: list[str] = []
    for line in headers.split(b"\r\n"):
        header, _, rest = line.partition(b":")
        value = rest.lstrip(b" \t")
        before = b"\r\n" + line[: len(line) - len(value)]
        match header.lower():
            case b"content-disposition":
                found = list(ATTRIBUTES.finditer(value))
                pieces += [before, *_attributes(value, found)]
            case b"content-type":
                kinds.append(_decoded(value).rstrip())
                pieces += [before, value if _KIND.fullmatch(kinds[-1]) else _Text(value, kinds[-1], _escaped)]
            case b"content-transfer-encoding" if value.strip().lower() not in _PLAIN:
                raise _foreign()
    is_binary = _is_binary(kinds)
    name = next(one[one.lastindex or 0] for one in found if one[1])
    return _Head(name, is_binary and _names_file(found) and _FILES.fullmatch(name) is not None, pieces)


def _is_binary(kinds: list[str]) -> bool:
    """Whether the part's content type lets its value be a file's. Raises Refused for one that hides a text."""
    if len(kinds) > 1 or not all(map(_TYPE.fullmatch, kinds)):
        raise _ambiguous()
    for kind in kinds:
        _refuse_charsets(kind)
    return not any(map(_TEXT_TYPE.match, kinds))


def _refuse_charsets(content_type: str) -> None:
    for name, quoted, token in PARAMETERS.findall(content_type):
        charset = (quoted or token).lower() if name.lower() == "charset" else ""
        if name.lower().startswith("charset") and charset not in _UTF_8:  # `charset*` is one, too
            raise _foreign()


def _names_file(attributes: list[re.Match[bytes]]) -> bool:
    """Whether every backend sees a file: many take a part for a text where the file's name is empty or encoded."""
    names = [one[one.lastindex or 0] for one in attributes if one[4] and one[4].lower() == b"filename"]
    return bool(names) and all(names)


def _attributes(disposition: bytes, attributes: list[re.Match[bytes]]) -> Iterator[_Piece]:
    at = 0
    for one in attributes:
        group = one.lastindex or 0
        quotes = 1 if group in _QUOTED else 0
        start, end = one.start(group) - quotes, one.end(group) + quotes
        raw = disposition[start:end]
        yield disposition[at:start]
        if one[4] and one[4].endswith(b"*"):
            yield _Text(raw, _extended(raw), _encoded)
        elif one[1] and one[group] in _FIELDS:
            yield raw
        else:
            yield _Text(raw, _named(one[group]), _quoted)
        at = end
    yield disposition[at:]


def _named(raw: bytes) -> str:
    """A name as it is read; .NET writes one that is not ASCII as a word of RFC 2047."""
    text = _decoded(raw)
    if "\\" in text:
        raise _ambiguous()
    if not _WORDS.search(text):
        return text
    word = _WORD.fullmatch(text)
    try:
        return _decoded(b64decode(word[1] if word else "?", validate=True))
    except ValueError:
        raise _ambiguous() from None


def _extended(raw: bytes) -> str:
    """A name as RFC 5987 encodes it."""
    found = _EXTENDED.fullmatch(_decoded(raw))
    if found is None:
        raise _ambiguous()
    return _decoded(unquote_to_bytes(found[1]))


def _escaped(text: str) -> bytes:
    return text.translate(_ESCAPES).encode()


def _quoted(text: str) -> bytes:
    return b'"' + _escaped(text) + b'"'


def _encoded(text: str) -> bytes:
    return b"utf-8''" + quote(text, safe="").encode()
