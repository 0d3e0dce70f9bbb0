"""The pages that people read say what the code does: compared where both can be listed."""

import re
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import prometheus_client
import pytest

from extproc import refusals, surfaces
from extproc.call import Call, Phase
from extproc.config.loader import load
from extproc.model import Backend, Caller, Catalogue, Chain, Dialect, Ending, Outcome, PublicModel, Target, Team, Usage
from extproc.model import UsageSource as Source
from extproc.surfaces import Surface
from extproc.telemetry import metrics, records

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted(
    page
    for page in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("envoy/*.md"),
        *ROOT.glob("examples/**/*.md"),
    )
)


def rows(page: str, heading: str = "") -> list[list[str]]:
    """The cells of all table rows that follow a heading, without the table heads."""
    text = (ROOT / page).read_text()
    text = text[text.index(heading) :].split("\n## ")[0] if heading else text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [
        row for row in cells if not set(row[0]) <= set("-:") and row[0] not in ("package", "code", "metric", "field")
    ]


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
    documented = {
        row[0].strip("`"): [label for label in row[1].split(", ") if label]
        for row in rows("docs/operations.md", "## Metrics")
    }
    assert documented == wanted


def fullest_record() -> dict[str, Any]:
    """A record in which no fact is left out."""
    backend = Backend("b", Dialect.OPENAI)
    model = PublicModel("m", ((Target(backend, "m"),),))
    call = Call(
        started=1.0,
        catalogue=Catalogue({"m": model}, {"b": backend}, {}, 1),
        phase=Phase.RESPONDING,
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
        chain=Chain(model, model.groups[0]),
        first_byte=2.0,
        stream=True,
        retries="1",
    )
    counts = Usage(1, 1, 1, 1, 1, 1, 1, 1.0, Source.REPORTED)
    outcome = Outcome(Ending.REFUSED, 400, counts, refusal="x", backend="b")
    return records.access_record(replace(call, request_id="r", method="POST"), outcome, 1.0, 1.0)


def test_every_field_of_a_record_is_documented_and_no_other() -> None:
    record = fullest_record()
    table = rows("docs/operations.md", "## Records")
    documented = {name for row in table for name in re.findall(r"`(\w+)`", row[0])}
    assert documented == set(record)
    usage = next(row[1] for row in table if row[0] == "`usage`")
    assert set(re.findall(r"`(\w+)`", usage)) == {*record["usage"], "reported", "estimated"}


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
    about_callers = {"entra", "gitops"}
    assert len(ENVIRONMENTS) == len(examples - {"quickstart"} - about_callers)
