"""`sluice alerts`: what was told to webhooks, and whether they can be reached."""

import json
import secrets
from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated

import typer

from extproc.cli.keys import JsonOption
from extproc.cli.settings import ConfigOption, configuration, fail
from extproc.cli.tables import print_table
from extproc.ledger import messages
from extproc.ledger.compose import hooks_of
from extproc.stores import sql
from extproc.stores.alerts import AlertRow
from extproc.stores.ports import StoreUnavailable

app = typer.Typer(help="See what was told to webhooks, and try them.", no_args_is_help=True, rich_markup_mode="rich")


@app.command("list")
def list_(
    config: ConfigOption = None,
    most: Annotated[int, typer.Option("--most", help="How many, the newest first.", min=1, max=10_000)] = 50,
    as_json: JsonOption = False,
) -> None:
    """List alerts, for which webhook they are, and what became of them.

    [bold]Examples[/bold]

      sluice alerts list

      sluice alerts list --most 500 --json
    """
    gateway = configuration(config)
    try:
        sql.check_current(gateway.stores.database)
        with closing(sql.open_stores(gateway.stores.database)) as stores:
            found = stores.alerts.recent(most)
    except StoreUnavailable as error:
        fail(f"{error}.")
    if as_json:
        typer.echo(json.dumps([_facts(row) for row in found], ensure_ascii=False))
    elif not found:
        typer.echo("There are no alerts.")
    else:
        headings = {"when (UTC)": False, "webhook": False, "state": False, "tries": False, "alert": True}
        print_table(headings, map(_shown, found), right=("tries",))


@app.command("test")
def try_(
    config: ConfigOption = None,
    webhook: Annotated[str | None, typer.Option("--webhook", help="This one alone; absent: all.")] = None,
) -> None:
    """Send a message to the webhooks now, and say how they answer. Exit code 1 where one does not take it.

    [bold]Examples[/bold]

      sluice alerts test

      sluice alerts test --webhook finance
    """
    hooks = hooks_of(configuration(config))
    if not hooks:
        fail("telemetry.alerts.webhooks: there are none.")
    if webhook is not None and webhook not in hooks:
        fail(f"--webhook: there is no {webhook!r} under telemetry.alerts.webhooks, only {', '.join(hooks)}.")
    missed = []
    for name in [webhook] if webhook is not None else hooks:
        answer = hooks[name].post(_test(name))
        typer.echo(f"{name}: {'taken' if answer.is_taken else 'NOT taken'} ({answer.outcome})")
        if not answer.is_taken:
            missed.append(name)
    if missed:
        fail(f"Not reached: {', '.join(missed)}.")


def _test(name: str) -> AlertRow:
    now = datetime.now(UTC).replace(tzinfo=None)
    return AlertRow(
        id=secrets.token_hex(16), webhook=name, kind=messages.TEST, subject=name, created_at=now, due_at=now
    )


def _state(row: AlertRow) -> str:
    if row.sent_at is not None:
        return "sent"
    state = "given up" if row.due_at is None else "waits"
    return f"{state} ({row.outcome})" if row.outcome else state


def _shown(row: AlertRow) -> tuple[str, ...]:
    return f"{row.created_at:%Y-%m-%d %H:%M:%S}", row.webhook, _state(row), str(row.tries), messages.text(row)


def _facts(row: AlertRow) -> dict[str, object]:
    when = {"created_at": row.created_at, "sent_at": row.sent_at, "due_at": row.due_at}
    return {
        "id": row.id,
        "webhook": row.webhook,
        "kind": row.kind,
        "subject": row.subject,
        "text": messages.text(row),
        "facts": json.loads(row.facts),
        "tries": row.tries,
        "outcome": row.outcome,
        **{name: None if moment is None else f"{moment.isoformat()}Z" for name, moment in when.items()},
    }
