"""The command line `sluice`: one module per verb.

Data goes to standard output, messages to standard error. Exit codes: 0 done, 1 refused or failed with a
sentence that says what to do, 2 wrong usage.
"""

import typer

from extproc.cli import check, keys, render, serve, up

app = typer.Typer(
    name="sluice",
    help="A self-hosted AI gateway: Envoy moves the bytes, Python decides.",
    epilog="Start here: sluice up --config examples/quickstart/gateway.yaml",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.command("serve")(serve.serve)
app.command("render")(render.render)
app.command("check")(check.check)
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Entry point of the console script."""
    app()
