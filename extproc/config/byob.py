"""Backends that teams bring: what the gateway allows, what a team file says of them, and what becomes of that.

What a team writes decides where calls go and which secret goes along. So it is held to a list of hosts, to public
addresses, and to secrets that are the team's by their very names; and again by each gateway that loads it, whose
configuration may have changed since.
"""

import json
import os.path
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from extproc.config import addresses
from extproc.config.backends import Backend, Cooling, cooling, cooling_problems
from extproc.config.fields import Credential, LocalSecret, ModelName, Name, Port, Strict
from extproc.config.models import Model, Target
from extproc.config.problems import Steps, did_you_mean

MOST_BACKENDS = 16
"""Of one team: each is a cluster of Envoy's."""
MOST_MODELS = 64
"""Of one team."""

_TEAM = "{team}"
_VARIABLE = re.compile(r"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+_)\{team\}_")
_OWN_VARIABLE = r"^[A-Z][A-Z0-9_]*_[A-Z0-9]+$"
_OWN_FILE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_LONGEST_HOST = 253
_CREDENTIAL = frozenset({"env", "file"})
_BACKEND = frozenset(
    {
        "dialect",
        "url",
        "api_version",
        "credential",
        "headers",
        "provider",
        "surfaces",
        "region",
        "traceparent",
        "cap_field",
        "cooling",
        "health",
    }
)
_MODEL = frozenset(
    {
        "modality",
        "targets",
        "affinity",
        "first_byte",
        "order",
        "stall",
        "price",
        "max_output",
        "min_output",
        "context",
        "hidden_output",
        "tokenizer_family",
        "image_tokens",
        "max_seconds",
    }
)

Mistake = tuple[Steps, str]
"""What is wrong, with the way to it in the team file."""


def _host(value: str) -> str:
    """In lower case. Raises ValueError for what is neither a name, nor names under one, nor an address."""
    written = value.lower().removeprefix("[").removesuffix("]")
    try:
        found = addresses.address(written)
    except ValueError as error:
        raise ValueError(str(error)) from None
    if found is not None:
        return str(found)
    if not _NAME.fullmatch(written.removeprefix("*.")):
        raise ValueError("must be a host as URLs have it, such as llm.example.com, or like *.example.com")
    return written


def _variable(value: str) -> str:
    if not _VARIABLE.fullmatch(value):
        raise ValueError("must be like SLUICE_TEAM_{team}_: two words at least, then {team}_")
    return value


def _folder(value: Path) -> Path:
    if value.parts.count(_TEAM) != 1 or str(value).count("{") != 1 or ".." in value.parts:
        raise ValueError("must have {team} as one of its folders, such as /etc/sluice/teams/{team}, and no ..")
    return value


Host = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_host)]


class TeamCredentials(Strict):
    """Where the secrets of teams' backends are. `{team}` is the team's name; none reaches those of another."""

    env: Annotated[str, AfterValidator(_variable)] | None = Field(
        default=None,
        description="how variables begin that hold them, such as `SLUICE_TEAM_{team}_`; the name in upper case, with _ "
        "for each dash, and one word of letters and digits behind it. Absent: none does",
    )
    files: Annotated[Path, AfterValidator(_folder)] | None = Field(
        default=None,
        description="folder of files that hold them, such as `/etc/sluice/teams/{team}`. Absent: none does",
    )

    @property
    def prefix(self) -> str | None:
        """What the variables of all teams begin with."""
        found = None if self.env is None else _VARIABLE.fullmatch(self.env)
        return None if found is None else found[1]

    @property
    def root(self) -> Path | None:
        """The folder of all teams' folders."""
        return None if self.files is None else Path(*self.files.parts[: self.files.parts.index(_TEAM)]).absolute()


class Byob(Strict):
    """Backends that teams bring in their files (`backends` and `own_models` there); absent: none may."""

    hosts: tuple[Host, ...] = Field(
        min_length=1, description="where they may be: names such as llm.example.com, *.example.com for all under it"
    )
    ports: tuple[Port, ...] = Field(default=(443,), min_length=1, description="on which ports")
    private: bool = Field(
        default=False,
        description="also at addresses that are not of the public internet, and over plain http; never at those where "
        "clouds give machines their credentials",
    )
    credentials: TeamCredentials = Field(
        default=TeamCredentials(), description="where their secrets are; absent: they have none"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for host in self.hosts:
            found = addresses.address(host)
            if found is not None and (problem := addresses.trouble(found, self.private)):
                raise ValueError(f"hosts: {host} {problem}")
        return self


# ---- as a team writes them ----


def _only(kept: frozenset[str]) -> Callable[[dict[str, Any]], None]:
    """Takes from a JSON Schema the fields that are not for teams."""

    def trim(schema: dict[str, Any]) -> None:
        schema["properties"] = {name: value for name, value in schema["properties"].items() if name in kept}

    return trim


def _check_field(name: str | None, kept: frozenset[str]) -> None:
    if name not in kept:
        raise ValueError("is for the gateway's own configuration, not for a team's file")


class OwnCredential(Credential):
    """Where the secret of a team's backend is: exactly one of `env` and `file`. Never the secret itself."""

    model_config = ConfigDict(json_schema_extra=_only(_CREDENTIAL))

    file: Annotated[Path, Field(json_schema_extra={"pattern": _OWN_FILE})] | None = Field(
        default=None, description="name of a file in the team's folder, see `byob.credentials.files` of the gateway"
    )
    env: Annotated[str, Field(pattern=_OWN_VARIABLE)] | None = Field(
        default=None, description="name of a variable of the team, see `byob.credentials.env` of the gateway"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _of_a_team(cls, value: object, info: ValidationInfo) -> object:
        _check_field(info.field_name, _CREDENTIAL)
        if info.field_name == "file" and not re.fullmatch(_OWN_FILE, str(value)):
            raise ValueError("must be the name of a file in the team's folder: letters, digits, dots, dashes and _")
        return value


class OwnBackend(Backend):
    """One endpoint of the team; the gateway's `byob` says where it may be."""

    model_config = ConfigDict(json_schema_extra=_only(_BACKEND))

    credential: OwnCredential | None = Field(default=None, description="absent: no credential is sent")

    @field_validator("*", mode="before")
    @classmethod
    def _of_a_team(cls, value: object, info: ValidationInfo) -> object:
        _check_field(info.field_name, _BACKEND)
        return value


class OwnModel(Model):
    """A model that the team's own backends serve. Nobody else sees it, and it needs no entry in `models`."""

    model_config = ConfigDict(json_schema_extra=_only(_MODEL))

    @field_validator("*", mode="before")
    @classmethod
    def _of_a_team(cls, value: object, info: ValidationInfo) -> object:
        _check_field(info.field_name, _MODEL)
        return value


class TeamBackends(Strict):
    """What one team brings, as a gateway serves it: checked, with credentials that it can read."""

    backends: dict[Name, Backend] = Field(default_factory=dict)
    models: dict[ModelName, Model] = Field(default_factory=dict)


def written(backends: Mapping[str, OwnBackend], models: Mapping[str, OwnModel]) -> str:
    """What a team brings, as the database has it; empty where that is nothing. The same text for the same meaning."""
    parts = {
        "backends": {name: backend.model_dump(mode="json", exclude_unset=True) for name, backend in backends.items()},
        "own_models": {name: model.model_dump(mode="json", exclude_unset=True) for name, model in models.items()},
    }
    return json.dumps(parts, sort_keys=True, ensure_ascii=False) if backends or models else ""


def entries(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The backends and the models of such a text, by name, each yet to be validated. Raises ValueError."""
    parts = json.loads(text or "{}")
    backends, models = (parts.get(name, {}) if isinstance(parts, dict) else None for name in ("backends", "own_models"))
    if not isinstance(backends, dict) or not isinstance(models, dict):
        raise ValueError("is no account of backends and models")
    return backends, models


def own_name(team: str, backend: str) -> str:
    """The name of a team's backend everywhere in a gateway. No name of its configuration has a dot."""
    return f"{team}.{backend}"


def owner_of(backend: str) -> str:
    """The team whose backend it is, by that name; empty for one of the gateway."""
    return backend.rpartition(".")[0]


# ---- what is wrong with them ----


def endpoint_trouble(url: str, byob: Byob) -> str:
    """Why a team's backend may not be there, as far as its URL shows; empty where it may."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = addresses.address(host)
    except ValueError as error:
        return f"the host {error}"
    if found is None and (len(host) > _LONGEST_HOST or not _NAME.fullmatch(host)):
        return "the host is no name that DNS can have"  # and Envoy might refuse all clusters for it
    if not addresses.is_listed(host if found is None else str(found), byob.hosts):
        return f"the host {host} is not among `byob.hosts` of the gateway{did_you_mean(host, byob.hosts)}"
    if port not in byob.ports:
        return f"the port {port} is not among `byob.ports` of the gateway"
    if parts.scheme != "https" and not byob.private:
        return "must be https: plain http is for private addresses, and `byob.private` of the gateway is not on"
    if found is not None and (problem := addresses.trouble(found, byob.private)):
        return f"the host {problem}"
    return ""


def credential_of(given: OwnCredential, team: str, byob: Byob) -> Credential:
    """Where a team's credential is. Raises ValueError for one that is not the team's to name."""
    where = byob.credentials
    if given.env is not None:
        if where.env is None:
            raise ValueError("no variable holds credentials of teams: `byob.credentials.env` of the gateway is absent")
        prefix = where.env.replace(_TEAM, team.upper().replace("-", "_"))
        word = given.env.removeprefix(prefix)
        if not given.env.startswith(prefix) or not re.fullmatch(r"[A-Z0-9]+", word):
            raise ValueError(f"a variable of this team is {prefix} and one word of letters and digits")
        return Credential(env=given.env)
    if where.files is None or given.file is None:
        raise ValueError("no file holds credentials of teams: `byob.credentials.files` of the gateway is absent")
    return Credential(file=Path(*(team if part == _TEAM else part for part in where.files.parts)) / given.file)


def mistakes(
    team: str,
    backends: Mapping[str, OwnBackend],
    models: Mapping[str, OwnModel],
    byob: Byob | None,
    usual: Cooling,
) -> Iterator[Mistake]:
    """What a team's file says of its backends and models, and a gateway does not allow. `usual`: how it spares any."""
    if byob is None:
        for field, given in (("backends", backends), ("own_models", models)):
            if given:
                yield (field,), "the gateway allows no backends of teams: it has no `byob`"
        return
    for name, backend in backends.items():
        yield from ((("backends", name, *steps), problem) for steps, problem in troubles(team, backend, byob, usual))
    for name, model in models.items():
        yield from _target_mistakes(name, model, backends)


def troubles(team: str, backend: OwnBackend, byob: Byob, usual: Cooling) -> Iterator[Mistake]:
    """Why a gateway does not allow one backend, as far as it shows without a look at the machine and the network."""
    if problem := endpoint_trouble(backend.url, byob):
        yield ("url",), problem
    if backend.credential is not None:
        kind = "env" if backend.credential.env is not None else "file"
        try:
            credential_of(backend.credential, team, byob)
        except ValueError as error:
            yield ("credential", kind), str(error)
    for problem in cooling_problems("", cooling(usual, backend.cooling)):
        yield ("cooling",), problem.removeprefix(": ")


def _target_mistakes(name: str, model: OwnModel, backends: Mapping[str, OwnBackend]) -> Iterator[Mistake]:
    for number, group in enumerate(model.targets):
        steps: Steps = ("own_models", name, "targets", number)
        if not has_weight(group):
            yield steps, "a group needs at least one target with a weight above 0"
        for place, target in enumerate(group):
            if target.backend not in backends:
                known = did_you_mean(target.backend, backends)
                message = f"there is no backend {target.backend!r} under `backends` of this file{known}"
                yield (*steps, place, "backend"), message


def has_weight(group: tuple[Target, ...]) -> bool:
    """Whether any of a group's targets is ever drawn."""
    return any(target.weight > 0 for target in group)


# ---- what the gateway's own configuration must leave to teams ----


def reserved(gateway: BaseModel, byob: Byob) -> Iterator[str]:
    """Settings that name a secret, a file or a folder where credentials of teams are, so that a team could name it."""
    prefix, root = byob.credentials.prefix, byob.credentials.root
    for value in _values(gateway):
        if prefix and isinstance(value, Credential | LocalSecret) and (value.env or "").startswith(prefix):
            yield f"byob.credentials.env: a variable of the gateway's own, {value.env}, begins like those of teams"
        if root and isinstance(value, Path) and Path(os.path.abspath(value)).is_relative_to(root):  # noqa: PTH100 - no I/O
            yield f"byob.credentials.files: {value}, which the gateway's configuration names, lies among those of teams"


def _values(node: object) -> Iterator[object]:
    """All that a configuration holds, but for what is said of teams."""
    if isinstance(node, Byob | TeamBackends):
        return
    yield node
    inner: Iterable[object] = ()
    if isinstance(node, BaseModel):
        inner = (getattr(node, name) for name in type(node).model_fields)
    elif isinstance(node, Mapping):
        inner = node.values()
    elif isinstance(node, tuple):
        inner = node
    for value in inner:
        yield from _values(value)
