"""Who calls. The only place that makes a `Caller` available to a call."""

import re
from collections.abc import Mapping

from extproc.headers import Headers
from extproc.identity import keys, roles
from extproc.identity.claims import FailedToken, IssuerPolicy, VerifiedToken
from extproc.identity.directory import Directory, Key
from extproc.model import Caller, Team
from extproc.refusals import AMBIGUOUS_KEY, INVALID_KEY, INVALID_TOKEN, MISSING_KEY, STOPPED, Refused
from extproc.stages import tokens

Token = VerifiedToken | FailedToken | None
"""What Envoy says of a token on the call: None where there is none that it knows the issuer of."""

Candidates = list[tuple[str, str]]
"""Credentials, each behind the header that carried it."""

_HEADERS = ("authorization", "api-key", "x-api-key")
_PLACEHOLDERS = frozenset({"", "undefined", "null", "none"})  # what SDKs send when no key is configured
_MAX_CREDENTIAL = 64 * 2**10  # no less than Envoy lets pass: tokens with many groups are long
_MOST_PARTS = 8  # of a comma-joined header: reading it must cost little, whoever sends it
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_UNKNOWN = "The Sluice key is unknown, expired, suspended or revoked."


def identify(
    headers: Headers, token: Token, directory: Directory, issuers: Mapping[str, IssuerPolicy], now: float
) -> Caller:
    """The caller behind the one Sluice key or the one verified token on the call. `now` is Unix time.

    The same key in several headers is normal (agents send it twice), and so is a foreign credential beside
    ours in another header: it is dropped, never forwarded. Two credentials of ours are refused, never "first wins".
    """
    candidates = [one for header in _HEADERS if header in headers.first for one in _credentials(header, headers)]
    if isinstance(token, VerifiedToken):
        _only_token(candidates)
        caller = tokens.caller(token, issuers[token.issuer], directory, headers.get("openai-project"), now)
    else:
        caller = _of_key(candidates, token, directory, now)
    if directory.stops:
        _refuse_stopped(caller, directory)
    return caller


def _only_token(candidates: Candidates) -> None:
    """The verified token must be all that `authorization` has, and no key of ours beside it.

    Envoy finds `Bearer` and a token anywhere in the header, also behind something else.
    """
    bearers = {given for header, given in candidates if header == "authorization"}
    if any(keys.is_well_formed(given) for _, given in candidates) or len(bearers) > 1:
        raise Refused(AMBIGUOUS_KEY, "A token and another credential were sent. Send one of them.")
    if not all(map(_JWT.fullmatch, bearers)):
        raise Refused(INVALID_TOKEN, "Send the token as `Authorization: Bearer`, and nothing else in that header.")


def _only_key(candidates: Candidates, token: Token) -> str:
    if len({given for header, given in candidates if header == "authorization"}) > 1:
        raise Refused(AMBIGUOUS_KEY, "Different credentials were sent in authorization. Send one.")
    ours = {given: header for header, given in candidates if keys.is_well_formed(given)}
    if len(ours) == 1:
        return next(iter(ours))
    if len(ours) > 1:
        where = " and ".join(sorted(set(ours.values())))
        raise Refused(AMBIGUOUS_KEY, f"Two different Sluice keys were sent, in {where}. Send one.")
    if not candidates:
        raise Refused(MISSING_KEY, "Send your Sluice key as `Authorization: Bearer`, `api-key` or `x-api-key`.")
    if any(given.startswith(keys.PREFIX) for _, given in candidates):
        raise Refused(INVALID_KEY, "The Sluice key is mistyped or cut off: its checksum does not fit.")
    if isinstance(token, FailedToken):
        raise tokens.refusal(token)
    raise Refused(INVALID_KEY, "The credential is not a Sluice key, nor a token that is accepted here.")


def _of_key(candidates: Candidates, token: Token, directory: Directory, now: float) -> Caller:
    """The caller of the one key of ours.

    Nearly every call has one credential and it is a key in force, whose spelling need not be checked. Unknown,
    revoked, expired and suspended keys, and keys whose team or user is gone, are told alike, in the same steps.
    """
    likely = candidates[0][1] if len(candidates) == 1 and candidates[0][1].startswith(keys.PREFIX) else None
    caller = None if likely is None else _looked_up(likely, directory, now)
    if caller is None:
        given = _only_key(candidates, token)
        caller = None if given == likely else _looked_up(given, directory, now)
    if caller is None:
        raise Refused(INVALID_KEY, _UNKNOWN)
    return caller


def _looked_up(given: str, directory: Directory, now: float) -> Caller | None:
    key = directory.keys.get(keys.fingerprint(given))
    return None if key is None else _caller(key, directory, now)


def _caller(key: Key, directory: Directory, now: float) -> Caller | None:
    if key.suspended or (key.expires is not None and key.expires <= now):
        return None
    team = directory.teams.get(key.team)
    kept = _CALLERS.get(id(key))
    if kept is not None and kept[1] is team:
        return kept[2]
    role: str | None = "developer"
    if key.team:
        if team is None:
            return None
        if key.user is not None:
            role = team.users.get(key.user)
        else:
            known = key.service_account is None or key.service_account in team.accounts
            role = "service_account" if known else None
    if role not in _ROLES:  # gone from the team, or of a newer version's database
        return None
    caller = _made(key, team, _ROLES[role])
    if len(_CALLERS) >= _MOST_KNOWN:
        _CALLERS.clear()
    _CALLERS[id(key)] = key, team, caller  # with the key, so that its id is no other's
    return caller


def _made(key: Key, team: Team | None, held: frozenset[str]) -> Caller:
    return Caller(
        key_id=key.id,
        name=key.name,
        models=key.models,
        user=key.user,
        service_account=key.service_account,
        team=team,
        roles=held,
        environment=key.environment,
        expires=key.expires,
        surfaces=key.surfaces,
        networks=key.networks,
        lineage=key.lineage,
        limits=key.limits,
        priority=key.priority,
    )


_ROLES = {role: frozenset({role}) for role in roles.ROLES}
_MOST_KNOWN = 4096
_CALLERS: dict[int, tuple[Key, Team | None, Caller]] = {}
"""Callers by the identity of their key: one is the same as long as its key and its team are."""


def _refuse_stopped(caller: Caller, directory: Directory) -> None:
    """An emergency stop in the database wins over everything that files declare."""
    team = caller.team
    scopes = (
        ("everything", ""),
        ("area", team.area if team else None),
        ("team", team.name if team else None),
        ("user", caller.user),
        ("key", caller.owner),  # a key, its predecessors and successors
    )
    if any(scope in directory.stops for scope in scopes):
        raise Refused(STOPPED, "The operators of the gateway have taken this caller out of service. Ask them.")


def _credentials(header: str, headers: Headers) -> Candidates:
    """Every credential in a header of the call; repeated headers may be comma-joined."""
    values = headers.all(header)
    if len(values) == 1 and "," not in values[0] and len(values[0]) <= _MAX_CREDENTIAL:  # as nearly always
        given = _bare(values[0].strip(" \t"))
        return [] if given.lower() in _PLACEHOLDERS else [(header, given)]
    found: Candidates = []
    for value in values:
        parts = value.split(",", _MOST_PARTS)
        if len(value) > _MAX_CREDENTIAL or len(parts) > _MOST_PARTS:  # nobody's
            found.append((header, ""))
            continue
        for part in parts:
            given = _bare(part.strip(" \t"))
            if given.lower() not in _PLACEHOLDERS:
                found.append((header, given))
    return found


def _bare(value: str) -> str:
    scheme, _, rest = value.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip(" \t")
    return value
