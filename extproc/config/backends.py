"""Backends as people write them: where calls can go, what goes along, and how they are spared."""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from extproc import contract
from extproc.config.fields import Credential, Duration, Name, Pause, Strict, check_endpoint
from extproc.routing import policy

Dialect = Literal["openai", "azure-openai", "anthropic", "gemini"]

_PROVIDERS = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure",
    "openai.azure.us": "azure",
    "cognitiveservices.azure.com": "azure",
    "api.cognitive.microsoft.com": "azure",
    "ai.azure.com": "azure",  # of Azure AI Foundry: services.ai, models.ai, inference.ai
    "api.anthropic.com": "anthropic",
    "googleapis.com": "google",
    "api.x.ai": "xai",
    "models.github.ai": "github",
    "githubcopilot.com": "github",
}
"""Hosts, with those under them, that no company hosts for itself, and whose they are."""

_HEADER_NAME = r"^[A-Za-z0-9][A-Za-z0-9-]*$"
_OURS = re.compile(r"(x-sluice-|x-envoy-|x-forwarded-|proxy-).*")
_SET_BY_US = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    }
)
_CALLERS = re.compile(
    r"accept|idempotency-key|openai-beta|user-agent|x-client-request-id|(anthropic|x-stainless|x-claude-code|x-ms-client)-.*"
)
_SECRET = re.compile(r"(.*-)?(key|token|secret|password|auth|authorization|cookie)")


def provider_at(url: str) -> str | None:
    """Whose server a URL names, where its host tells."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    return next((provider for known, provider in _PROVIDERS.items() if f".{host}".endswith(f".{known}")), None)


def is_credential(header: str) -> bool:
    """Whether a header, in lower case, holds what its bearer shows, or steers who is billed."""
    return header in contract.CREDENTIAL_HEADERS or _SECRET.fullmatch(header) is not None


def is_ours(header: str) -> bool:
    """Whether a header, in lower case, is for the gateway and Envoy to set."""
    return header in _SET_BY_US or _OURS.fullmatch(header) is not None


HeaderName = Annotated[str, Field(max_length=100, pattern=_HEADER_NAME)]
HeaderText = Annotated[str, Field(max_length=500, pattern=r"^[!-~]([ -~]*[!-~])?$")]


BackendSurface = Literal[
    "chat",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "transcriptions",
    "translations",
    "speech",
    "images",
    "image_edits",
    "moderations",
    "rerank",
]
_LIKE_OPENAI = frozenset(get_args(BackendSurface)) - {"messages"}
_OF_DIALECT: Mapping[Dialect, frozenset[str]] = {
    "openai": _LIKE_OPENAI,
    "azure-openai": _LIKE_OPENAI - {"moderations", "rerank"},
    "anthropic": frozenset({"messages"}),
    "gemini": frozenset(),  # all that reaches it is translated
}
"""What a backend can serve itself."""
_USUAL = policy.Cooling()
_LONGEST = 86_400  # seconds


class Cooling(Strict):
    """How backends are spared. Waits count for the model that is deployed there, openings for the whole backend."""

    default_wait: Duration = Field(
        default=timedelta(seconds=_USUAL.default_wait),
        description="pause after a refusal that does not say, or not readably, for how long",
    )
    longest_wait: Pause = Field(
        default=timedelta(seconds=_USUAL.longest_wait),
        description="the longest pause, whatever a provider asks for; 0: none is made",
    )
    failures: int = Field(
        default=_USUAL.failures, ge=1, le=1000, description="calls failed in a row that open the circuit"
    )
    open_for: Duration = Field(
        default=timedelta(seconds=_USUAL.open_for),
        description="how long it stays open the first time; then one call tries, and each that fails doubles it",
    )
    longest_open: Duration = Field(
        default=timedelta(seconds=_USUAL.longest_open),
        description="the longest that it stays open before a call tries",
    )


class OwnCooling(Strict):
    """How this backend is spared; what is absent is as in `routing.cooling`."""

    default_wait: Duration | None = Field(default=None, description="pause after a refusal that does not say how long")
    longest_wait: Pause | None = Field(default=None, description="the longest pause")
    failures: int | None = Field(default=None, ge=1, le=1000, description="calls failed in a row that open the circuit")
    open_for: Duration | None = Field(default=None, description="how long it stays open the first time")
    longest_open: Duration | None = Field(default=None, description="the longest that it does")


def cooling(usual: Cooling, own: OwnCooling | None = None) -> policy.Cooling:
    """What holds for a backend."""
    given = {} if own is None else own.model_dump(exclude_none=True)
    whole = usual.model_copy(update=given)
    return policy.Cooling(
        default_wait=whole.default_wait.total_seconds(),
        longest_wait=whole.longest_wait.total_seconds(),
        failures=whole.failures,
        open_for=whole.open_for.total_seconds(),
        longest_open=whole.longest_open.total_seconds(),
    )


def cooling_problems(where: str, compiled: policy.Cooling) -> Iterator[str]:
    """Times that do not fit each other, or are no pauses any more."""
    if compiled.default_wait > compiled.longest_wait > 0:
        yield f"{where}: `default_wait` must be at most `longest_wait`"
    if compiled.open_for > compiled.longest_open:
        yield f"{where}: `open_for` must be at most `longest_open`"
    if max(compiled.longest_wait, compiled.longest_open) > _LONGEST:
        yield f"{where}: no pause may be longer than 1d"


class Health(Strict):
    """Asked now and then whether it is well. Only for servers of one's own: a provider bills, or blocks, who asks."""

    path: str = Field(
        default="/health",
        max_length=200,
        pattern=r"^(/[A-Za-z0-9._~-]+)+$",
        description="the whole path of a GET that answers 200 while it is well",
    )
    interval: Duration = Field(
        default=timedelta(seconds=5), ge=timedelta(seconds=1), le=timedelta(hours=1), description="time between two"
    )


class Backend(Strict):
    """One provider endpoint: it becomes one Envoy cluster."""

    dialect: Dialect = Field(description="what the endpoint speaks")
    url: str = Field(description="as the provider's SDK takes it: host, port, and a path where it is not the usual /v1")
    api_version: str | None = Field(
        default=None,
        pattern=r"^[0-9A-Za-z.-]+$",
        description="azure-openai only: use the legacy deployment paths with this api-version",
    )
    credential: Credential | None = Field(default=None, description="absent: no credential is sent")
    headers: dict[HeaderName, HeaderText] = Field(
        default_factory=dict, description="sent with every call, such as `editor-version`; nothing secret"
    )
    provider: Name | None = Field(
        default=None,
        description="whose it is, for teams that may use some `providers` only; absent: as the host of `url` tells "
        f"({', '.join(sorted(set(_PROVIDERS.values())))}), else nobody's",
    )
    surfaces: tuple[BackendSurface, ...] | None = Field(
        default=None,
        min_length=1,
        description="the APIs that it serves of its dialect, such as [chat, embeddings] of a server that has no "
        "Responses, so that these are translated for it; absent: all",
    )
    region: Name | None = Field(
        default=None, description="where it is, such as swedencentral or eu, for teams that may use some `regions` only"
    )
    identity_header: bool = Field(
        default=False,
        description="send x-sluice-identity, a signed token that names the caller: for self-hosted backends only",
    )
    traceparent: bool = Field(
        default=True,
        description="with `telemetry.traces`: it is sent the traceparent of calls that are traced, which tells a "
        "number and not whose call it is; without it an attempt that is not answered there has no span of its own",
    )
    cap_field: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        default=None,
        description="in which chat completions bound their output there; absent: max_completion_tokens for "
        "azure-openai and api.openai.com, else max_tokens",
    )
    cooling: OwnCooling | None = Field(
        default=None, description="how it is spared when it refuses or fails; absent: as in `routing.cooling`"
    )
    health: Health | None = Field(
        default=None, description="ask it whether it is well: for self-hosted backends only; absent: do not"
    )

    @field_validator("credential", mode="before")
    @classmethod
    def _no_secret(cls, value: object) -> object:
        """The most likely mistake has a message that says where secrets go, and does not repeat this one."""
        if isinstance(value, str):
            raise ValueError("says where the secret is, and never the secret: {env: NAME} or {file: PATH}")
        return value

    @field_validator("headers")
    @classmethod
    def _sendable(cls, value: dict[str, str]) -> dict[str, str]:
        """In lower case. Raises ValueError for what is not a backend's to set."""
        sent: dict[str, str] = {}
        for name, text in value.items():
            header = name.lower()
            if header in sent:
                raise ValueError(f"{header} is given twice")
            if is_credential(header):
                raise ValueError(f"{header} is for a secret, which belongs into `credential`")
            if is_ours(header):
                raise ValueError(f"{header} is set by the gateway")
            if _CALLERS.fullmatch(header):  # one backend's would take it away on the way to the next
                raise ValueError(f"{header} is the caller's to set")
            sent[header] = text
        return sent

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_endpoint(self.url)
        if self.api_version is not None and self.dialect != "azure-openai":
            raise ValueError("api_version is for the dialect azure-openai only")
        if self.cap_field is not None and self.dialect in ("anthropic", "gemini"):
            raise ValueError("cap_field is for backends with chat completions")
        foreign = [name for name in self.surfaces or () if name not in _OF_DIALECT[self.dialect]]
        if foreign:
            raise ValueError(f"surfaces: the dialect {self.dialect} has no {foreign[0]}, so leave that out")
        if self.dialect == "gemini" and urlsplit(self.url).path.rstrip("/").endswith("/openai"):
            raise ValueError("url names what speaks like OpenAI there: use the dialect openai, or leave /openai out")
        if self.credential is not None and self.credential.entra is not None:
            self._check_entra()
        if self.health is not None and provider_at(self.url) is not None:
            raise ValueError("health is for self-hosted backends, and this one is a provider's")
        return self

    def _check_entra(self) -> None:
        """A token opens all that its scope names, at Azure: nobody else may see one. Raises ValueError."""
        if self.dialect == "gemini" or provider_at(self.url) not in (None, "azure"):
            raise ValueError("credential.entra is for Azure, or for servers of your own that check such tokens")

    @property
    def cap_is_read_in(self) -> str:
        """The field in which chat completions bound their output there.

        OpenAI's own models with reasoning take no other than the new name, and most other servers only the old one.
        """
        is_openai = self.dialect == "azure-openai" or urlsplit(self.url).hostname == "api.openai.com"
        return self.cap_field or ("max_completion_tokens" if is_openai else "max_tokens")

    @property
    def whose(self) -> str | None:
        """The provider, where it is told or known."""
        return self.provider or provider_at(self.url)

    @property
    def is_a_providers(self) -> bool:
        """Whether it is not known to be of this company, so that it must not learn who calls."""
        return self.dialect != "openai" or provider_at(self.url) is not None
