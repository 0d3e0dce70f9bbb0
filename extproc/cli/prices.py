"""`sluice prices`: what models cost as configured, and whether that is still what their providers ask for."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Annotated

import typer

from extproc.cli import price_lists
from extproc.cli.keys import JsonOption
from extproc.cli.price_lists import TOKENS, UNITS, Listing
from extproc.cli.price_package import CURRENCY, Comparison, Difference, NotInstalled, Package, Unknown
from extproc.cli.settings import ConfigOption, configuration, fail
from extproc.cli.tables import print_table
from extproc.config.schema import Gateway
from extproc.limits import standing

app = typer.Typer(help="Show prices, and compare them with public ones.", rich_markup_mode="rich")

_NOTHING = "-"

AtOption = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="Of then: a day of UTC, or a time with its zone; absent: now."),
]


@app.callback(invoke_without_command=True)
def prices(
    context: typer.Context, config: ConfigOption = None, at: AtOption = None, as_json: JsonOption = False
) -> None:
    """Show what each model costs at each backend, or compare it with public prices.

    [bold]Examples[/bold]

      sluice prices

      sluice prices --at 2027-01-01

      sluice prices check
    """
    verb = context.invoked_subcommand
    if verb is None:
        show(config, at, as_json)
    elif _is_given(context, "config", "at", "as_json"):
        raise typer.BadParameter(f"options come behind {verb}", param_hint="sluice prices")


@app.command("list")
def show(config: ConfigOption = None, at: AtOption = None, as_json: JsonOption = False) -> None:
    """Show what each model costs at each backend: per million tokens, or each."""
    gateway, moment = configuration(config, opens_stores=False), _moment(at)
    found = list(price_lists.listings(gateway, _milliseconds(moment)))
    if as_json:
        facts = [_facts(one, gateway.policies.currency) for one in found]
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    _print(found)
    typer.echo(f"{gateway.policies.currency} per million tokens, or each; at {_told(moment)}", err=True)
    for one in found:
        for version in one.later:
            begins = price_lists.moment(version.since)
            typer.echo(f"{one.model} at {one.target.backend.name}: {version.version} from {begins}", err=True)


@app.command()
def check(config: ConfigOption = None, at: AtOption = None, as_json: JsonOption = False) -> None:
    """Compare with the prices of the package genai-prices, as installed: nothing is fetched. Exit code 1: some differ.

    Of models that it does not know nothing is said but that. Needs the extra `prices`.

    [bold]Examples[/bold]

      sluice prices check

      sluice prices check --at 2027-01-01 --json
    """
    gateway, moment = configuration(config, opens_stores=False), _moment(at)
    if gateway.policies.currency != CURRENCY:
        fail(f"genai-prices has prices in {CURRENCY}, and policies.currency is {gateway.policies.currency}.")
    try:
        package = Package(moment)
    except NotInstalled as missing:
        fail(f'{missing} is not installed: pip install "sluice-gateway[prices]".')
    found = [(one, _compared(gateway, package, one)) for one in price_lists.listings(gateway, _milliseconds(moment))]
    if as_json:
        typer.echo(json.dumps(_report(found, package, moment), ensure_ascii=False))
    else:
        _print_check(found, package, moment)
    if any(result.differences for _, result in _known(found)):
        raise typer.Exit(1)


Compared = Sequence[tuple[Listing, Comparison | Unknown]]


def _known(found: Compared) -> list[tuple[Listing, Comparison]]:
    return [(one, result) for one, result in found if isinstance(result, Comparison)]


def _compared(gateway: Gateway, package: Package, one: Listing) -> Comparison | Unknown:
    backend = gateway.all_backends()[one.target.backend.name]
    return package.compared(backend, (one.target.model, one.model), one.price)


def _is_given(context: typer.Context, *names: str) -> bool:
    """Whether one of these options stands in the command line."""
    sources = [context.get_parameter_source(name) for name in names]
    return any(source is not None and source.name == "COMMANDLINE" for source in sources)


# ---- when ----------------------------------------------------------------------------------------


def _moment(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        day = date.fromisoformat(text) if len(text) == len("2026-03-31") else None
        moment = datetime.fromisoformat(text) if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or not 2000 <= moment.year < 2100:
        why = "write a day like 2026-03-31, or a time with its zone like 2026-03-31T18:00:00+02:00"
        raise typer.BadParameter(why, param_hint="--at")
    return moment


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _told(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


# ---- for people and for scripts ------------------------------------------------------------------


def _print(found: Sequence[Listing]) -> None:
    rows: list[tuple[tuple[str, ...], dict[str, str]]] = []
    for one in found:
        name = (one.model, one.target.backend.name, one.target.model)
        if one.price is None:
            rows.append(((*name, _NOTHING, "no price"), {}))
            continue
        parts = [(part.title, price_lists.told(part)) for part in price_lists.parts(one.price)]
        first = (*name, one.price.version)
        rows += [((*("" if title else cell for cell in first), title), amounts) for title, amounts in parts]
        if not any(amounts for _, amounts in parts):
            rows[-1] = ((*first, "free"), {})
    shown = [name for name in (*TOKENS, *UNITS) if any(name in amounts for _, amounts in rows)]
    headings = dict.fromkeys(("model", "backend", "deployed", "version", "calls"), True) | dict.fromkeys(shown, False)
    print_table(
        headings, [(*named, *[amounts.get(name, "") for name in shown]) for named, amounts in rows], right=shown
    )


def _facts(one: Listing, currency: str) -> dict[str, object]:
    """Amounts are decimal text, of `currency` for a million tokens or each."""
    price = one.price
    return {
        "model": one.model,
        "backend": one.target.backend.name,
        "deployed": one.target.model,
        "currency": currency,
        "version": None if price is None else price.version,
        "from": None if price is None or not price.since else price_lists.moment(price.since),
        "prices": []
        if price is None
        else [
            {"service_tier": part.tier or None, "above": part.above, **price_lists.told(part)}
            for part in price_lists.parts(price)
        ],
        "later": [{"version": later.version, "from": price_lists.moment(later.since)} for later in one.later],
    }


def _print_check(found: Compared, package: Package, moment: datetime) -> None:
    rows = []
    for one, result in _known(found):
        for difference in result.differences:
            name = f"{price_lists.title(difference.tier, difference.above)} {difference.name}".lstrip()
            rows.append((one.model, one.target.backend.name, name, _cell(difference.ours), _cell(difference.listed)))
    if rows:
        headings = {"model": True, "backend": True, "price": True, "configured": False, "listed": False}
        print_table(headings, rows, right=("configured", "listed"))
    for one, compared in found:
        if remark := _remark(one, compared):
            typer.echo(f"{one.model} at {one.target.backend.name}: {remark}", err=True)
    same = sum(result.same for _, result in _known(found))
    summary = f"{len(rows)} differ, {same} are the same"
    typer.echo(f"{summary}; genai-prices {package.version}, prices at {_told(moment)}, in {CURRENCY}", err=True)


def _remark(one: Listing, result: Comparison | Unknown) -> str:
    """What there is to say beside the differences; empty: nothing."""
    if result is Unknown.PROVIDER:
        hint = f"`backends.{one.target.backend.name}.provider` can name it"
        return f"whose backend this is the package cannot tell; {hint}"
    if isinstance(result, Unknown):
        return f"the package has no {one.target.model}"
    return f"no prices of service tiers are configured for {', '.join(result.tiers)}" if result.tiers else ""


def _cell(amount: int | None) -> str:
    return _NOTHING if amount is None else standing.amount(amount)


def _report(found: Compared, package: Package, moment: datetime) -> dict[str, object]:
    """Amounts are decimal text, of USD for a million tokens or each; null: no such price."""
    return {
        "package": f"genai-prices {package.version}",
        "at": moment.astimezone(UTC).isoformat(),
        "models": [_compared_facts(one, result) for one, result in found],
    }


def _compared_facts(one: Listing, result: Comparison | Unknown) -> dict[str, object]:
    named = {"model": one.model, "backend": one.target.backend.name, "deployed": one.target.model}
    if isinstance(result, Unknown):
        return {**named, "listed_as": None, "unknown": result.value}
    return {
        **named,
        "listed_as": result.listed_as,
        "version": None if one.price is None else one.price.version,
        "same": result.same,
        "differences": [_difference(difference) for difference in result.differences],
        "unconfigured_tiers": list(result.tiers),
    }


def _difference(one: Difference) -> dict[str, object]:
    return {
        "service_tier": one.tier or None,
        "above": one.above,
        "price": one.name,
        "configured": None if one.ours is None else standing.amount(one.ours),
        "listed": None if one.listed is None else standing.amount(one.listed),
    }
