"""Events that are a piece of one text and say nothing else, known by how they are written, without parsing them.

That is nearly every event of a stream. One is known only where nobody can read anything else in it: labels of the
answer, fields that are null, what a filter of Azure's says, and one string. Whatever is written in another way is to be
parsed, and comes to the same: what is known here is a matter of speed alone.
"""

import re
from functools import cache

from extproc.dialects.deltas import Channel
from extproc.dialects.json_strings import decoded

# Of a key that is repeated the last one counts, and of a group that matches several times the last match. So what may
# be repeated here says nothing, or all that it may be is in one group.
_LABEL = (
    rb'"(?:id|object|created|model|system_fingerprint|provider|obfuscation)": ?'
    rb'(?:"[ !#-\[\]-~]*+"|[1-9][0-9]{0,15}|null)'
    rb'|"(?!choices"|service_tier")[a-z_]++": ?null'
)
_TIER = rb'"service_tier": ?(?P<%b>"[ !#-\[\]-~]*+"|null)'
_ON = rb'(?:, ?(?=")|(?=\}))'
_VERDICT = rb'"[a-z_]++":\{(?:"(?:(?:filtered|detected)":(?:true|false)|severity":"[a-z]*+")' + _ON + rb")*\}" + _ON
_CHOICE = (
    rb'"index": ?(?P<choice>0|[1-9][0-9]?)'
    rb'|"content_filter_results": ?(?P<verdicts>\{(?:%b)*\}|null)'
    rb'|"(?!index"|content_filter_results"|delta"|message"|text")[a-z_]++": ?null'
) % _VERDICT
_ROLE = rb'"role": ?"assistant"'
_TEXT = rb'"(?P<text>[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+)"'
_DELTA = (
    rb'"delta": ?\{(?:(?:%b|"[a-z_]++": ?null), ?)*'
    rb'"(?P<field>content|reasoning_content|reasoning)": ?%b'
    rb'(?:, ?(?:%b|"(?!(?P=field)")[a-z_]++": ?null))*\}'
) % (_ROLE, _TEXT, _ROLE)
_CHAT = re.compile(
    rb'data: \{(?:(?:%b|%b), ?)*"choices": ?\[\{(?:(?:%b|%b)%b)*\}\](?:, ?(?:%b|%b))*\}\n\n'
    % (_LABEL, _TIER % b"tier", _DELTA, _CHOICE, _ON, _LABEL, _TIER % b"last_tier"),
    re.DOTALL,
)
_SAY_NOTHING = (None, b"null", b"{}")


class Piece:
    """A piece of the text of a channel, in an event of its own."""

    __slots__ = ("_found", "text")

    def __init__(self, found: re.Match[bytes], text: str) -> None:
        self._found = found
        self.text = text

    @property
    def channel(self) -> Channel:
        """What it continues, as `deltas` has it."""
        return _channel(self._found["choice"], self._found["field"])

    @property
    def span(self) -> tuple[int, int]:
        """Where the bytes of the text begin and end, between quotes."""
        return self._found.span("text")

    @property
    def is_bare(self) -> bool:
        """Whether the event says nothing without it."""
        return self._found["verdicts"] in _SAY_NOTHING

    @property
    def tier(self) -> str | None:
        """The service tier that the event names."""
        named = self._found["last_tier"] or self._found["tier"]
        return None if named in _SAY_NOTHING else named[1:-1].decode()


@cache
def _channel(choice: bytes | None, field: bytes) -> Channel:
    """There are no more of them than two digits and three fields make."""
    return int(choice or 0), field.decode()


def chat(raw: bytes) -> Piece | None:
    """What an event of chat completions is a piece of; None of any other, and of one that has to be parsed to know."""
    found = _CHAT.fullmatch(raw)
    text = None if found is None else found["text"]
    if found is None or text is None:
        return None
    try:
        return Piece(found, text.decode() if b"\\" not in text else decoded(text))
    except ValueError:
        return None
