"""From a verified token to a caller: which team its bearer calls for, and in which role."""

import hashlib
from collections.abc import Iterator

from extproc.identity import roles
from extproc.identity.claims import BadClaims, Bearer, FailedToken, IssuerPolicy, VerifiedToken, bearer
from extproc.identity.directory import Directory, Membership
from extproc.model import Caller, CredentialKind
from extproc.refusals import AMBIGUOUS_TEAM, INVALID_TOKEN, ISSUER_UNAVAILABLE, NO_TEAM, Refused

# Envoy's words for what is wrong (jwt_verify_lib, status.cc), in ours. Others are not repeated.
_REASONS = {
    "Jwt is expired": "The token has expired. Get a new one.",
    "Jwt not yet valid": "The token is not valid yet. Is the clock right?",
    "Audiences in Jwt are not allowed": "The token is for another audience than this gateway.",
    "Jwt issuer is not configured": "Tokens of this issuer are not accepted here.",
}
_NO_KEYS = "Jwks remote fetch is failed"
_OPENAI_PROJECT = "proj_"  # an id of OpenAI's own, which many environments send along


def refusal(token: FailedToken) -> Refused:
    """What a person is told of a token that Envoy could not verify."""
    if token.reason == _NO_KEYS:
        return Refused(ISSUER_UNAVAILABLE, "The keys of the token's issuer cannot be fetched. Try again in a moment.")
    return Refused(INVALID_TOKEN, _REASONS.get(token.reason, "The token could not be verified."))


def caller(token: VerifiedToken, policy: IssuerPolicy, directory: Directory, project: str | None, now: float) -> Caller:
    """The caller that a token stands for. `project` is the client's `OpenAI-Project` header: the team it means.

    A bearer in several teams must name one: what a call costs is one team's.
    """
    try:
        named = bearer(token, policy, now)
    except BadClaims as problem:
        raise Refused(INVALID_TOKEN, f"The token {problem}.") from None
    held = _teams(named, directory)
    team = _choose(held, named, None if (project or "").startswith(_OPENAI_PROJECT) else project or None)
    member = held[team]
    pseudonym = hashlib.sha256(f"{named.issuer}\n{named.subject}\n{team}".encode()).hexdigest()[:32]
    owns = named.user is not None and directory.teams[team].area in directory.owners.get(named.user, ())
    own_roles = {member.role} | ({"area_owner"} if owns else set())
    return Caller(
        key_id=f"usr_{pseudonym}",
        name=member.service_account or named.user or named.client or named.subject,
        kind=CredentialKind.TOKEN,
        issuer=named.issuer,
        user=named.user,
        service_account=member.service_account,
        team=directory.teams[team],
        roles=frozenset(own_roles | {rule.role for rule in named.rules if rule.team is None}),
    )


def _teams(named: Bearer, directory: Directory) -> dict[str, Membership]:
    """The teams that the bearer belongs to, each with the highest of its roles there."""
    held: dict[str, Membership] = {}
    for member in _memberships(named, directory):
        if member.team not in directory.teams or member.role not in roles.ROLES:
            continue
        known = held.get(member.team)
        if known is None or roles.rank(member.role) > roles.rank(known.role):
            held[member.team] = member
    return held


def _memberships(named: Bearer, directory: Directory) -> Iterator[Membership]:
    if named.user is not None:
        yield from directory.users.get(named.user, ())
    if named.client is not None:
        yield from directory.clients.get(named.client, ())
    for group in named.groups:
        yield from directory.groups.get(group, ())
    for rule in named.rules:
        if rule.team is not None:
            yield Membership(rule.team, rule.role)


def _choose(held: dict[str, Membership], named: Bearer, project: str | None) -> str:
    if project is not None:
        if project not in held:
            raise Refused(NO_TEAM, "The header OpenAI-Project names a team that the token's bearer is not in.")
        return project
    if len(held) == 1:
        return next(iter(held))
    if held:
        names = ", ".join(sorted(held))
        raise Refused(AMBIGUOUS_TEAM, f"You are in several teams: {names}. Name one in the header OpenAI-Project.")
    if named.groups_left_out:
        raise Refused(
            NO_TEAM,
            "The token's groups were left out, because there are too many of them. Ask for a token with the groups "
            "that are assigned to the application, or with application roles.",
        )
    raise Refused(NO_TEAM, "The token is genuine, but its bearer belongs to no team of this gateway.")
