"""What a call belongs to: the session that it is a turn of, and the tags that its caller gives it, for the ledger.

Nothing here refuses a call. A name is kept as it was given where it can be nothing but an id; of anything else, of a
person, and of how a conversation without a name begins, only a digest is.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence

from extproc.call import Call
from extproc.headers import Headers
from extproc.identity import keys
from extproc.model import Caller, Catalogue, Talk

TAG_HEADER = "x-sluice-tag-"
"""How the header begins that gives a tag; its name follows, with dashes."""

LONGEST_TAG = 200
"""Bytes of one in UTF-8 that are kept."""

_WORD = "agent|batch|build|chat|ci|cron|eval|job|nightly|pipeline|pr|run|session|step|task|test|thread|turn|worker"
_ID = re.compile(
    r"([a-z]{1,16}[_-])?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"  # a UUID
    r"|conv_[0-9a-f]{32,64}"  # a conversation of OpenAI's
    rf"|(?=[^0-9]*([0-9][^0-9]*){{0,6}}$)({_WORD})([._-]?({_WORD}|[0-9]+))*"  # of a machine, with up to six digits
)
"""Names that can be no key, no number of a card or a telephone, no person, and nothing that somebody thought of."""
_LONGEST_ID = 100  # characters
_OPENING = 4_096  # characters by which two conversations are known to begin alike


def headers(catalogue: Catalogue) -> frozenset[str]:
    """Those that can name a session or give a tag."""
    return frozenset((*catalogue.sessions, *map(_tag_header, catalogue.tags)))


class Sessions:
    """Names the sessions of all calls of one worker.

    `secret`: keys the digests, so that nobody can tell from one whether a guess is right; without it they can be.
    """

    def __init__(self, secret: bytes | None) -> None:
        self._key = b"" if secret is None else hashlib.sha256(b"sessions " + secret).digest()

    def of_headers(self, call: Call, caller: Caller, headers: Headers) -> None:
        """Note what the head of a call says."""
        named = next((name for header in call.catalogue.sessions if (name := headers.get(header))), None)
        if named is not None:
            call.session = self._name(caller, named)
        if call.catalogue.tags:
            call.tags = dict(_tags(_header_tags(headers, call.catalogue.tags)))

    def of_body(self, call: Call, caller: Caller, talk: Talk) -> None:
        """Note what its body says, where the head did not."""
        call.turn = talk.turn
        if call.session is None and talk.name is not None:
            call.session = self._name(caller, talk.name)
        elif call.session is None and talk.user is not None:
            call.session = f"hash_{self._digest(caller, talk.user)}"
        elif call.session is None and talk.opening:
            call.session = f"auto_{self._digest(caller, talk.opening)}"
        if talk.metadata and call.catalogue.tags:
            told = ((name, talk.metadata.get(name)) for name in call.catalogue.tags)
            call.tags = {**dict(_tags(told)), **call.tags}

    def _name(self, caller: Caller, given: str) -> str:
        return given if len(given) <= _LONGEST_ID and _ID.fullmatch(given) else f"hash_{self._digest(caller, given)}"

    def _digest(self, caller: Caller, text: str) -> str:
        """Callers never share one: what one of them says tells nothing of another."""
        material = f"{caller.owner} {len(text)} {text[:_OPENING]}".encode()
        return hashlib.blake2b(material, digest_size=10, key=self._key, person=b"sluice session").hexdigest()


def _tag_header(name: str) -> str:
    return TAG_HEADER + name.replace("_", "-")


def _header_tags(headers: Headers, names: Sequence[str]) -> Iterator[tuple[str, object]]:
    for name in names:
        given = headers.get(_tag_header(name))
        if given is not None:
            yield name, given.encode("latin-1").decode("utf-8", "replace")


def _tags(given: Iterator[tuple[str, object]]) -> Iterator[tuple[str, str]]:
    """Those that say anything, as they may be shown anywhere."""
    for name, value in given:
        text = value if isinstance(value, str) else str(value) if isinstance(value, int) else ""
        shown = _printable(text[:LONGEST_TAG]).encode()[:LONGEST_TAG].decode(errors="ignore").rstrip()
        if shown and not shown.startswith(keys.PREFIX):
            yield name, shown


def _printable(text: str) -> str:
    """Without whatever could be taken for a new line, or move a cursor."""
    if text.isprintable():
        return text.strip()
    return "".join([character if character.isprintable() else "\ufffd" for character in text]).strip()
