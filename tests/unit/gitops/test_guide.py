"""What docs/teams.md and examples/gitops say is what the commands do."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from pydantic import BaseModel
from ruamel.yaml import YAML

from extproc.config.backends import Backend
from extproc.config.limits import LimitFile
from extproc.config.models import Model
from extproc.config.teams import TeamFile
from extproc.gitops.drift import DriftKind
from extproc.stores import sql
from tests.support.json_schema import mistakes

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "gitops"
GUIDE = (ROOT / "docs" / "teams.md").read_text()
OF_THE_GATEWAY = (LimitFile, Backend, Model)
"""What a team file has as the configuration has it, which documents it."""
SCHEMA_LINE = re.compile(r"# yaml-language-server: \$schema=(.+)")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the example, as a repository of one's own."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "repository"))


def _run(repository: Path, script: str, **environ: str) -> str:
    """A script of a pipeline, with the command of this checkout."""
    programs = repository.parent / "bin"
    programs.mkdir(exist_ok=True)
    command = programs / "sluice"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m extproc.cli "$@"\n')
    command.chmod(0o755)
    bare = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(repository), **environ}
    run = subprocess.run(
        ["bash", "-e", "-c", script], cwd=repository, env=bare, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


# ---- the examples ---------------------------------------------------------------------------------


def _scripts(value: Any) -> Iterator[str]:
    """All scripts of a pipeline that call the command, in order."""
    for name, inner in (
        value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    ):
        if name in ("run", "bash", "inlineScript") and "sluice " in inner:
            yield inner
        else:
            yield from _scripts(inner)


@pytest.mark.parametrize("pipeline", ["github-actions", "azure-pipelines"])
def test_what_a_pipeline_runs_works(repository: Path, pipeline: str) -> None:
    plan, apply = _scripts(YAML(typ="safe").load(EXAMPLE / f"{pipeline}.yaml"))
    summary = repository / "summary.md"
    environ = {"GITHUB_STEP_SUMMARY": str(summary), "SLUICE__STORES__DATABASE": "sqlite:///elsewhere/sluice.db"}
    (repository / "elsewhere").mkdir()
    sql.upgrade(f"sqlite:///{repository}/elsewhere/sluice.db")  # the gateway runs
    assert "Plan: 2 areas to add; 2 teams to add; 3 keys to mint." in _run(repository, plan, **environ)
    shown = summary if summary.exists() else repository / "plan.md"
    assert "+  checkout/shop-prod" in shown.read_text()
    assert not (repository / "keys").exists()
    assert "3 new keys delivered" in _run(repository, apply, DELIVER_TO="file:keys", **environ)
    assert {str(path.relative_to(repository)) for path in repository.glob("keys/*/*")} == {
        "keys/checkout/bob-laptop",
        "keys/checkout/shop-prod",
        "keys/ledger/closing",
    }


def test_a_plan_runs_on_pull_requests_and_an_apply_on_main_alone() -> None:
    github = YAML(typ="safe").load(EXAMPLE / "github-actions.yaml")
    assert github["on"]["push"]["branches"] == ["main"]
    conditions = {name: job["if"] for name, job in github["jobs"].items()}
    assert conditions == {
        "plan": "github.event_name == 'pull_request'",
        "apply": "github.event_name != 'pull_request'",
    }
    assert len(github["on"]["schedule"]) == 1
    assert "id-token" not in github["permissions"]
    azure = YAML(typ="safe").load(EXAMPLE / "azure-pipelines.yaml")
    assert azure["trigger"]["branches"]["include"] == ["main"]
    assert [(one["branches"]["include"], one["always"]) for one in azure["schedules"]] == [(["main"], True)]
    assert [(stage["stage"], stage["condition"]) for stage in azure["stages"]] == [
        ("plan", "eq(variables['Build.Reason'], 'PullRequest')"),
        ("apply", "and(succeeded(), ne(variables['Build.Reason'], 'PullRequest'))"),
    ]


@pytest.mark.parametrize("pipeline", ["github-actions", "azure-pipelines"])
def test_a_pipeline_installs_this_version_and_reviews_with_a_login_that_reads(pipeline: str) -> None:
    text = (EXAMPLE / f"{pipeline}.yaml").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.findall("pip install (.*)", text) == ['"$SLUICE_WHEEL"'] * 2, "never a public name"
    wheel = Requirement(re.findall("SLUICE_WHEEL: (.*?)(?: #.*)?\n", text)[0])
    assert (wheel.name, wheel.extras) == ("sluice-gateway", {"azure", "postgresql"})
    assert f"sluice_gateway-{version}-py3" in str(wheel.url)
    assert re.findall(r"SLUICE__STORES__DATABASE: \$\W*(?:secrets\.)?(\w+)", text) == [
        "SLUICE_DATABASE_READER",
        "SLUICE_DATABASE",
    ]


def test_what_the_readme_names_works_in_order(repository: Path) -> None:
    (script,) = re.findall(r"```sh\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    printed = _run(repository, script)
    assert "3 new keys delivered to file:var/keys." in printed
    assert printed.endswith("Plan: 1 team to add.\n")


def _with_schema() -> list[Path]:
    return [*ROOT.glob("examples/*/gateway.yaml"), *ROOT.glob("examples/*/teams/*.yaml")]


@pytest.mark.parametrize("path", _with_schema(), ids=lambda path: str(path.relative_to(ROOT / "examples")))
def test_an_example_names_its_schema_and_fits_it(path: Path) -> None:
    text = path.read_text()
    named = SCHEMA_LINE.fullmatch(text.splitlines()[0])
    assert named is not None
    schema = YAML(typ="safe").load((path.parent / named[1]).resolve())
    assert schema["title"] == ("TeamFile" if path.parent.name == "teams" else "Gateway")
    assert mistakes(schema, YAML(typ="safe").load(text)) == []


# ---- the guide ------------------------------------------------------------------------------------


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """`keys[].name` and so on, of all fields that hold a value; what is in others stands in the configuration's."""
    for name, field in ((field.alias or name, field) for name, field in model.model_fields.items()):
        inner = next((kind for kind in getattr(field.annotation, "__args__", ()) if _is_model(kind)), None)
        if inner is None:
            yield f"{prefix}{name}"
        else:
            yield from _fields(inner, f"{prefix}{name}[].")


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel) and not issubclass(kind, OF_THE_GATEWAY)


def _cells(heading: str, table: int = 0) -> list[str]:
    """The first cells of a table of the guide."""
    section = GUIDE[GUIDE.index(heading) :].split("\n## ")[0]
    lines = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[table].splitlines()[2:]
    return [line.split("|")[1].strip() for line in lines]


def test_every_field_is_in_the_guide_and_no_other() -> None:
    documented = [field for cell in _cells("## The file") for field in re.findall(r"`([^`]+)`", cell)]
    assert documented == list(_fields(TeamFile))


def test_every_kind_of_drift_is_in_the_guide() -> None:
    assert len(_cells("## Plan")) == len(DriftKind)


def test_the_plan_in_the_guide_is_one(repository: Path) -> None:
    _run(repository, "sluice apply --yes --deliver-to file:keys && sluice keys revoke ledger/closing")
    _run(repository, "sluice teams import access.yaml --out teams --area retail")
    team = repository / "teams" / "checkout.yaml"
    text = team.read_text()
    for before, after in (
        ("  - name: gpt-4o-mini\n", "  - name: gpt-4o-mini\n  - name: text-embedding-3-small\n"),
        ("  - {user: bob@example.com}\n", ""),
        ("eve@example.com, role: viewer", "eve@example.com"),
        ("{name: bob-laptop, user: bob@example.com", "{name: eve-laptop, user: eve@example.com"),
        ("10.20.0.0/16", "10.21.0.0/16"),
        ("money: 500", "money: 800"),
    ):
        assert before in text
        text = text.replace(before, after)
    team.write_text(text)
    (sample,) = re.findall(r"```text\n(.*?)```", GUIDE, re.DOTALL)
    time = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d")
    assert time.sub("", _run(repository, "sluice plan")) == time.sub("", sample)


def test_the_team_file_in_the_guide_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    TeamFile.model_validate(YAML(typ="safe").load(text))
