"""The command line `sluice`: one module per verb.

Data goes to standard output, messages to standard error. Exit codes: 0 done, 1 refused or failed with a
sentence that says what to do, 2 wrong usage, 3 `plan --exit-code` found something to do, `redact` something for
which a call would be refused, or a gateway that ends leaves something behind that the ledger lacks.
"""

from importlib.metadata import version
from typing import Annotated

import typer

from extproc.imports import uncollected

with uncollected():
    from extproc.cli import (
        alerts,
        apply,
        budgets,
        cache,
        check,
        db,
        drain,
        emergency,
        explain,
        keys,
        ledger,
        limits,
        plan,
        prices,
        redact,
        render,
        serve,
        smoke,
        teams,
        up,
        usage,
    )

app = typer.Typer(
    name="sluice",
    epilog="Start here: sluice up --config examples/quickstart/gateway.yaml",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.command("serve")(serve.serve)
app.command("drain")(drain.drain)
app.command("smoke")(smoke.smoke)
app.command("render")(render.render)
app.command("check")(check.check)
app.command("plan")(plan.plan)
app.command("apply")(apply.apply)
app.command("limits")(limits.limits)
app.command("usage")(usage.usage)
app.command("explain")(explain.explain)
app.command("redact")(redact.redact)
app.add_typer(teams.app, name="teams")
app.add_typer(keys.app, name="keys")
app.add_typer(db.app, name="db")
app.add_typer(ledger.app, name="ledger")
app.add_typer(budgets.app, name="budgets")
app.add_typer(alerts.app, name="alerts")
app.add_typer(prices.app, name="prices")
app.add_typer(emergency.app, name="emergency")
app.add_typer(cache.app, name="cache")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sluice {version('sluice-gateway')}")
        raise typer.Exit


@app.callback()
def common(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """A self-hosted AI gateway: Envoy moves the bytes, Python decides."""


def main() -> None:
    """Entry point of the console script."""
    app()
