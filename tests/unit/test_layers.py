"""What an import really pulls in; who may import whom stands in .importlinter and is held by `make check`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def loaded_by(module: str) -> set[str]:
    """The modules in a fresh interpreter after one import."""
    script = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    return set(run.stdout.split())


def test_a_worker_does_not_carry_what_only_the_renderer_needs() -> None:
    loaded = {name.partition(".")[0] for name in loaded_by("extproc.worker")}
    assert "grpc" in loaded  # the probe sees what is there
    assert loaded & {"envoy_data_plane", "betterproto2", "typer", "loadtest", "openai"} == set()


@pytest.mark.parametrize("module", ["extproc.stages.route", "extproc.dialects.registry", "extproc.refusals"])
def test_what_decides_loads_no_wire_format_and_no_store(module: str) -> None:
    loaded = {name.partition(".")[0] for name in loaded_by(module)}
    assert "extproc" in loaded
    assert loaded & {"grpc", "google", "sqlalchemy", "prometheus_client", "uvloop"} == set()


def test_the_rendered_files_do_not_hide_the_package_named_envoy() -> None:
    """With an `__init__.py` the folder would take the place of the installed package `envoy`."""
    assert not list((ROOT / "envoy").rglob("__init__.py"))
