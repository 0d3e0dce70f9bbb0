"""The kinds of values that configuration is made of. Durations are seconds when written as a number, or text such
as `30s`, `10m`; sizes are bytes when written as a number, or text such as `8MiB`.
"""

import re
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import SplitResult

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, WithJsonSchema, model_validator

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _duration(value: object) -> object:
    if isinstance(value, str):
        found = _DURATION.fullmatch(value)
        if found is None:
            raise ValueError("write a duration as a number of seconds, or like 500ms, 30s, 10m, 1h")
        return timedelta(seconds=float(found[1]) * _UNIT[found[2]])
    if isinstance(value, int | float) and not isinstance(value, bool):
        return timedelta(seconds=value)
    return value


def has_port(parts: SplitResult) -> bool:
    """Whether the port, where there is one, is a number that a port can be."""
    try:
        return parts.port != 0
    except ValueError:
        return False


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    Field(gt=timedelta(0)),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{_DURATION.pattern}$"}]}),
]
Size = Annotated[
    ByteSize,
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9.]+ ?([kKMGT]i?)?B?$"}]}),
]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""Names of our own things (backends): they become Envoy cluster names and metric labels."""
ModelName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$")]
"""Names of models stand in JSON and in paths as they are, so they hold nothing that would need escaping."""
Port = Annotated[int, Field(ge=1, le=65535)]


def _ip_range(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return str(ip_network(value))
    except ValueError:
        raise ValueError(
            "write an IP address or range, like 10.1.0.0/16 or 2001:db8::/32, with no host bits set"
        ) from None


IpRange = Annotated[str, BeforeValidator(_ip_range)]
"""An IP address or a range in CIDR form."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_timedelta="float")


class Credential(Strict):
    """Where a backend's secret comes from: exactly one source. Never the secret itself."""

    file: Path | None = Field(default=None, description="file whose content is the secret; re-read when replaced")
    env: str | None = Field(default=None, description="environment variable that holds the secret")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.env is None):
            raise ValueError("give exactly one of `file` and `env`")
        return self
