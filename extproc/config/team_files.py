"""The folder of the team files: `teams/<name>.yaml`, one a team. Every problem of every file is told at once.

A team file takes nothing from the environment: what is under review must not be able to show a secret of the
machine that reviews it.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from extproc.config.problems import ConfigError, Place, Problem, Steps, did_you_mean
from extproc.config.schema import Gateway
from extproc.config.shape import Shape
from extproc.config.teams import DEFAULT_TIER, EVERY_MODEL, TeamFile
from extproc.config.tree import Tree

LATER = frozenset(
    {
        *("tokensPerMinute", "tokens_per_minute", "requestsPerMinute", "requests_per_minute"),
        *("limits", "budgets", "guardrails", "cache", "providers", "regions", "backends"),
    }
)
"""Fields that are known to come, each with the engine that carries it out."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class Offer:
    """What a gateway has for teams: its areas (empty: any), and each model with the tiers it is for (None: all)."""

    areas: frozenset[str]
    models: Mapping[str, tuple[str, ...] | None]
    public: Mapping[str, str]  # the public name, by every name that a model goes by

    def is_open(self, model: str, tier: str) -> bool:
        """Whether teams of a tier may use a model, by its public name."""
        tiers = self.models[model]
        return tiers is None or tier in tiers

    def tiers(self) -> set[str]:
        """The tiers that make a difference, and the usual one."""
        return {DEFAULT_TIER, *(tier for tiers in self.models.values() for tier in tiers or ())}


def offer(gateway: Gateway) -> Offer:
    """What the team files are checked against."""
    return Offer(
        areas=frozenset(gateway.areas),
        models={name: model.tiers for name, model in gateway.models.items()},
        public={spelled: name for name, model in gateway.models.items() for spelled in (name, *model.aliases)},
    )


def load_teams(folder: Path, offered: Offer) -> dict[str, TeamFile]:
    """All team files of a folder, by the names of the teams. Raises ConfigError with every problem of every file."""
    teams: dict[str, TeamFile] = {}
    problems: list[Problem] = []
    for path in _files(folder, problems):
        try:
            teams[path.stem] = _load(path, offered)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return teams


@functools.cache
def _shape() -> Shape:
    return Shape(TeamFile, LATER)


def _files(folder: Path, problems: list[Problem]) -> Iterator[Path]:
    """The team files. What looks like one and would be passed over is a problem; README.md and the like are not."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ConfigError([Problem(Place(str(folder)), "", f"cannot be read ({error.strerror})")]) from None
    for path in entries:
        if path.name.startswith("."):
            continue
        if message := _misplaced(path):
            problems.append(Problem(Place(str(path)), "", message))
        elif path.suffix == ".yaml":
            yield path


def _misplaced(path: Path) -> str:
    if path.suffix == ".yaml" and path.is_symlink():
        return "is a symbolic link: what it shows could be any file of this machine"
    if path.is_dir():
        return "is a folder: team files stand side by side"
    if path.suffix in (".yml", ".json"):
        return "is not read: a team file ends in .yaml"
    if path.suffix == ".yaml" and not _NAME.fullmatch(path.stem):
        return "its name is the team's: lower-case letters, digits and dashes, at most 63, no dash first"
    return ""


def _load(path: Path, offered: Offer) -> TeamFile:
    tree = Tree(_shape(), Place(str(path)), environ=None)
    tree.read(path)
    team = tree.validated(TeamFile)
    if problems := [tree.problem(steps, message) for steps, message in _mistakes(team, offered)]:
        raise ConfigError(sorted(problems, key=lambda problem: problem.place.line))
    return team


# ---- what only the gateway and the rest of the file can tell ----

Mistake = tuple[Steps, str]


def _mistakes(team: TeamFile, offered: Offer) -> Iterator[Mistake]:
    if offered.areas and team.area not in offered.areas:
        known = did_you_mean(team.area, offered.areas)
        yield ("area",), f"there is no area {team.area!r} under `areas` of the gateway{known}"
    if team.tier not in offered.tiers():
        known = did_you_mean(team.tier, offered.tiers())
        yield ("tier",), f"no model of the gateway names the tier {team.tier!r}{known}"
    yield from _model_mistakes(team, offered)
    yield from _doubles(team)
    for number, member in enumerate(team.members):
        if member.user == team.owner and member.role != "team_admin":
            yield ("members", number, "role"), f"the owner is a team_admin, not a {member.role}"
    yield from _holder_mistakes(team)


def _model_mistakes(team: TeamFile, offered: Offer) -> Iterator[Mistake]:
    names = [granted.name for granted in team.models]
    every = EVERY_MODEL in names
    if every and len(names) > 1:
        yield ("models",), "`*` stands for every model: leave the others out"
    elif not every:
        yield from _unusable(names, ("models",), ("name",), team.tier, offered)
    granted = {offered.public.get(name) for name in names}
    for place, key in enumerate(team.keys):
        steps = ("keys", place, "models")
        yield from _unusable(key.models or (), steps, (), team.tier, offered)
        for number, name in enumerate(key.models or ()):
            if not every and name in offered.public and offered.public[name] not in granted:
                yield (*steps, number), f"the team may not use {offered.public[name]}"


def _unusable(names: Sequence[str], steps: Steps, inner: Steps, tier: str, offered: Offer) -> Iterator[Mistake]:
    """Names in the list at `steps` that are no model, one twice, or one that is not open to the tier."""
    seen: set[str] = set()
    for number, name in enumerate(names):
        place = (*steps, number, *inner)
        model = offered.public.get(name)
        if model is None:
            yield place, f"there is no model {name!r} in the gateway{did_you_mean(name, offered.public)}"
        elif model in seen:
            yield place, f"{model} is given twice"
        elif not offered.is_open(model, tier):
            yield place, f"{model} is not open to the tier {tier!r}"
        seen.add(model or "")


def _doubles(team: TeamFile) -> Iterator[Mistake]:
    yield from _twice("members", "user", (member.user for member in team.members))
    yield from _twice("groups", "id", (group.id for group in team.groups))
    yield from _twice("service_accounts", "name", (account.name for account in team.service_accounts))
    yield from _twice("service_accounts", "client_id", (account.client_id for account in team.service_accounts))
    yield from _twice("keys", "name", (key.name for key in team.keys))


def _twice(section: str, field: str, values: Iterable[str | None]) -> Iterator[Mistake]:
    seen: set[str] = set()
    for number, value in enumerate(values):
        if value is not None and value in seen:
            yield (section, number, field), f"{value} is given twice"
        seen.add(value or "")


def _holder_mistakes(team: TeamFile) -> Iterator[Mistake]:
    """Keys for somebody who is not in the team, or may not call."""
    roles: Mapping[str, str] = {member.user: member.role for member in team.members} | {team.owner: "team_admin"}
    accounts = {account.name for account in team.service_accounts}
    for number, key in enumerate(team.keys):
        if key.user is not None and key.user not in roles:
            yield ("keys", number, "user"), f"{key.user} is not in the team{did_you_mean(key.user, roles)}"
        elif key.user is not None and roles[key.user] == "viewer":
            yield ("keys", number, "user"), f"{key.user} is a viewer, who never calls"
        if key.service_account is not None and key.service_account not in accounts:
            known = did_you_mean(key.service_account, accounts)
            yield (
                ("keys", number, "service_account"),
                f"the team has no service account {key.service_account!r}{known}",
            )
