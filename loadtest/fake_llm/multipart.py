"""Reading a whole multipart/form-data body (RFC 7578)."""

import re
from dataclasses import dataclass, field

_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)
_PARAMETER = re.compile(r'\b(filename|name)="([^"]*)"', re.IGNORECASE)


class MultipartError(Exception):
    """The body is no whole multipart/form-data."""


@dataclass(slots=True)
class Form:
    """Text fields by name, the last of equal names, and files by name as (file name, content)."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)


def read(content_type: str, body: bytes) -> Form:
    """Read a body. Raises MultipartError when a boundary, the end or a part's name is missing."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise MultipartError("no boundary in content-type")
    delimiter = b"\r\n--" + found[1].encode("latin-1")
    first, *parts = (b"\r\n" + body).split(delimiter)
    if first.strip() or not parts or not parts[-1].startswith(b"--"):
        raise MultipartError("the multipart body is not whole")
    form = Form()
    for part in parts[:-1]:
        _add(form, part)
    return form


def _add(form: Form, part: bytes) -> None:
    head, separator, content = part.partition(b"\r\n\r\n")
    parameters = {name.lower(): value for name, value in _PARAMETER.findall(head.decode("utf-8", "replace"))}
    if not separator or "name" not in parameters:
        raise MultipartError("a part has no name")
    if "filename" in parameters:
        form.files[parameters["name"].removesuffix("[]")] = (parameters["filename"], content)
    else:
        form.fields[parameters["name"]] = content.decode("utf-8", "replace")
