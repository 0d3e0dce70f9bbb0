"""Envoy's own log of calls."""

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field

from extproc.config.fields import Strict

STDOUT = "stdout"


def _target(value: str) -> str:
    path = PurePosixPath(value)
    if value != STDOUT and (not path.is_absolute() or value.endswith("/") or not value.isprintable()):
        raise ValueError("must be stdout, or the full path of a file, such as /var/log/sluice/access.log")
    return value


class AccessLog(Strict):
    """A line of JSON for each call, written by Envoy: what it saw, and what the policy knows of the call."""

    to: Annotated[str, AfterValidator(_target)] = Field(
        default=STDOUT,
        description="stdout, which is Envoy's own, or the full path of a file that Envoy may write; its folder must "
        "be there",
    )
