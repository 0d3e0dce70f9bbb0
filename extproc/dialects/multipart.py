"""The `model` field of a multipart/form-data body, read from its first bytes while the file streams through.

Only what comes before the file is looked at (RFC 7578). The model must be there: a gateway that waited
for a field behind a 25 MB file would have to hold the file.
"""

import re
from dataclasses import dataclass

from extproc.model import Span
from extproc.refusals import BAD_REQUEST, DUPLICATE_FIELD, INVALID_VALUE, MISSING_MODEL, Refused

PREFIX = 16 * 1024
"""Bytes within which the model must be found."""

_BOUNDARY = re.compile(r'boundary=(?:"([^"\r\n]{1,70})"|([^\s;",]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb'content-disposition:\s*form-data\b[^\r\n]*?;\s*name="([^"\r\n]*)"', re.IGNORECASE)
_FILE = re.compile(rb"content-disposition:[^\r\n]*;\s*filename\*?=", re.IGNORECASE)
_MODEL = re.compile(rb"[\x21-\x7e]{1,200}")


@dataclass(frozen=True, slots=True)
class Field:
    """The model as the form names it, and where its value stands in the bytes seen."""

    model: str
    span: Span


def delimiter(content_type: str) -> bytes:
    """The delimiter of a multipart body. Raises Refused where the header names none."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise Refused(BAD_REQUEST, "The content-type header names no multipart boundary.")
    return b"--" + (found[1] or found[2]).encode("latin-1", "replace")


def find_model(head: bytes, delimiter: bytes, complete: bool) -> Field | None:
    """The model field in the first bytes of a body, or None if more bytes are needed to tell.

    `complete`: no more bytes will come. Raises Refused when the model cannot come any more.
    """
    if not head.startswith(delimiter[: len(head)]):
        raise Refused(BAD_REQUEST, "The body does not start with its multipart boundary.")
    found: Field | None = None
    at = len(delimiter)
    while True:
        part = _part(head, at, delimiter)
        if part is None:
            break
        header, value = part
        if _FILE.search(head, header.start, header.end):
            return found or _missing()
        name = _NAME.search(head, header.start, header.end)
        if name is not None and name[1].lower() == b"model":
            found = _field(head, value, name[1], found)
        at = value.end + 2 + len(delimiter)
        if head[at : at + 2] == b"--":
            return found or _missing()
    if complete or len(head) > PREFIX:
        return found or _missing()
    # A file whose headers are in view needs no end: nothing behind it is looked at.
    header_end = head.find(b"\r\n\r\n", at)
    if header_end >= 0 and _FILE.search(head, at, header_end):
        return found or _missing()
    return None


def _part(head: bytes, at: int, delimiter: bytes) -> tuple[Span, Span] | None:
    """The header and the value of the part whose delimiter ends at `at`, if it is whole."""
    if head[at : at + 2] != b"\r\n":
        return None
    header_end = head.find(b"\r\n\r\n", at)
    if header_end < 0:
        return None
    end = head.find(b"\r\n" + delimiter, header_end + 2)
    if end < 0:
        return None
    return Span(at, header_end), Span(header_end + 4, end)


def _field(head: bytes, value: Span, name: bytes, before: Field | None) -> Field:
    if before is not None or name != b"model":
        raise Refused(DUPLICATE_FIELD, "The field `model` is given twice, or in another spelling.", "model")
    text = head[value.start : value.end]
    if not _MODEL.fullmatch(text):
        raise Refused(INVALID_VALUE, "`model` must be a model's name.", "model")
    return Field(text.decode("ascii"), value)


def _missing() -> Field:
    raise Refused(
        MISSING_MODEL,
        f"Send the form field `model` before the file, within the first {PREFIX // 1024} KiB of the body.",
        "model",
    )
