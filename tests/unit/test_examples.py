"""Every configuration that a user starts from works as it stands; so does the demo client."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from extproc.cli import app
from extproc.config.loader import load
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.parent.name for path in ROOT.glob("examples/*/gateway.yaml"))
SECRETS = {
    "cache": [],
    "openai": ["OPENAI_API_KEY"],
    "azure-openai": ["AZURE_SWE_KEY", "AZURE_FRA_KEY"],
    "anthropic": ["ANTHROPIC_API_KEY"],
    "catalogue": [
        "AZURE_PTU_KEY",
        "AZURE_SWE_KEY",
        "AZURE_EUS_KEY",
        "FOUNDRY_KEY",
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "GEMINI_API_KEY",
        "XAI_API_KEY",
        "GITHUB_TOKEN",
        "COPILOT_TOKEN_FILE",
        "VLLM_API_KEY",
    ],
    "entra": ["AZURE_OPENAI_KEY"],
    "gitops": ["AZURE_SWE_KEY"],
    "limits": [],
    "loadtest": [],
    "ollama": [],
    "quickstart": [],
    "redaction": [],
}
"""What each example wants in the environment; a name with FILE at its end is that of a file."""


def check(name: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "extproc.cli", "check", "--config", f"examples/{name}/gateway.yaml"]
    bare = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_accepted_by_sluice_and_by_envoy(name: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("a-secret")
    run = check(name, {wanted: str(file) if wanted.endswith("FILE") else "a-secret" for wanted in SECRETS[name]})
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("OK: ")


@pytest.mark.parametrize("name", ["cache", "catalogue", "limits", "quickstart"])
def test_no_price_of_an_example_is_another_than_the_listed_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are copied. Models without any price, or that nobody lists, are not meant."""
    (tmp_path / "secret").write_text("a-secret")
    for wanted in SECRETS[name]:
        monkeypatch.setenv(wanted, str(tmp_path / "secret") if wanted.endswith("FILE") else "a-secret")
    command = ["prices", "check", "--json", "--at", "2026-11-01", "--config", f"{ROOT}/examples/{name}/gateway.yaml"]
    found = json.loads(CliRunner().invoke(app, command).stdout)["models"]
    compared = [one for one in found if one.get("same")]
    assert len(compared) > 2
    assert [one for one in compared if one["differences"]] == []


def test_the_example_of_the_cache_works_with_its_comments_taken_away(tmp_path: Path) -> None:
    text = (ROOT / "examples/cache/gateway.yaml").read_text()
    for commented, plain in (("  # key:", "  key:"), ("\n# stores:", "\nstores:")):
        assert commented in text
        text = text.replace(commented, plain)
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    gateway = load(file, {})
    assert (gateway.cache.key is not None, gateway.stores.answers_at) == (True, "redis://localhost:6379")


def test_an_example_without_its_secrets_names_every_variable_that_is_missing() -> None:
    run = check("azure-openai", {})
    assert run.returncode == 1
    for variable in SECRETS["azure-openai"]:
        assert f"the environment variable {variable} is not set" in run.stderr


@pytest.fixture(scope="module")
def quickstart() -> Iterator[RunningGateway]:
    """The quickstart, on free ports and with a fake provider whose port is free, too."""
    settings = YAML(typ="safe").load(ROOT / "examples/quickstart/gateway.yaml")
    with FakeProvider("fake") as fake:
        for backend in settings["backends"].values():
            backend["url"] = fake.url("fake")
        for chosen in ("listener", "fake_backend"):
            del settings[chosen]
        with RunningGateway(settings) as gateway:
            yield gateway


def test_the_demo_client_calls_every_api_of_the_quickstart(quickstart: RunningGateway) -> None:
    run = subprocess.run(
        [sys.executable, "examples/demo_client/demo.py"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "SLUICE_URL": quickstart.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    shown = [line for line in run.stdout.splitlines() if line.startswith("--- ")]
    apis = ("models", "chat", "stream", "tools", "embeddings", "responses", "transcription", "messages (Anthropic)")
    assert shown == [f"--- {api}" for api in apis]
    assert ", ".join(quickstart.settings["models"]) in run.stdout
    assert "the model asks for get_weather(" in run.stdout
    assert "2 vectors of 1536 numbers" in run.stdout
