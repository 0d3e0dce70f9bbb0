"""`sluice apply`: carry out what the team files declare."""

import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from extproc.cli.keys import directory
from extproc.cli.plan import TeamsOption, wished
from extproc.cli.plan_text import number, print_plan, some, warn_of_spent
from extproc.cli.settings import ConfigOption, configuration, fail
from extproc.gitops import apply as gitops
from extproc.gitops.delivery import Delivery, DeliveryError, open_delivery
from extproc.gitops.plan import Plan
from extproc.stores.ports import Conflict


def apply(
    config: ConfigOption = None,
    teams: TeamsOption = None,
    deliver_to: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="Where new keys go: file:FOLDER, kubernetes:FOLDER?namespace=NAME "
            "or key-vault:https://NAME.vault.azure.net.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    remove_all: Annotated[
        bool, typer.Option("--remove-all", help="Remove every team where the folder has no team file.")
    ] = False,
) -> None:
    """Bring teams, members and keys to what the team files declare, and deliver the keys that they are due.

    Keys are never printed. Doing it again changes nothing.

    [bold]Examples[/bold]

      sluice apply --deliver-to file:keys

      sluice apply --yes --deliver-to key-vault:https://my-vault.vault.azure.net
    """
    started = time.monotonic()
    gateway = configuration(config)
    wish = wished(gateway, teams)
    delivery = _delivery(deliver_to)
    with directory(gateway) as store, closing(_Bar()) as bar, _explained():
        approve = _approval(yes, remove_all, bar)
        done = gitops.apply(store, wish, delivery, approve, bar.show, lambda: datetime.now(UTC))
    if done.is_empty():
        print_plan(done)
    else:
        typer.echo(_account(done, deliver_to, time.monotonic() - started))
    warn_of_spent(done)


def _delivery(target: str | None) -> Delivery | None:
    try:
        return None if target is None else open_delivery(target)
    except DeliveryError as error:
        raise typer.BadParameter(str(error), param_hint="--deliver-to") from None


class _Bar:
    """Progress on standard error, from the first word of it until `close`; on a terminal only."""

    def __init__(self) -> None:
        terminal = Console(stderr=True)
        self._bar = Progress(
            *(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}")),
            console=terminal,
            disable=not terminal.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, count="")

    def show(self, what: str, done: int, total: int) -> None:
        count = f"{done:,}" if total else ""
        self._bar.update(self._task, description=what, completed=done, total=total or None, count=count)
        self._bar.start()

    def close(self) -> None:
        self._bar.stop()


@contextmanager
def _explained() -> Iterator[None]:
    """What goes wrong ends the command with a sentence that says what to do."""
    try:
        yield
    except gitops.NoDelivery as error:
        keys = f"{number(error.count, 'key')} would be minted"
        fail(f"{keys}: say where they go, such as --deliver-to file:FOLDER. Nothing was changed.")
    except Conflict:
        fail("Another `sluice apply` is at work on this database. Let it end, and run this again.")
    except gitops.Busy:
        fail(
            "The directory changed at every attempt. No new key came in force, though some may have been delivered: "
            "those will never work. Run it again."
        )
    except gitops.Overwritten as error:
        names = some(["/".join(name) for name in error.names])
        fail(
            f"Another `sluice apply` was at work. Keys that work, while their places hold others that never will: "
            f"{names}. Make successors by `sluice keys rotate`, and put them there."
        )
    except DeliveryError as error:
        fail(f"{error}\nNo new key came in force. Run it again when this is mended.")


def _approval(yes: bool, remove_all: bool, bar: _Bar) -> gitops.Approve:
    """Prints a plan and asks; a refusal ends the command."""

    def ask(plan: Plan) -> None:
        bar.close()
        print_plan(plan)
        if plan.removes_everything() and not remove_all:
            fail("Is it the right folder? Nothing was changed.")
        if yes:
            return
        if not sys.stdin.isatty():
            fail("Nobody is there to ask: give --yes to apply this. Nothing was changed.")
        if not typer.confirm("Apply this?"):
            fail("Nothing was changed.")

    return ask


def _account(done: Plan, deliver_to: str | None, seconds: float) -> str:
    minted = len(done.to_mint())
    keys = f" {number(minted, 'new key')} delivered to {deliver_to}." if minted else ""
    return f"Applied in {seconds:.1f} s.{keys}"
