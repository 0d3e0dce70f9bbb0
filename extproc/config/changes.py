"""What differs between two configurations, and which of that a running gateway can take over.

What is not named here is read once, at the start: a new field takes a restart until its code says otherwise.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum

from pydantic import BaseModel

from extproc.config.problems import Steps, dotted
from extproc.config.schema import Gateway


class Takes(IntEnum):
    """Whom a change concerns, the farthest last."""

    WORKERS = 1  # alone: nothing of it stands in Envoy's files
    ENVOY = 2  # clusters, routes and secrets, which it reads again
    LISTENER = 3  # perhaps: of such a field a part stands in what Envoy reads once
    RESTART = 4


_ANY = "*"
_TAKES: Mapping[Takes, tuple[Steps, ...]] = {
    Takes.WORKERS: (
        ("areas",),
        ("cache", "largest"),
        ("cache", "max_temperature"),
        ("cache", "mode"),
        ("cache", "rules"),
        ("cache", "scope"),
        ("cache", "semantic", "mode"),
        ("cache", "semantic", "price"),
        ("cache", "semantic", "threshold"),
        ("cache", "side_effects"),
        ("cache", "ttl"),
        ("cache", "wait"),
        ("default_models",),
        ("identity", "accept"),
        ("models", _ANY, "affinity"),
        ("models", _ANY, "aliases"),
        ("models", _ANY, "enabled"),
        ("models", _ANY, "first_byte"),
        ("models", _ANY, "price"),
        ("models", _ANY, "retired"),
        ("models", _ANY, "targets"),
        ("models", _ANY, "tiers"),
        ("overload",),
        ("policies",),
        ("teams",),
    ),
    Takes.ENVOY: (
        ("backends",),
        ("byob",),
        ("models",),
        ("routing",),
        ("team_backends",),
        ("timeouts", "connect"),
    ),
    Takes.LISTENER: (
        ("identity", "issuers"),
        ("services",),
    ),
}
_ABSENT = object()


def differences(old: Gateway, new: Gateway) -> list[Steps]:
    """The settings that are not the same, each as deep as both have it."""
    return list(_differing(old, new, ()))


def takes(changed: Iterable[Steps]) -> Takes:
    """Whom these changes concern together."""
    return max(map(_takes, changed), default=Takes.WORKERS)


def needs_restart(changed: list[Steps], listener_changes: bool) -> list[str]:
    """Which of the changed settings, dotted, a running gateway cannot take over; none: it can take over all.

    `listener_changes`: Envoy's files that must not change while it runs would; replacing them cuts live streams.
    """
    fixed = [steps for steps in changed if _takes(steps) is Takes.RESTART]
    if listener_changes and not fixed:
        fixed = [steps for steps in changed if _takes(steps) is Takes.LISTENER] or changed
    return [dotted(steps) for steps in fixed]


def _takes(steps: Steps) -> Takes:
    return next((kind for kind, fields in _TAKES.items() if any(_is_in(steps, one) for one in fields)), Takes.RESTART)


def _is_in(steps: Steps, field: Steps) -> bool:
    """Whether the steps lead to the field or into it."""
    return len(steps) >= len(field) and all(name in (_ANY, step) for step, name in zip(steps, field, strict=False))


def _differing(old: object, new: object, steps: Steps) -> Iterator[Steps]:
    if old == new:
        return
    before, after = _parts(old), _parts(new)
    if before is None or after is None:
        yield steps
        return
    for name in (*before, *(name for name in after if name not in before)):
        yield from _differing(before.get(name, _ABSENT), after.get(name, _ABSENT), (*steps, name))


def _parts(value: object) -> Mapping[str, object] | None:
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    return value if isinstance(value, dict) else None
