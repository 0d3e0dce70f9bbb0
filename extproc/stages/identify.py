"""Who calls. The only place that makes a `Caller` available to a call."""

from collections.abc import Callable, Iterator

from extproc import keys
from extproc.headers import Headers
from extproc.model import Caller
from extproc.refusals import AMBIGUOUS_KEY, INVALID_KEY, MISSING_KEY, Refused

FindCaller = Callable[[str], Caller | None]
"""From the digest of a key to the caller it stands for now."""

_HEADERS = ("authorization", "api-key", "x-api-key")
_PLACEHOLDERS = frozenset({"", "undefined", "null", "none"})  # what SDKs send when no key is configured
_MAX_CREDENTIAL = 4096


def identify(headers: Headers, find: FindCaller) -> Caller:
    """The caller behind the one Sluice key on the call.

    The same key in several headers is normal (agents send it twice), and so is a foreign credential beside
    ours: it is dropped, never forwarded. Two different Sluice keys are refused, never "first wins".
    """
    candidates = list(_credentials(headers))
    if not candidates:
        raise Refused(MISSING_KEY, "Send your Sluice key as `Authorization: Bearer`, `api-key` or `x-api-key`.")
    if len(candidates) == 1 and candidates[0][1].startswith(keys.PREFIX):
        caller = find(keys.digest(candidates[0][1]))
        if caller is not None:
            return caller  # a known key needs no further look at its spelling
    ours = {given: header for header, given in candidates if keys.is_well_formed(given)}
    if not ours:
        mistyped = any(given.startswith(keys.PREFIX) for _, given in candidates)
        raise Refused(
            INVALID_KEY,
            "The Sluice key is mistyped or cut off: its checksum does not fit."
            if mistyped
            else "The credential is not a Sluice key.",
        )
    if len(ours) > 1:
        where = " and ".join(sorted(set(ours.values())))
        raise Refused(AMBIGUOUS_KEY, f"Two different Sluice keys were sent, in {where}. Send one.")
    caller = find(keys.digest(next(iter(ours))))
    if caller is None:
        raise Refused(INVALID_KEY, "The Sluice key is unknown, expired or revoked.")
    return caller


def _credentials(headers: Headers) -> Iterator[tuple[str, str]]:
    """Every credential on the call with the header that carried it; repeated headers may be comma-joined."""
    for header in _HEADERS:
        if header not in headers:
            continue
        for value in headers.all(header):
            if len(value) > _MAX_CREDENTIAL:
                yield header, ""
                continue
            for part in value.split(","):
                given = _bare(part.strip(" \t"))
                if given.lower() not in _PLACEHOLDERS:
                    yield header, given


def _bare(value: str) -> str:
    scheme, _, rest = value.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip(" \t")
    return value
