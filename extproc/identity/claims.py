"""What a verified token says of its bearer. Envoy has verified signature, issuer, audience and times."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from unicodedata import is_normalized

Claims = Mapping[str, object]
_LONGEST_NAME = 320  # of an email address; what OpenID Connect lets a subject have is shorter


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token that Envoy has verified; `issuer` is our name for who signed it."""

    issuer: str
    claims: Claims
    header: Claims


@dataclass(frozen=True, slots=True)
class FailedToken:
    """A token that Envoy could not verify, with its word on why."""

    issuer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rule:
    """If `claim` has or holds `value`, the bearer has the role, in the team where one is named."""

    claim: str
    value: str
    team: str | None
    role: str


@dataclass(frozen=True, slots=True)
class IssuerPolicy:
    """How the tokens of one issuer are read; see config.schema.Issuer."""

    name: str
    user: str = "sub"
    client: str = "azp"
    groups: str = "groups"
    require: Mapping[str, frozenset[str]] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    clock_skew: float = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whom a token names. A token is of a user or of an application, never both."""

    issuer: str
    subject: str  # stable at the issuer
    user: str | None
    client: str | None
    groups: frozenset[str]
    rules: tuple[Rule, ...]  # those that fit
    groups_left_out: bool  # Entra leaves them out where there are more than 200


class BadClaims(ValueError):
    """A genuine token that must not be used here; the text says why and quotes nothing of it."""


def bearer(token: VerifiedToken, policy: IssuerPolicy, now: float) -> Bearer:
    """Whom the token names. `now` is Unix time. Raises BadClaims."""
    claims = token.claims
    if "crit" in token.header:
        raise BadClaims("demands extensions that are not understood")
    issued = claims.get("iat")
    if isinstance(issued, int | float) and issued > now + policy.clock_skew:
        raise BadClaims("was issued in the future")
    for name, allowed in policy.require.items():
        if texts(claim(claims, name)).isdisjoint(allowed):
            raise BadClaims(f"does not have an accepted value of the claim {name}")
    user, client = _one(claims, policy.user), _one(claims, policy.client)
    for_itself = _is_application(claims, client)
    if user is None and not for_itself:
        raise BadClaims(f"names no user: it has no claim {policy.user}")
    subject = _one(claims, "sub") or user or client
    if subject is None:
        raise BadClaims("names nobody: it has no subject")
    return Bearer(
        issuer=policy.name,
        subject=subject,
        user=None if for_itself or user is None else folded(user),
        client=client if for_itself else None,
        groups=texts(claim(claims, policy.groups)),
        rules=tuple(rule for rule in policy.rules if rule.value in texts(claim(claims, rule.claim))),
        groups_left_out=_overage(claims, policy.groups),
    )


def claim(claims: Claims, name: str) -> object:
    """A claim by its name, or by a path of names joined by dots; None where there is none."""
    if name in claims:
        return claims[name]
    value: object = claims
    for step in name.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    return value


def texts(value: object) -> frozenset[str]:
    """The texts that a claim holds: itself, or those in its list."""
    if isinstance(value, str):
        return frozenset((value,))
    if isinstance(value, list | tuple):
        return frozenset(one for one in value if isinstance(one, str))
    return frozenset()


def folded(user: str) -> str:
    """A user's name as it is compared, everywhere: the case of a mail address does not matter, any other's does.

    A `sub` is told apart by case (OpenID Connect Core, section 2): `Ann` and `ann` may be two people.
    """
    return user.lower() if "@" in user else user


def _one(claims: Claims, name: str) -> str | None:
    """The name that a claim holds, fit to be compared and shown; None where it holds none. Raises BadClaims.

    Some signs that are not NFC have a letter of ours as their lower case: KELVIN SIGN is no `k`.
    """
    value = claim(claims, name)
    if not isinstance(value, str) or not value:
        return None
    if len(value) > _LONGEST_NAME or not value.isprintable() or not is_normalized("NFC", value):
        raise BadClaims(f"has a value of the claim {name} that no name can be")
    return value


def _is_application(claims: Claims, client: str | None) -> bool:
    """Whether an application calls for itself.

    Entra says so in `idtyp` where that is configured; else its tokens for users have `scp`, and those for
    applications a `sub` that is their own object (`oid`). Elsewhere the subject of a client_credentials token is
    the client itself (RFC 9068, section 2.2).
    """
    if claims.get("idtyp") in ("app", "user"):
        return claims["idtyp"] == "app"
    subject = claims.get("sub")
    own = subject == client or ("tid" in claims and subject == claims.get("oid"))
    return client is not None and "scp" not in claims and own


def _overage(claims: Claims, groups: str) -> bool:
    """Source: learn.microsoft.com/entra/identity-platform/access-token-claims-reference, "groups overage"."""
    names = claims.get("_claim_names")
    return claims.get("hasgroups") in (True, "true") or (isinstance(names, Mapping) and groups in names)
