"""`sluice redact`: what a policy of redaction finds in a text, and makes of it."""

import asyncio
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from extproc import companion
from extproc.cli.keys import JsonOption
from extproc.cli.settings import ConfigOption, config_path, configuration, fail
from extproc.cli.tables import print_table
from extproc.config.environment import PREFIX
from extproc.config.problems import ConfigError, did_you_mean, dotted
from extproc.config.profiles import Detectors, Unusable, profile
from extproc.config.redaction import Redaction
from extproc.config.schema import Gateway
from extproc.config.team_files import load_teams, offer
from extproc.dialects import json_spans
from extproc.model import DEFAULT_POLICY
from extproc.redaction import names, positions
from extproc.redaction.changes import Change, apply
from extproc.redaction.detector import Finding
from extproc.redaction.placeholders import Placeholders
from extproc.redaction.policy import Action, Mode, NameTier, OnError, strictness
from extproc.redaction.positions import Kind, Position
from extproc.redaction.profile import Profile
from extproc.redaction.redactor import Redactor
from extproc.screening import ner

_REFUSED = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One value. `start` and `end` are characters of the text at `place`, which is empty where there is one text."""

    place: str
    start: int
    end: int
    entity: str
    score: float
    action: Action
    replacement: str | None  # None: it stays


@dataclass(frozen=True, slots=True)
class Outcome:
    """What comes of a text or a body; `blocked` are the entities for which a call would be refused."""

    text: str
    rows: Sequence[Row]
    blocked: Mapping[str, int]


def redact(
    config: ConfigOption = None,
    policy: Annotated[
        str | None, typer.Option(show_default=False, help="A policy of the configuration. Default: `default`.")
    ] = None,
    team: Annotated[
        str | None, typer.Option(show_default=False, help="The policy that this team's file names.")
    ] = None,
    body: Annotated[
        bool, typer.Option("--body", help="Standard input is the JSON body of a request, of any API.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Tell on standard error what was found and where; never the values.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Redact standard input as a policy would, without a gateway.

    Without a configuration: the default entities, each with a placeholder. Exit code 3: the call would be refused.

    [bold]Examples[/bold]

      echo "Mail ann@example.com" | sluice redact --explain

      sluice redact --config gateway.yaml --team search --body < request.json
    """
    chosen = _profile(config, policy, team)
    found = _looked_through(chosen, _input(), team or "", is_body=body)
    refused = bool(found.blocked) and chosen.policy.mode is Mode.ENFORCE
    if explain:
        _explain(found.rows)
    if chosen.policy.mode is Mode.SHADOW:
        typer.echo(f"The policy {chosen.policy.name} is in shadow: nothing is changed or refused.", err=True)
    if as_json:
        typer.echo(json.dumps(_facts(chosen, found, refused)))
    elif not refused:
        typer.echo(found.text, nl=False)
    if refused:
        counts = ", ".join(f"{count} × {entity}" for entity, count in sorted(found.blocked.items()))
        _refuse(f"The call would be refused, because of {counts}.")


def _refuse(message: str) -> None:
    typer.secho(message, err=True, fg=typer.colors.RED)
    raise typer.Exit(_REFUSED)


# ---- which policy -----------------------------------------------------------------------------------


def _profile(config: Path | None, policy: str | None, team: str | None) -> Profile:
    if policy is not None and team is not None:
        raise typer.BadParameter("a team has its own policy: give one of --policy and --team", param_hint="--team")
    is_configured = config_path(config) is not None or any(name.startswith(PREFIX) for name in os.environ)
    if not is_configured and policy is None and team is None:
        return _built(DEFAULT_POLICY, Redaction())
    gateway = configuration(config, opens_stores=False)
    name = policy or (DEFAULT_POLICY if team is None else _policy_of(gateway, team))
    known = gateway.policies.redaction
    if name not in known and policy is None and team is None:
        fail(_without_default(known))
    if name not in known:
        fail(f"There is no policy {name!r} under `policies.redaction`{did_you_mean(name, known)}.")
    return _built(name, known[name])


def _without_default(known: Iterable[str]) -> str:
    others = ", ".join(sorted(known))
    return (
        f"This configuration has no policy `{DEFAULT_POLICY}` under `policies.redaction`: of a caller whose team names "
        "none, the gateway looks at nothing. "
        + (f"Name one with --policy ({others}), or try" if others else "Try")
        + " the usual entities without it: SLUICE_CONFIG= sluice redact, in a folder without gateway.yaml."
    )


def _policy_of(gateway: Gateway, team: str) -> str:
    try:
        teams = load_teams(gateway.teams, offer(gateway))
    except ConfigError as error:
        fail(str(error))
    if team not in teams:
        fail(f"There is no team file {gateway.teams / team}.yaml{did_you_mean(team, teams)}.")
    return teams[team].redaction


def _built(name: str, given: Redaction) -> Profile:
    try:
        return profile(name, given, Detectors(), os.environ)
    except Unusable as error:
        fail(f"{dotted(('policies', 'redaction', name, *error.steps))}: {error}")


# ---- looking ----------------------------------------------------------------------------------------


def _input() -> bytes:
    if sys.stdin.isatty():
        typer.echo("Reading from the terminal; Ctrl-D ends the text.", err=True)
    return typer.get_binary_stream("stdin").read()


def _looked_through(chosen: Profile, given: bytes, tenant: str, is_body: bool) -> Outcome:
    policy = chosen.policy
    texts = _texts(given) if is_body else [_whole(given)]
    if policy.mode is Mode.OFF:
        typer.echo(f"The policy {policy.name} is off: nothing is looked for.", err=True)
        return Outcome(given.decode(), (), {})
    if sum(len(one.text.encode()) for one in texts) > policy.max_text:
        message = f"There is more text than `max_text` ({policy.max_text} bytes), so that nothing was looked for"
        if policy.on_error is OnError.DENY:
            _refuse(f"{message}: the call would be refused.")
        typer.secho(f"{message}: the call would pass as it is.", err=True, fg=typer.colors.YELLOW)
        return Outcome(given.decode(), (), {})
    redactor = Redactor(policy, policy.input, Placeholders(policy.grammar), tenant)
    rows: list[Row] = []
    changed: list[tuple[Position, Sequence[Change]]] = []
    for position, findings in zip(texts, _findings(chosen, [one.text for one in texts]), strict=True):
        changes = positions.fitting(position, redactor.changes(position.text, findings, position.lead))
        rows += _rows(position, findings, changes, policy.input)
        changed.append((position, changes))
    return Outcome(_changed(given, changed, is_body), rows, Counter(redactor.blocked))


def _whole(given: bytes) -> Position:
    try:
        return Position(Kind.VALUE, 0, len(given), given.decode())
    except UnicodeDecodeError:
        fail("Standard input is not UTF-8 text.")


def _texts(body: bytes) -> list[Position]:
    try:
        orjson.loads(body)
        return positions.read(body)
    except positions.TooMany:
        fail("The body has more texts than are looked through in one call.")
    except ValueError:
        fail("Standard input is no JSON. Leave --body out for plain text.")


def _changed(given: bytes, changed: Sequence[tuple[Position, Sequence[Change]]], is_body: bool) -> str:
    if is_body:
        return json_spans.splice(given, positions.edits(given, [one for one in changed if one[1]])).decode()
    ((position, changes),) = changed
    return apply(position.text, changes)


def _findings(chosen: Profile, texts: Sequence[str]) -> Sequence[Sequence[Finding]]:
    found = [chosen.input.findings(text) if chosen.input else [] for text in texts]
    tier = chosen.policy.names
    if tier is None:
        return found
    if tier.service is not None:
        typer.secho(
            f"Names are not looked for: the service {tier.service} is asked by the gateway only.",
            err=True,
            fg=typer.colors.YELLOW,
        )
        return found
    try:
        named = asyncio.run(_named(tier, texts))
    except ner.NamesFailed as error:
        fail(f"Names cannot be looked for: {error}.")
    strict = strictness(chosen.policy.input)
    return [names.merged(text, values, other, strict) for text, values, other in zip(texts, found, named, strict=True)]


async def _named(tier: NameTier, texts: Sequence[str]) -> Sequence[Sequence[Finding]]:
    companion.log.addHandler(logging.NullHandler())  # what is wrong with a model is told once, by us
    model = ner.LocalModel(tier.model or "")
    try:
        await model.load()
        return await model.findings(tier, texts)
    finally:
        await model.close()


# ---- telling ----------------------------------------------------------------------------------------


def _rows(
    position: Position, findings: Sequence[Finding], changes: Sequence[Change], actions: Mapping[str, Action]
) -> list[Row]:
    replacements = {change.end: change.text for change in changes}
    return [
        Row(
            place=positions.place(position.path),
            start=max(0, finding.start - position.lead),
            end=finding.end - position.lead,
            entity=finding.entity,
            score=round(finding.score, 2),
            action=actions.get(finding.entity, Action.MASK),
            replacement=replacements.get(finding.end),
        )
        for finding in findings
        if finding.end > position.lead
    ]


def _explain(rows: Sequence[Row]) -> None:
    if not rows:
        typer.echo("Nothing was found.", err=True)
        return
    cells = (
        (
            f"{row.place} {row.start}-{row.end}".strip(),
            row.entity,
            f"{row.score:.2f}",
            row.action.value,
            row.replacement or "",
        )
        for row in rows
    )
    headings = {"PLACE": True, "ENTITY": False, "SCORE": False, "ACTION": False, "REPLACED BY": False}
    print_table(headings, cells, to_stderr=True)


def _facts(chosen: Profile, found: Outcome, refused: bool) -> dict[str, Any]:
    return {
        "policy": chosen.policy.name,
        "mode": chosen.policy.mode,
        "refused": refused,
        "text": None if refused else found.text,
        "findings": [asdict(row) for row in found.rows],
    }
