"""The pages that people read say what the code does: compared where both can be listed."""

import itertools
import re
import subprocess
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from ruamel.yaml import YAML

from extproc import refusals, surfaces
from extproc.cache.control import Control
from extproc.cache.lookup import Lookup
from extproc.cache.policy import CachePolicy
from extproc.call import Call, Inspection, Phase, Rules
from extproc.config.loader import load
from extproc.config.prices import Price
from extproc.config.teams import TeamFile
from extproc.guardrails.policy import Action
from extproc.guardrails.verdict import Verdict
from extproc.limits import standing
from extproc.limits.hold import Hold, Stake
from extproc.limits.limit import Limit, Measure, Period, Priority
from extproc.metering import prices
from extproc.model import (
    Backend,
    Caller,
    Catalogue,
    Cause,
    Chain,
    Demand,
    Dialect,
    Ending,
    Outcome,
    PublicModel,
    Target,
    Team,
    Usage,
)
from extproc.model import UsageSource as Source
from extproc.redaction.policy import Mode
from extproc.stages import budget, charge, fallback
from extproc.stores import ledger
from extproc.stores.counters import Counter, Draw, Reading
from extproc.surfaces import Face, Surface
from extproc.telemetry import genai, metrics, records
from extproc.traceparent import Context
from tests.support.policies import redaction

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted(
    page
    for page in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("charts/**/*.md"),
        *ROOT.glob("deploy/**/*.md"),
        *ROOT.glob("envoy/*.md"),
        *ROOT.glob("examples/**/*.md"),
    )
)


def rows(page: str, heading: str = "") -> list[list[str]]:
    """The cells of all table rows that follow a heading, without the table heads."""
    text = (ROOT / page).read_text()
    text = re.split(r"\n##+ ", text[text.index(heading) :])[0] if heading else text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    heads = ("package", "code", "metric", "field", "header", "when", "cause")
    return [row for row in cells if not set(row[0]) <= set("-:") and row[0] not in heads]


def test_every_direct_dependency_has_its_reason_and_no_other() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    wanted = {re.split(r"[\[<>=!~ ]", name)[0] for name in named}
    documented = {row[0]: row[1] for row in rows("docs/dependencies.md")}
    assert set(documented) == wanted
    assert all(documented.values())


def test_every_code_that_a_client_can_get_is_explained_and_no_other() -> None:
    kinds = [value for value in vars(refusals).values() if isinstance(value, refusals.Kind)]
    by_envoy = set(
        re.findall(r"^ *code: ([a-z_]+)$", (ROOT / "envoy/quickstart/listeners.yaml").read_text(), re.MULTILINE)
    )
    documented = {row[0].strip("`"): row[1] for row in rows("docs/errors.md")}
    assert set(documented) == {kind.code for kind in kinds} | by_envoy
    for kind in kinds:
        assert str(kind.status) in documented[kind.code], kind.code
        if kind is not refusals.GATEWAY_ERROR:
            assert ("retry" in documented[kind.code]) == kind.retry, kind.code


def test_every_metric_is_documented_with_its_labels_and_no_other() -> None:
    families = [
        family for family in vars(metrics).values() if isinstance(family, prometheus_client.metrics.MetricWrapperBase)
    ]
    wanted = {
        family._name + ("_total" if isinstance(family, prometheus_client.Counter) else ""): list(family._labelnames)
        for family in families
    }
    assert _labels_of_metrics("## Metrics") == wanted


def test_every_metric_of_the_conventions_is_documented_with_its_labels() -> None:
    wanted = {family._name: list(family._labelnames) for family in genai.meter(genai.NEWEST).families}
    assert _labels_of_metrics("### By OpenTelemetry's conventions") == wanted


def _labels_of_metrics(heading: str) -> dict[str, list[str]]:
    table = rows("docs/operations.md", heading)
    return {row[0].strip("`"): [label for label in row[1].split(", ") if label] for row in table}


def test_every_ending_of_a_call_is_explained() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    (explained,) = re.findall(r"\n`ending` is (.*?)\n\n", page, re.DOTALL)
    assert {ending.value for ending in Ending} == set(re.findall(r"`(\w+)`", explained))


def fullest_record() -> dict[str, Any]:
    """A record in which no fact is left out."""
    backend = Backend("b", Dialect.OPENAI)
    model = PublicModel("m", ((Target(backend, "m"),),))
    call = Call(
        started=1.0,
        catalogue=Catalogue({"m": model}, {"b": backend}, {}, 1, revision="r"),
        phase=Phase.RESPONDING,
        trace=Context("0" * 31 + "1", "0" * 15 + "1", sampled=True),
        place=surfaces.locate("/v1/chat/completions"),
        caller=Caller(
            "id",
            "name",
            issuer="entra",
            user="ann",
            service_account="ci",
            environment="test",
            team=Team("t", "a", "standard", tags={"cost": "1"}),
        ),
        named=PublicModel("other", ()),
        chain=Chain(model, model.groups[0]),
        fallback=Cause.CONTEXT_WINDOW,
        first_byte=2.0,
        stream=True,
        retries="1",
        priority=Priority.LOW,
        rules=Rules(redaction(), None, "t"),
        inspection=Inspection(
            verdicts=[Verdict("content", "r", Mode.ENFORCE, Action.BLOCK, 1, ("p",), 1.0)],
            failed=["redaction"],
            aside=1,
        ),
        lookup=Lookup(
            *(CachePolicy(), Control()),
            reason="r",
            in_shadow=True,
            saved=1,
            saved_tokens=1,
            age=1,
            similarity=1.0,
        ),
    )
    known: dict[str, Any] = {one.name: 1 for one in fields(Usage)}
    counts = Usage(**{**known, "seconds": 1.0, "source": Source.REPORTED, "tier": "priority"})
    outcome = Outcome(
        *(Ending.REFUSED, 400, counts),
        refusal="x",
        backend="b",
        limit="l",
        shadows=("s",),
        warnings=(("l", 50),),
        held=Demand(money=1),
        cost=1,
        overspent={"x": 1},
        overspent_money=1,
        output_cap=1,
        deployed="gpt-4o",
        price_version="2026-01",
        stop_reason="stop",
        tool_calls=1,
    )
    counter = Counter("requests/l", 10)
    stake = Stake(Limit("l", Measure.REQUESTS, 10, period=Period.DAY, warn_at=(50,)), Draw(counter, 1))
    call.session, call.turn, call.tags = "s", 1, {"repository": "sluice"}
    call.stood, call.stood_at = ((stake, Reading(8, 1_000)),), 1_769_860_800_000
    call.first_token, call.heard, call.answer_bytes = 2.5, 2.0, 1
    return records.access_record(replace(call, request_id="r", method="POST"), outcome, 1.0, 1.0, {counter.key: 1})


def test_every_field_of_a_record_is_documented_and_no_other() -> None:
    record = fullest_record()
    table = rows("docs/operations.md", "## Records")
    documented = {name for row in table for name in re.findall(r"`(\w+)`", row[0])}
    assert documented == set(record)
    usage = next(row[1] for row in table if row[0] == "`usage`")
    assert set(re.findall(r"`(\w+)`", usage)) == {*record["usage"], "reported", "estimated"}
    cache = next(row[1] for row in table if row[0] == "`cache`")
    assert set(re.findall(r"`(\w+)`", cache)) == set(record["cache"])


@pytest.mark.parametrize(("heading", "row"), [("### Calls", ledger.CallRow), ("### Attempts", ledger.AttemptRow)])
def test_every_column_of_the_ledger_is_documented_and_no_other(heading: str, row: Any) -> None:
    documented = [name for line in rows("docs/ledger.md", heading) for name in re.findall(r"`(\w+)`", line[0])]
    assert sorted(documented) == sorted(one.name for one in fields(row))


def served_paths() -> list[str]:
    table = README[README.index("## What it serves") :].split("\n## ")[0]
    return [
        path
        for path in re.findall(r"`(/[a-z0-9_/]+)`", table)
        if path not in ("/v1", "/openai/v1", "/cancel", "/input_items")
    ]


@pytest.mark.parametrize("path", served_paths())
def test_a_path_that_the_readme_names_is_served(path: str) -> None:
    assert surfaces.locate(path) is not None


def test_the_readme_names_every_surface() -> None:
    places = [surfaces.locate(path) for path in served_paths()]
    named = {place.surface for place in places if place is not None}
    assert named == set(Surface) - {Surface.READY, Surface.MODEL_ITEM, Surface.RESPONSE_ITEM}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("task", sorted(set(re.findall(r"(?:^|`|0 )make ([a-z][a-z-]*)", README, re.MULTILINE))))
def test_a_make_task_that_the_readme_names_exists(task: str) -> None:
    assert re.search(rf"^{task}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


ENVIRONMENTS = [block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "SLUICE__BACKENDS" in block]


@pytest.mark.parametrize("block", ENVIRONMENTS, ids=lambda block: re.findall(r"BACKENDS__(\w+)", block)[0].lower())
def test_a_configuration_by_environment_alone_is_accepted(block: str) -> None:
    exports, _, start = block.strip().rpartition("\n")
    assert start == ".venv/bin/sluice up"
    run = subprocess.run(["/bin/sh", "-c", f"{exports}\nenv -0"], env={}, capture_output=True, text=True, check=True)
    environ = dict(entry.split("=", 1) for entry in run.stdout.split("\0") if entry)
    gateway = load(None, environ)
    secrets = [backend.credential.env for backend in gateway.backends.values() if backend.credential]
    assert all(secret in environ for secret in secrets)


def test_there_is_one_such_configuration_for_each_provider_with_an_example() -> None:
    examples = {folder.parent.name for folder in ROOT.glob("examples/*/gateway.yaml")}
    about_more = {"cache", "catalogue", "entra", "gitops", "limits", "loadtest", "redaction"}
    assert len(ENVIRONMENTS) == len(examples - {"quickstart"} - about_more)


# ---- limits.md ----

LIMITS = (ROOT / "docs/limits.md").read_text()
EXAMPLES: list[str] = re.findall(r"```yaml\n(.*?)```", LIMITS, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.splitlines()[0])
def test_an_example_of_a_limit_is_accepted(example: str, tmp_path: Path) -> None:
    given = YAML(typ="safe").load(example)
    if example.startswith("# teams/"):
        assert TeamFile.model_validate(given).limits
        return
    backends = {name: {"dialect": "openai", "url": f"https://{name}.example"} for name in ("swe", "openai")}
    whole = {"models": {"m": {"targets": [[{"backend": "swe"}]]}}, "backends": backends, **given}
    file = tmp_path / "gateway.yaml"
    with file.open("w") as written:
        YAML(typ="safe").dump(whole, written)
    assert load(file, {})


def numbers(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"[0-9]+", text.replace(",", ""))]


def test_the_worked_example_of_a_price_adds_up() -> None:
    text = next(example for example in EXAMPLES if "price:" in example)
    price = Price.model_validate(YAML(typ="safe").load(text)["models"]["gpt-4o"]["price"]).compiled()
    held, used = (row for row in rows("docs/limits.md", "### What a call holds") if row[-1].endswith("USD"))
    given, made = numbers(held[1])
    told, cached, output = numbers(used[1])
    assert f"{standing.amount(prices.most(price, given, made))} USD" == held[2]
    usage = Usage(input=told, cached_input=cached, output=output, source=Source.REPORTED)
    assert f"{standing.amount(prices.cost(price, usage))} USD" == used[2]


def spelled_out(text: str) -> set[str]:
    """The names that a pattern such as `x-{a,b}` stands for, of all that a text has in backticks."""
    names = set()
    for pattern in re.findall(r"`([^`]+)`", text):
        parts = [part.strip("{}").split(",") for part in re.split(r"(\{[^}]*\})", pattern) if part]
        names |= {"".join(choice) for choice in itertools.product(*parts)}
    return names


def test_every_header_of_limits_is_told_and_no_other() -> None:
    told = set().union(*(spelled_out(row[0]) for row in rows("docs/limits.md", "### Headers")))
    measures = [measure for measure in Measure if measure is not Measure.CONCURRENT]
    spent = [(Limit("l", measure, 10, sliding=1_000, warn_at=(1,)), Reading(9, 1), 10) for measure in measures]
    made = {name for face in (Face.OPENAI, Face.ANTHROPIC) for name, _ in standing.headers(spent, face, "USD", 0)}
    refusal = standing.refusal((*spent[0][:1], Reading(10, 1, 1), 10), 1, "m", "t", 0, "USD")
    made |= {name for name, _ in refusals.encode(refusal, Face.OPENAI, "r")[1] if name != "content-type"}
    made |= {name for name, _ in budget.priority_headers(spent, Priority.HIGH)} | {fallback.MODEL_HEADER}
    source = (ROOT / "extproc/reservation.py").read_text()
    assert told == made | set(re.findall(r'^_[A-Z]+_HEADER = "([a-z-]+)"$', source, re.MULTILINE))


def test_the_refusals_of_limits_have_their_status_and_code() -> None:
    kinds = {kind.code: kind for kind in vars(refusals).values() if isinstance(kind, refusals.Kind)}
    table = rows("docs/limits.md", "### Refusals")
    for _, answer, retry, _ in table:
        status, code = answer.split()
        kind = kinds[code.strip("`")]
        assert int(status) == kind.status
        assert kind is refusals.RATE_LIMIT or (retry == "`true`") == kind.retry, code
    assert {"`true`", "`false`"} == {row[2] for row in table if "rate_limit_exceeded" in row[1]}


def test_every_cause_of_overspending_is_told_and_no_other() -> None:
    told = {row[0].strip("`") for row in rows("docs/limits.md", "### What can be overspent")}
    holds = [Hold("h", (), Demand(), leased=leased) for leased in (True, False)]
    causes = {cause for hold in holds for cause in charge.overspent(hold, Demand(1, 1, 1, 1))}
    assert told == causes | {"price"}
