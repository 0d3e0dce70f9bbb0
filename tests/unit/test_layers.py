"""What an import really pulls in; who may import whom stands in .importlinter and is held by `make check`."""

import contextlib
import gc
import subprocess
import sys
from pathlib import Path

import pytest

from extproc.imports import uncollected

ROOT = Path(__file__).resolve().parents[2]


def loaded_by(module: str) -> set[str]:
    """The modules in a fresh interpreter after one import."""
    return set(said_by(f"import sys, {module}; print(*sys.modules)"))


def said_by(script: str) -> list[str]:
    """The words that a script prints in a fresh interpreter."""
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return run.stdout.split()


def test_a_worker_does_not_carry_what_only_the_renderer_needs() -> None:
    loaded = {name.partition(".")[0] for name in loaded_by("extproc.worker")}
    assert "grpc" in loaded  # the probe sees what is there
    assert loaded & {"envoy_data_plane", "betterproto2", "typer", "loadtest", "openai"} == set()
    assert loaded & {"alembic", "redis", "phonenumbers"} == set(), "only some configurations need them"


@pytest.mark.parametrize("module", ["extproc.stages.route", "extproc.dialects.registry", "extproc.refusals"])
def test_what_decides_loads_no_wire_format_and_no_store(module: str) -> None:
    loaded = {name.partition(".")[0] for name in loaded_by(module)}
    assert "extproc" in loaded
    assert loaded & {"grpc", "google", "sqlalchemy", "prometheus_client", "uvloop"} == set()


def test_the_rendered_files_do_not_hide_the_package_named_envoy() -> None:
    """With an `__init__.py` the folder would take the place of the installed package `envoy`."""
    assert not list((ROOT / "envoy").rglob("__init__.py"))


def test_envoys_types_have_no_validators_and_those_of_others_have() -> None:
    script = """
import pydantic.dataclasses
import extproc.dataplane
from envoy_data_plane.envoy.config.core.v3 import Node

@pydantic.dataclasses.dataclass
class Other:
    name: str

print(*map(pydantic.dataclasses.is_pydantic_dataclass, (Node, Other)))
"""
    assert said_by(script) == ["False", "True"]


def test_garbage_is_collected_again_after_the_imports() -> None:
    frozen = gc.get_freeze_count()
    with contextlib.suppress(ImportError), uncollected():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen
    gc.unfreeze()
