"""A company's tokens, genuine and forged: its issuers and people, the keys they sign with, and a forger's tools.

The company is on Entra ID: `ENTRA` is its tenant's issuer of today, `ENTRA_V1` the older one. The provider
(`tests.support.oidc`) issues tokens in their names; whoever has `SigningKeys` can sign whatever else.
"""

import json
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import JWSRegistry

from extproc.stores.ports import ChangeSet, Member, MemberKind, TeamRecord
from extproc.stores.sql import Stores, open_stores, upgrade
from tests.support.gateway import RunningGateway, until
from tests.support.oidc import Application, JwksServer, OidcProvider, OidcSettings

Json = dict[str, Any]
Sign = Callable[[bytes], bytes]
"""From what is to be signed to the signature."""

TENANT = "6f1a2b3c-0000-4000-8000-00000000c0de"
OTHER_TENANT = "deadbeef-0000-4000-8000-00000000c0de"
ENTRA = f"https://login.microsoftonline.com/{TENANT}/v2.0"
ENTRA_V1 = f"https://sts.windows.net/{TENANT}/"
AUDIENCE = "api://sluice"
PORTAL = "0a0a0a0a-0000-4000-8000-000000000001"
"""The application that people sign in to."""


class SigningKeys:
    """An RSA and an EC key of an issuer, with fresh ids."""

    def __init__(self) -> None:
        mark = secrets.token_hex(4)
        self.rsa = RSAKey.generate_key(2048, {"kid": f"rsa-{mark}", "use": "sig", "alg": "RS256"})
        self.ec = ECKey.generate_key("P-256", {"kid": f"ec-{mark}", "use": "sig", "alg": "ES256"})

    def public(self) -> Json:
        """The key set as an issuer publishes it."""
        return {"keys": [key.as_dict(private=False) for key in (self.rsa, self.ec)]}

    def private(self) -> Json:
        """The key set as an issuer holds it."""
        return {"keys": [key.as_dict(private=True) for key in (self.rsa, self.ec)]}


# ---- a forger's tools ---------------------------------------------------------------------------------


def signer(alg: str, key: Any) -> Sign:
    """Signs with a key of joserfc's, whatever that key says that it is for."""
    return lambda data: JWSRegistry.algorithms[alg].sign(data, key)


def unsigned(_data: bytes) -> bytes:
    """No signature at all."""
    return b""


def segment(part: bytes | Mapping[str, Any]) -> str:
    """A part of a token: JSON, or bytes as they are, in base64url."""
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return urlsafe_b64encode(data).decode().rstrip("=")


def compact(header: bytes | Mapping[str, Any], claims: bytes | Mapping[str, Any], sign: Sign) -> str:
    """A token from its parts; given as bytes, they need not even be JSON."""
    opening = f"{segment(header)}.{segment(claims)}"
    return f"{opening}.{segment(sign(opening.encode()))}"


def claims_of(subject: str = "ann", **changes: Any) -> Json:
    """The claims of a good token for a user; a change to None leaves that claim out."""
    now = int(time.time())
    claims = {
        "iss": ENTRA,
        "aud": AUDIENCE,
        "sub": subject,
        "iat": now - 5,
        "nbf": now - 5,
        "exp": now + 600,
        **user_claims(subject),
        "azp": PORTAL,
        "jti": secrets.token_hex(8),
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


def genuine(keys: SigningKeys, claims: Mapping[str, Any], **header: Any) -> str:
    """A token that the issuer itself could have signed, with more or other fields in its header."""
    return compact({"typ": "JWT", "alg": "RS256", "kid": keys.rsa.kid, **header}, claims, signer("RS256", keys.rsa))


# ---- the company --------------------------------------------------------------------------------------

TEAM_OF = {"ann": "research", "bob": "sales", "carl": "research"}
"""People who may call, and through what: Ann by a role of the application, Bob by name, Carl by a group."""


def user_claims(name: str, **changes: Any) -> Json:
    """What Entra says of a person, in a token of version 2.0."""
    return {
        "tid": TENANT,
        "oid": f"oid-of-{name}",
        "preferred_username": f"{name}@example.com",
        "roles": ["Caller"] if name == "ann" else [],
        "scp": "use",
        "idtyp": "user",
        "ver": "2.0",
        **changes,
    }


def application_claims(client_id: str, **changes: Any) -> Json:
    """What Entra says of an application that calls for itself: its subject is its own object."""
    oid = f"oid-of-{client_id}"
    return {
        "iss": ENTRA,
        "tid": TENANT,
        "sub": oid,
        "oid": oid,
        "azp": client_id,
        "roles": ["Caller"],
        "idtyp": "app",
        "ver": "2.0",
        **changes,
    }


def provider_settings(keys: SigningKeys) -> OidcSettings:
    """The provider's applications and people, as they are found at a customer."""
    elsewhere = {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://graph.example"}}}
    older = application_claims("batch-v1", iss=ENTRA_V1, ver="1.0", appid="batch-v1", azp=None)
    clients = {
        "batch": Application("secret of batch", claims=application_claims("batch")),
        "batch-es256": Application("secret of batch-es256", "ES256", application_claims("batch-es256")),
        "batch-v1": Application("secret of batch-v1", claims=older),
        "other-tenant": Application("secret of o", claims=application_claims("other-tenant", tid=OTHER_TENANT)),
        "no-role": Application("secret of no-role", claims=application_claims("no-role", roles=[])),
        "nightly": Application("secret of nightly"),  # in the provider's own name, without a claim of Entra's
        PORTAL: Application(claims={"iss": ENTRA, "azp": PORTAL}),
    }
    users = {
        "ann": user_claims("ann"),
        "bob": user_claims("bob"),
        "carl": user_claims("carl", groups=["group-research"]),
        "olga": user_claims("olga", hasgroups=True),
        "oscar": user_claims("oscar", **elsewhere),
        "nobody": user_claims("nobody"),
    }
    return OidcSettings(keys.private(), AUDIENCE, clients, users)


def issuers(entra_jwks: str, provider: OidcProvider, refresh: str) -> Json:
    """The gateway's settings for the tenant, old and new, and for the provider itself."""
    rules = [{"claim": "roles", "value": "Caller", "team": "research"}]
    tenant = {"audiences": [AUDIENCE], "jwks_url": entra_jwks, "jwks_refresh": "10m", "rules": rules}
    applications = [PORTAL, "batch", "batch-es256", "other-tenant", "no-role"]
    return {
        "entra": {
            **tenant,
            "issuer": ENTRA,
            "require": {"tid": [TENANT], "azp": applications},
            "claims": {"user": "preferred_username"},
        },
        "entra-v1": {
            **tenant,
            "issuer": ENTRA_V1,
            "require": {"tid": [TENANT], "appid": ["batch-v1"]},
            "claims": {"user": "upn", "client": "appid"},
        },
        "own": {
            "issuer": provider.issuer,
            "audiences": [AUDIENCE],
            "jwks_url": provider.jwks_url,
            "jwks_refresh": refresh,
            "claims": {"client": "client_id"},
        },
    }


_TEAMS = (
    TeamRecord(
        "research",
        "science",
        "ann@example.com",
        "gold",
        None,
        members=(
            Member(MemberKind.GROUP, "group-research", "developer"),
            Member(MemberKind.SERVICE_ACCOUNT, "nightly-job", "service_account", "nightly"),
        ),
    ),
    TeamRecord(
        "sales",
        "business",
        "bob@example.com",
        "silver",
        None,
        members=(Member(MemberKind.USER, "bob@example.com", "developer"),),
    ),
)


@dataclass(frozen=True, slots=True)
class Company:
    """A gateway that takes the company's tokens, and all that belongs to it."""

    keys: SigningKeys
    provider: OidcProvider
    jwks: JwksServer
    gateway: RunningGateway
    client: httpx.Client
    """Calls the gateway without a credential."""

    def token(self, who: str) -> str:
        """A fresh token for a person, or for an application itself."""
        if who in self.provider.settings.users:
            return self.provider.user_token(PORTAL, who)
        return self.provider.application_token(who)

    def me(self, token: str) -> httpx.Response:
        """Who the gateway says that the bearer is."""
        return self.client.get("/v1/me", headers=bearer(token))

    def stores(self) -> AbstractContextManager[Stores]:
        """The gateway's database, as the command line opens it."""
        return closing(open_stores(self.gateway.settings["stores"]["database"]))


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@contextmanager
def company_at(
    settings: Mapping[str, Any], secrets_of: Mapping[str, str], identity: Mapping[str, Any] | None = None
) -> Iterator[Company]:
    """The company with its gateway running on these settings; `identity` adds to what is set for the tokens."""
    keys = SigningKeys()
    with OidcProvider(provider_settings(keys)) as provider, JwksServer(keys.public()) as jwks:
        identified = {"issuers": issuers(jwks.url, provider, "1s"), **(identity or {})}
        gateway = RunningGateway({**settings, "identity": identified}, secrets_of)
        seed(gateway)
        with gateway, httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as client:
            company = Company(keys, provider, jwks, gateway, client)
            until(lambda: company.me(company.token("batch")).status_code == 200, what="the issuer's keys")
            yield company


def seed(gateway: RunningGateway) -> None:
    """Write the company's teams into the database of a gateway that has not started."""
    url = gateway.settings["stores"]["database"]
    upgrade(url)
    with closing(open_stores(url)) as stores:
        stores.directory.apply(ChangeSet(teams=_TEAMS), stores.directory.revision())
