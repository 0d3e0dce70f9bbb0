"""A plan as a person reads it: the gravest first, colours only on a terminal, never more than a screen or two."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from extproc.gitops.access import Access
from extproc.gitops.drift import Drift, DriftKind
from extproc.gitops.plan import Action, KeyAction, KeyStep, Plan, Step
from extproc.gitops.view import FieldChange, Shown, key_fields

_WIDTH = 120  # of a pipe or a file
_MOST = 30  # entries of a section
_MOST_NAMES = 8  # of an entry's list
_SIGNS = {
    Action.ADD: "+",
    Action.CHANGE: "~",
    Action.REMOVE: "-",
    KeyAction.MINT: "+",
    KeyAction.RENEW: "±",
    KeyAction.CHANGE: "~",
    KeyAction.REVOKE: "-",
}
_COLOURS = {"+": "green", "~": "yellow", "±": "yellow", "-": "red", "!": "magenta"}
_GRAVEST_FIRST = "-±~+"
_USUAL = (  # goes without saying
    ("priority", "high"),
    ("redaction", "default"),
    ("guardrails", "default"),
    ("providers", ["all"]),
    ("regions", ["all"]),
)

REMOVES_EVERYTHING = "The folder has no team file: `sluice apply` removes every team only with --remove-all."

Row = tuple[str, str, str]
"""A sign, a name, and what is to be said, in one line or several."""


def print_plan(plan: Plan) -> None:
    """All of a plan to standard output, its summary last."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    with console.capture() as printed:
        _print(console, plan)
    for line in printed.get().splitlines():
        typer.echo(line.rstrip())  # tables pad their cells


def _print(console: Console, plan: Plan) -> None:
    _section(console, "Areas", [_step_row(step) for step in plan.areas])
    _section(console, "Teams", [_step_row(step) for step in plan.teams])
    _section(console, "Who gains (+) and who loses (-) a model", _access_rows(plan.access))
    _section(console, "Keys", [_key_row(step, plan.currency) for step in plan.keys])
    _section(console, "Drift: decided in the database, which wins; left as it is", [_drift_row(d) for d in plan.drift])
    console.print(Text(summary(plan), style="bold"), soft_wrap=True)
    if plan.removes_everything():
        console.print(Text(REMOVES_EVERYTHING, style="red"), soft_wrap=True)


def summary(plan: Plan) -> str:
    """One line that counts everything."""
    if plan.is_empty():
        return f"No changes. {_totals(plan)}."
    parts = [
        _counted("area", Counter(step.action.value for step in plan.areas)),
        _counted("team", Counter(step.action.value for step in plan.teams)),
        _counted("key", Counter(step.action.value for step in plan.keys)),
    ]
    return f"Plan: {'; '.join(filter(None, parts))}."


def warn_of_spent(plan: Plan) -> None:
    """Names to standard error whose keys a file asks for and will not get, whoever revoked them."""
    spent = [one.subject for one in plan.drift if one.kind is DriftKind.REVOKED]
    if spent:
        typer.secho(
            f"Not minted, as a key of the name was revoked: {some(spent)}. "
            "Give them other names in their files, or take them out.",
            err=True,
            fg="yellow",
        )


def number(count: int, what: str) -> str:
    """`1 key`, `10,000 keys`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _totals(plan: Plan) -> str:
    members = (member for team in plan.declared.teams.values() for member in team.members)
    users = {member.name for member in members if member.kind.value == "user"}
    counts = ((len(plan.declared.teams), "team"), (len(users), "user"), (len(plan.declared.keys), "key"))
    return ", ".join(number(count, what) for count, what in counts)


def _counted(what: str, actions: Mapping[str, int]) -> str:
    """`2 keys to mint, 1 to revoke`."""
    order = [action.value for action in (*Action, *KeyAction)]
    counts = sorted(actions.items(), key=lambda entry: order.index(entry[0]))
    first = [f"{number(count, what)} to {action}" for action, count in counts[:1]]
    return ", ".join(first + [f"{count:,} to {action}" for action, count in counts[1:]])


# ---- sections ----


def _section(console: Console, title: str, rows: Sequence[Row]) -> None:
    if not rows:
        return
    console.print(Text(title, style="bold"))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=2, justify="right")
    table.add_column(overflow="fold", max_width=40)
    table.add_column(overflow="fold")
    shown = sorted(rows, key=lambda row: _GRAVEST_FIRST.find(row[0]))[:_MOST]
    for sign, name, text in shown:
        table.add_row(Text(sign, style=_COLOURS.get(sign, "")), _plain(name), _plain(text))
    console.print(table)
    if len(rows) > _MOST:
        console.print(f"   … and {len(rows) - _MOST:,} more: `sluice plan --json` lists them all")
    console.print()


def _plain(text: str) -> Text:
    """What a file or the database holds can look like markup, or steer a terminal."""
    return Text("".join(c if c.isprintable() or c == "\n" else "�" for c in text))


def _step_row(step: Step) -> Row:
    if step.action is Action.CHANGE:
        return _SIGNS[step.action], step.name, "\n".join(map(_change, step.fields))
    values = ((change.field, change.after or change.before) for change in step.fields)
    told = (_value(field, value) for field, value in values if value and (field, value) not in _USUAL)
    return _SIGNS[step.action], step.name, "; ".join(told)


def _key_row(step: KeyStep, currency: str) -> Row:
    name = "/".join(step.name)
    if step.action is KeyAction.CHANGE:
        return _SIGNS[step.action], name, "\n".join(map(_change, step.fields))
    known = "" if step.action is KeyAction.REVOKE else "; ".join(_key_values(step, currency))
    return _SIGNS[step.action], name, "; ".join(filter(None, (step.reason, known)))


def _key_values(step: KeyStep, currency: str) -> Iterator[str]:
    for field, value in key_fields(step.spec, currency).items():
        if value and value != ["all"] and (field, value) not in _USUAL:
            yield _value(field, value)


def _drift_row(drift: Drift) -> Row:
    return "!", drift.subject, drift.text


def _access_rows(access: Sequence[Access]) -> list[Row]:
    """By team and model; where that are too many, by model."""
    if len(access) <= _MOST:
        return [("", f"{one.team}: {one.model}", _gains_and_losses(one.gains, one.loses)) for one in access]
    rows = []
    for model in sorted({one.model for one in access}):
        concerned = [one for one in access if one.model == model]
        gains, loses = (_sum(getattr(one, side) for one in concerned) for side in ("gains", "loses"))
        rows.append(("", model, f"{_gains_and_losses(gains, loses)}, in {number(len(concerned), 'team')}"))
    return rows


def _gains_and_losses(gains: Mapping[str, int], loses: Mapping[str, int]) -> str:
    sides = (("+", gains), ("-", loses))
    return "  ".join(f"{sign} {_kinds(counts)}" for sign, counts in sides if counts)


def _kinds(counts: Mapping[str, int]) -> str:
    return ", ".join(number(count, kind.removesuffix("s")) for kind, count in sorted(counts.items(), reverse=True))


def _sum(counts: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


# ---- fields ----


def _value(field: str, value: Shown) -> str:
    return f"{_title(field)} {_words(value)}"


def _words(value: Shown) -> str:
    if isinstance(value, dict):
        return some([f"{name} ({more})" if more else name for name, more in value.items()])
    return some(value) if isinstance(value, list) else value


def some(names: Sequence[str]) -> str:
    """The first few of a list, and how many more there are."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def _change(change: FieldChange) -> str:
    """`tier: standard → premium`, `models: + a, - b`."""
    before, after = change.before, change.after
    if isinstance(before, dict) and isinstance(after, dict):
        moves = [
            *(_entry("-", name, before[name]) for name in before.keys() - after.keys()),
            *(f"~ {name} ({before[name]} → {after[name]})" for name in before if _moved(name, before, after)),
            *(_entry("+", name, after[name]) for name in after.keys() - before.keys()),
        ]
        return f"{_title(change.field)}: {some(sorted(moves, key=_by_sign))}"
    if isinstance(before, list) and isinstance(after, list):
        moves = [
            *(f"- {one}" for one in before if one not in after),
            *(f"+ {one}" for one in after if one not in before),
        ]
        return f"{_title(change.field)}: {some(moves)}"
    return f"{_title(change.field)}: {before or 'none'} → {after or 'none'}"


def _entry(sign: str, name: str, more: str) -> str:
    return f"{sign} {name} ({more})" if more else f"{sign} {name}"


def _moved(name: str, before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    return name in after and before[name] != after[name]


def _by_sign(move: str) -> tuple[int, str]:
    return _GRAVEST_FIRST.find(move[0]), move


def _title(field: str) -> str:
    return field.replace("_", " ")
