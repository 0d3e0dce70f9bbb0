"""The option `--limit` of `sluice keys create`: a limit in a word, such as `tokens=100000/minute`."""

import re
from collections.abc import Sequence

import typer
from pydantic import ValidationError

from extproc.cli.settings import fail
from extproc.config.limits import KeyLimit, compile_limit
from extproc.config.schema import Gateway
from extproc.config.shape import Shape
from extproc.limits.limit import Limit, Measure

_OPTION = "--limit"
_LIMIT = re.compile(r"([a-z_]{1,20})=([0-9.]{1,30})(?:/([0-9a-z.]{1,20}))?", re.ASCII)


def limits(gateway: Gateway, given: Sequence[str]) -> tuple[Limit, ...]:
    """The limits of a key by name, each named by what it says: `tokens-per-minute`. Ends the command where one is none.

    What is given is never quoted: it could be anything, a key too.
    """
    found: dict[str, Limit] = {}
    for text in given:
        limit = _limit(text)
        if limit.name in found:
            raise typer.BadParameter(f"there are two of {limit.name}", param_hint=_OPTION)
        found[limit.name] = limit
    if found and gateway.limits_refused:
        fail(f"{_OPTION}: {gateway.limits_refused}")
    return tuple(found[name] for name in sorted(found))


def _limit(text: str) -> Limit:
    parts = _LIMIT.fullmatch(text)
    if parts is None or parts[1] not in list(Measure):
        raise typer.BadParameter(
            f"write it like tokens=100000/minute, concurrent=5 or money=20/month, of {', '.join(Measure)}",
            param_hint=_OPTION,
        )
    measure, amount, per = parts.groups()
    name = f"{measure}-per-{per}" if per else measure
    try:
        limit = KeyLimit.model_validate({measure: amount, "per": per})
    except ValidationError as error:
        details = error.errors()[0]
        about = f"{details['loc'][0]}: " if details["loc"] else ""
        message = Shape(KeyLimit).message(details, details["loc"])
        raise typer.BadParameter(f"{about}{message}", param_hint=_OPTION) from None
    return compile_limit(re.sub("[^a-z0-9]", "-", name), limit)
