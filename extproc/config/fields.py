"""The kinds of values that configuration is made of. Durations are seconds when written as a number, or text such
as `30s`, `10m`; sizes are bytes when written as a number, or text such as `8MiB`. Money is decimal to the last digit:
no amount is ever a binary fraction.
"""

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_URL_PATH = re.compile(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*/?")
_OPERATION = re.compile(r"/(chat/completions|completions|responses|embeddings|messages|deployments/.*)/?$")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]+")
_NANO_PLACES = 9  # decimal places of a billionth
_WHOLE_DIGITS = 16  # more than any amount may have: what is read is exact within the 28 digits of Decimal

MOST = 2**53 - 1
"""The largest amount of anything that is counted: the counters count in doubles."""


def duration(value: object) -> object:
    """A duration as it is written; what cannot be one is left as it is. Raises ValueError."""
    found = DURATION.fullmatch(value) if isinstance(value, str) else None
    if isinstance(value, str) and found is None:
        raise ValueError("write a duration as a number of seconds, or like 500ms, 30s, 10m, 1h, 7d")
    try:
        if found is not None:
            return timedelta(seconds=float(found[1]) * _UNIT[found[2]])
        if isinstance(value, int | float) and not isinstance(value, bool):
            return timedelta(seconds=value)
    except OverflowError:
        raise ValueError("is longer than any duration can be") from None
    return value


def nanos(amount: Decimal, shift: int = 0) -> int:
    """Billionths of an amount times 10 to the `shift`. It must come to a whole number, as what was validated does."""
    return int(amount.scaleb(_NANO_PLACES + shift))


_WITH_EXPONENT = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,16})?[eE][-+]?[0-9]{1,2}")
"""As programs that write YAML have numbers that are small or large: Helm makes 1e-06 of 0.000001."""


def decimal(places: int, least: int = 0, most: int = MOST) -> Callable[[object], Decimal]:
    """Reads a decimal that is not negative, has at most so many places, and lies in a range of billionths."""
    pattern = re.compile(rf"-?([0-9]+)(\.[0-9]{{1,{places}}})?")
    largest = f"must be at most {Decimal(most).scaleb(-_NANO_PLACES).normalize():f}"

    def read(value: object) -> Decimal:
        written = str(value)
        if isinstance(value, Decimal | float) or _WITH_EXPONENT.fullmatch(written):  # of a float the shortest number
            written = format(Decimal(written), "f")
        found = pattern.fullmatch(written)
        if isinstance(value, bool) or found is None:
            raise ValueError(f"write a number with at most {places} decimal places, such as 2.5")
        if written.startswith("-"):
            raise ValueError("must be more than 0" if least else "must be 0 or more")
        if len(found[1]) > _WHOLE_DIGITS:
            raise ValueError(largest)
        amount = Decimal(written)
        if amount.scaleb(_NANO_PLACES) < least:
            raise ValueError("must be more than 0")
        if amount.scaleb(_NANO_PLACES) > most:
            raise ValueError(largest)
        return amount

    return read


def has_port(parts: SplitResult) -> bool:
    """Whether the port, where there is one, is a number that a port can be."""
    try:
        return parts.port != 0
    except ValueError:
        return False


def check_endpoint(url: str) -> None:
    """Raises ValueError for what is not the URL of a server that Envoy can call."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not has_port(parts):
        raise ValueError("url must look like https://host[:port][/prefix]")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError("url must have no query, fragment or user; secrets belong into `credential`")
    if not url.isprintable() or not _URL_PATH.fullmatch(parts.path) or not _HOST.fullmatch(parts.netloc):
        raise ValueError("url has characters that an address does not have")
    if _OPERATION.search(parts.path):
        raise ValueError("url must end before the operation and the deployment: https://host[:port][/prefix]")


_DURATION_AS_WRITTEN = WithJsonSchema(
    {"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{DURATION.pattern}$"}]}
)
Duration = Annotated[
    timedelta,
    Field(gt=timedelta(0)),  # first, so that what is said of a duration that may be absent names it in words, too
    BeforeValidator(duration),
    _DURATION_AS_WRITTEN,
]
Pause = Annotated[timedelta, Field(ge=timedelta(0)), BeforeValidator(duration), _DURATION_AS_WRITTEN]
"""A duration that may be none."""
Size = Annotated[
    ByteSize,
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9.]+ ?([kKMGT]i?)?B?$"}]}),
]
_NUMBER_AS_WRITTEN = WithJsonSchema({"anyOf": [{"type": "string", "pattern": r"^[0-9.]+$"}, {"type": "number"}]})
"""Text comes first: a plain 0.1 of a file is read as text, and never as a binary fraction."""
_WRITTEN = PlainSerializer(lambda amount: format(amount, "f"), return_type=str, when_used="json")
Money = Annotated[Decimal, BeforeValidator(decimal(_NANO_PLACES, least=1)), _WRITTEN, _NUMBER_AS_WRITTEN]
UnitPrice = Annotated[Decimal, BeforeValidator(decimal(_NANO_PLACES)), _WRITTEN, _NUMBER_AS_WRITTEN]
TokenPrice = Annotated[Decimal, BeforeValidator(decimal(_NANO_PLACES + 3)), _WRITTEN, _NUMBER_AS_WRITTEN]
"""With the three further places that a price of a thousand tokens may have."""
AnyAmount = Annotated[
    Decimal, BeforeValidator(decimal(_NANO_PLACES, least=1, most=MOST * 10**9)), _WRITTEN, _NUMBER_AS_WRITTEN
]
"""Of money, or of anything that is counted."""
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""Names of our own things (backends): they become Envoy cluster names and metric labels."""
BackendName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}(\.[a-z0-9][a-z0-9-]{0,62})?$")]
"""A backend of ours, or `team.backend` for one that a team brings."""
ModelName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$")]
"""Names of models stand in JSON and in paths as they are, so they hold nothing that would need escaping."""
Port = Annotated[int, Field(ge=1, le=65535)]
EntraName = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.-]{0,199}$")]
"""A tenant, by its id or domain, or the id of an application."""
Scope = Annotated[str, Field(max_length=300, pattern=r"^[0-9A-Za-z_./:-]+/\.default$")]
VaultUrl = Annotated[
    str, Field(pattern=r"^https://[0-9A-Za-z-]{3,24}\.vault\.(azure\.net|azure\.cn|usgovcloudapi\.net)/?$")
]
Authority = Annotated[str, Field(max_length=200, pattern=r"^https://[0-9A-Za-z.-]+(:[0-9]+)?/?$")]


def _ip_range(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return str(ip_network(value))
    except ValueError:
        raise ValueError(
            "write an IP address or range, like 10.1.0.0/16 or 2001:db8::/32, with no host bits set"
        ) from None


def _moment(value: object) -> object:
    """A date, or a time that can be only one."""
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value) if len(value) == 10 else datetime.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, date) or (isinstance(value, datetime) and value.tzinfo is None):
        raise ValueError("write a date like 2026-03-31, or a time with its zone like 2026-03-31T18:00:00+02:00")
    return value


Moment = Annotated[
    datetime | date, BeforeValidator(_moment), WithJsonSchema({"type": "string", "pattern": r"^\d{4}-\d\d-\d\d"})
]
IpRange = Annotated[str, BeforeValidator(_ip_range)]
"""An IP address or a range in CIDR form."""


def _line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be printable characters on one line")
    return value


Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_line)]
"""Text that is shown to people."""
ShortLine = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_line)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_timedelta="float")


def _variable(value: str) -> str:
    """A name, and no secret that was pasted in its place: so no message may repeat what is wrong."""
    if not _VARIABLE.fullmatch(value):
        raise ValueError("is not the name of a variable, such as OPENAI_API_KEY; the secret itself never stands here")
    return value


Variable = Annotated[str, AfterValidator(_variable)]


class LocalSecret(Strict):
    """Where a secret comes from that is read on this machine: exactly one source. Never the secret itself."""

    file: Path | None = Field(default=None, description="file whose content is the secret; re-read when replaced")
    env: Variable | None = Field(default=None, description="environment variable that holds the secret")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.env is None):
            raise ValueError("give exactly one of `file` and `env`")
        return self


SignInKind = Literal["workload_identity", "managed_identity", "client_secret"]


class SignIn(Strict):
    """As whom the gateway signs in to Microsoft Entra. Kinds do not stand in for each other: which one is said."""

    kind: SignInKind = Field(
        default="workload_identity",
        description="workload_identity: with a token that the cluster writes to a file, as AKS sets it up; "
        "managed_identity: as the machine, or one of its user-assigned identities; client_secret: with a secret",
    )
    tenant_id: EntraName | None = Field(default=None, description="absent: as AZURE_TENANT_ID says")
    client_id: EntraName | None = Field(
        default=None,
        description="of the application or of the user-assigned identity; absent: as AZURE_CLIENT_ID says, and for "
        "managed_identity the machine's own",
    )
    client_secret: LocalSecret | None = Field(
        default=None, description="of kind client_secret: where the secret is, read again for every token"
    )
    federated_token_file: Path | None = Field(
        default=None, description="of kind workload_identity; absent: as AZURE_FEDERATED_TOKEN_FILE says"
    )
    authority: Authority | None = Field(
        default=None,
        description="where to sign in, such as https://login.microsoftonline.us; absent: as AZURE_AUTHORITY_HOST says, "
        "else https://login.microsoftonline.com",
    )

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        if (self.client_secret is None) == (self.kind == "client_secret"):
            raise ValueError("give `client_secret` with the kind client_secret, and with no other")
        if self.federated_token_file is not None and self.kind != "workload_identity":
            raise ValueError("`federated_token_file` is for the kind workload_identity")
        if self.kind == "managed_identity" and (self.tenant_id is not None or self.authority is not None):
            raise ValueError("the kind managed_identity has no `tenant_id` and no `authority`: the machine has its own")
        return self


class Entra(SignIn):
    """Tokens of Microsoft Entra, fetched and renewed beside the calls."""

    scope: Scope = Field(
        default="https://cognitiveservices.azure.com/.default", description="what the tokens are for, with /.default"
    )


class KeyVault(SignIn):
    """A secret of an Azure Key Vault, fetched before calls are served and again now and then."""

    url: VaultUrl = Field(description="https://NAME.vault.azure.net")
    secret: Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{1,127}$")] = Field(description="its name there")
    version: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = Field(
        default=None, description="absent: the newest, so that a rotated one is taken up"
    )
    interval: Duration = Field(
        default=timedelta(minutes=5),
        ge=timedelta(seconds=1),
        le=timedelta(days=1),
        description="time between two looks",
    )


class Credential(Strict):
    """Where a secret comes from: exactly one source. Never the secret itself."""

    file: Path | None = Field(default=None, description="file whose content is the secret; re-read when replaced")
    env: Variable | None = Field(default=None, description="environment variable that holds the secret")
    key_vault: KeyVault | None = Field(default=None, description="a secret of an Azure Key Vault")
    entra: Entra | None = Field(
        default=None, description="a token of Microsoft Entra, sent as `authorization: Bearer` whatever the dialect"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if [self.file, self.env, self.key_vault, self.entra].count(None) != 3:
            raise ValueError("give exactly one of `file`, `env`, `key_vault` and `entra`")
        return self

    @property
    def sign_in(self) -> SignIn | None:
        """As whom it is fetched, where that takes signing in."""
        return self.entra or self.key_vault

    @property
    def variables(self) -> frozenset[str]:
        """The environment variables that hold a secret of it."""
        secret = self.sign_in.client_secret if self.sign_in else None
        return frozenset(name for name in (self.env, secret.env if secret else None) if name)
