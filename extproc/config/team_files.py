"""The folder of the team files: `teams/<name>.yaml`, one a team. Every problem of every file is told at once.

A team file takes nothing from the environment: what is under review must not be able to show a secret of the
machine that reviews it.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from extproc.config import byob
from extproc.config.backends import Backend, Cooling
from extproc.config.byob import Byob, own_name
from extproc.config.limits import OTHER_WORDS, KeyLimit, TeamLimit
from extproc.config.models import Model
from extproc.config.problems import ConfigError, Place, Problem, Steps, did_you_mean
from extproc.config.schema import Gateway
from extproc.config.shape import Shape
from extproc.config.teams import DEFAULT_TIER, EVERY_MODEL, TeamFile
from extproc.config.tree import Tree
from extproc.model import DEFAULT_POLICY

LATER = {
    **OTHER_WORDS,
    **dict.fromkeys(
        ("cache",),
        "is not carried out yet, so it is refused rather than ignored",
    ),
    "budgets": "a budget is a limit on money: `limits: {NAME: {money: 500, per: month}}`",
}
"""Fields that people may look for, and what they are told."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


Whereabouts = tuple[str | None, str | None]
"""A backend's provider and region."""


_USUAL = Cooling()


@dataclass(frozen=True, slots=True)
class Offer:
    """What a gateway has for teams: its areas (empty: any), and each model with the tiers it is for (None: all)."""

    areas: frozenset[str]
    models: Mapping[str, tuple[str, ...] | None]
    public: Mapping[str, str]  # the public name, by every name that a model goes by
    backends: frozenset[str] = frozenset()
    has_low_route: bool = False
    limits_refused: str = ""  # why no limit can be kept here
    redaction: frozenset[str] = frozenset()  # names of policies
    guardrails: frozenset[str] = frozenset()  # names of policies
    currency: str = ""  # of limits on money
    places: Mapping[str, frozenset[Whereabouts]] = field(default_factory=dict)  # of models, by their public names
    byob: Byob | None = None  # None: teams bring no backends
    cooling: Cooling = _USUAL  # how backends are spared that say nothing of it

    def is_open(self, model: str, tier: str) -> bool:
        """Whether teams of a tier may use a model, by its public name."""
        tiers = self.models[model]
        return tiers is None or tier in tiers

    def of(self, name: str, team: TeamFile) -> "Offer":
        """With what the team brings, for what refers to models and backends within its file."""
        if not team.backends and not team.own_models:
            return self
        brought = {own_name(name, backend): given for backend, given in team.backends.items()}
        return replace(
            self,
            models={**self.models, **dict.fromkeys(team.own_models)},
            public={**self.public, **{own: own for own in team.own_models}},
            backends=self.backends | brought.keys(),
            places={**self.places, **_places(team.own_models, team.backends)},
        )

    def tiers(self) -> set[str]:
        """The tiers that make a difference, and the usual one."""
        return {DEFAULT_TIER, *(tier for tiers in self.models.values() for tier in tiers or ())}


def offer(gateway: Gateway) -> Offer:
    """What the team files are checked against."""
    return Offer(
        areas=frozenset(gateway.areas),
        models={name: model.tiers for name, model in gateway.models.items()},
        public=gateway.public_names(),
        backends=frozenset(gateway.backends),
        has_low_route=gateway.listener.low_priority_prefix is not None,
        limits_refused=gateway.limits_refused,
        redaction=frozenset(gateway.policies.redaction),
        guardrails=frozenset(gateway.policies.guardrails),
        currency=gateway.policies.currency,
        places=_places(gateway.models, gateway.backends),
        byob=gateway.byob,
        cooling=gateway.routing.cooling,
    )


def _places(models: Mapping[str, Model], backends: Mapping[str, Backend]) -> dict[str, frozenset[Whereabouts]]:
    """Where the targets of each model are, as far as they name backends that are there."""
    places = {name: (backend.whose, backend.region) for name, backend in backends.items()}
    return {
        name: frozenset(
            places[target.backend] for group in model.targets for target in group if target.backend in places
        )
        for name, model in models.items()
    }


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
    if problems := [tree.problem(steps, message) for steps, message in _mistakes(path.stem, team, offered)]:
        raise ConfigError(sorted(problems, key=lambda problem: problem.place.line))
    return team


# ---- what only the gateway and the rest of the file can tell ----

Mistake = tuple[Steps, str]


def _mistakes(name: str, team: TeamFile, offered: Offer) -> Iterator[Mistake]:
    yield from byob.mistakes(name, team.backends, team.own_models, offered.byob, offered.cooling)
    for own in team.own_models:
        if own in offered.public:
            yield ("own_models", own), "is the name of a model of the gateway: give it another"
    offered = offered.of(name, team)
    if offered.areas and team.area not in offered.areas:
        known = did_you_mean(team.area, offered.areas)
        yield ("area",), f"there is no area {team.area!r} under `areas` of the gateway{known}"
    if team.tier not in offered.tiers():
        known = did_you_mean(team.tier, offered.tiers())
        yield ("tier",), f"no model of the gateway names the tier {team.tier!r}{known}"
    yield from _model_mistakes(team, offered)
    yield from _limit_mistakes(team, offered)
    yield from _doubles(team)
    for number, member in enumerate(team.members):
        if member.user == team.owner and member.role != "team_admin":
            yield ("members", number, "role"), f"the owner is a team_admin, not a {member.role}"
    yield from _holder_mistakes(team)
    yield from _place_mistakes(team, offered)
    yield from _policy_mistakes("redaction", team.redaction, offered.redaction)
    yield from _policy_mistakes("guardrails", team.guardrails, offered.guardrails)


def _policy_mistakes(field: str, name: str, known: frozenset[str]) -> Iterator[Mistake]:
    """The default one need not be there: then nothing is looked at."""
    if name != DEFAULT_POLICY and name not in known:
        yield (
            (field,),
            f"there is no policy {name!r} under `policies.{field}` of the gateway{did_you_mean(name, known)}",
        )


def _place_mistakes(team: TeamFile, offered: Offer) -> Iterator[Mistake]:
    """Providers and regions that no target is at; and models that have no target at the team's."""
    if unknown := [*_nowhere(team, offered)]:
        yield from unknown
        return
    granted: list[tuple[Steps, str]] = [(("models", at, "name"), one.name) for at, one in enumerate(team.models)]
    for steps, name in (*granted, *((("own_models", own), own) for own in team.own_models)):
        places = offered.places.get(offered.public.get(name, ""))
        if places is not None and not any(_admits(team, place) for place in places):
            yield steps, f"{name} has no target in the team's providers and regions"


def _nowhere(team: TeamFile, offered: Offer) -> Iterator[Mistake]:
    everywhere = [place for places in offered.places.values() for place in places]
    for at, (section, names) in enumerate((("providers", team.providers), ("regions", team.regions))):
        known = {place[at] or "" for place in everywhere}
        for number, name in enumerate(names or ()):
            if name not in known:
                kind = section.removesuffix("s")
                yield (section, number), f"no model has a target in the {kind} {name!r}{did_you_mean(name, known)}"


def _admits(team: TeamFile, place: Whereabouts) -> bool:
    return (team.providers is None or place[0] in team.providers) and (team.regions is None or place[1] in team.regions)


Named = Sequence[tuple[Steps, str]]
"""Names with the way to each."""


def _model_mistakes(team: TeamFile, offered: Offer) -> Iterator[Mistake]:
    names = [granted.name for granted in team.models]
    every = EVERY_MODEL in names
    if every and len(names) > 1:
        yield ("models",), "`*` stands for every model: leave the others out"
    elif not every:
        named = [(("models", number, "name"), name) for number, name in enumerate(names)]
        yield from _unusable(named, team.tier, offered)
        yield from (
            (place, "needs no entry here: the team brings it") for place, name in named if name in team.own_models
        )
    granted = {offered.public.get(name) for name in names} | team.own_models.keys()
    for listed in _named_models(team):
        yield from _unusable(listed, team.tier, offered)
        for place, name in listed:
            if not every and name in offered.public and offered.public[name] not in granted:
                yield place, f"the team may not use {offered.public[name]}"


def _named_models(team: TeamFile) -> Iterator[Named]:
    """The lists of models, besides that of the team."""
    for place, key in enumerate(team.keys):
        yield _listed(("keys", place, "models"), key.models)
    for steps, limit in _limits(team):
        yield _listed((*steps, "only", "models"), limit.only.models)
        if limit.fallback is not None:
            yield [((*steps, "fallback"), limit.fallback)]


def _listed(steps: Steps, names: Sequence[str] | None) -> Named:
    return [((*steps, number), name) for number, name in enumerate(names or ())]


def _unusable(named: Named, tier: str, offered: Offer) -> Iterator[Mistake]:
    """What is no model in a list of them, one twice, or one that is not open to the tier."""
    seen: set[str] = set()
    for place, name in named:
        model = offered.public.get(name)
        if model is None:
            yield place, f"there is no model {name!r} in the gateway{did_you_mean(name, offered.public)}"
        elif model in seen:
            yield place, f"{model} is given twice"
        elif not offered.is_open(model, tier):
            yield place, f"{model} is not open to the tier {tier!r}"
        seen.add(model or "")


def _limits(team: TeamFile) -> Iterator[tuple[Steps, TeamLimit | KeyLimit]]:
    """The limits of the team and of its keys, each with the way to it."""
    for name, limit in team.limits.items():
        yield ("limits", name), limit
    for place, key in enumerate(team.keys):
        for name, of_key in key.limits.items():
            yield ("keys", place, "limits", name), of_key


def _limit_mistakes(team: TeamFile, offered: Offer) -> Iterator[Mistake]:
    for steps, limit in _limits(team):
        for place, backend in _listed((*steps, "only", "backends"), limit.only.backends):
            if backend not in offered.backends:
                known = did_you_mean(backend, offered.backends)
                yield place, f"there is no backend {backend!r} in the gateway{known}"
        if limit.only.low_route and not offered.has_low_route:
            yield (*steps, "only", "low_route"), "needs `listener.low_priority_prefix` of the gateway"
        models = {offered.public.get(name) for name in limit.only.models or ()}
        if limit.fallback is not None and offered.public.get(limit.fallback) in models - {None}:
            yield (*steps, "fallback"), "is a model that the limit itself holds for"
    if offered.limits_refused:
        yield from ((steps, offered.limits_refused) for steps in _kept(team))


def _kept(team: TeamFile) -> Iterator[Steps]:
    """The ways to everything that has to be counted."""
    for number, model in enumerate(team.models):
        if model.tokens_per_minute is not None:
            yield "models", number, "tokensPerMinute"
        if model.requests_per_minute is not None:
            yield "models", number, "requestsPerMinute"
    yield from (steps for steps, limit in _limits(team) if limit.mode != "off")


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
