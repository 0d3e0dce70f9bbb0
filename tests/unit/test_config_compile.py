"""From the configuration tree to the catalogue that calls are decided by."""

import dataclasses
from typing import Any

import pytest

from extproc.config import compile as compiled
from extproc.config.schema import Gateway
from extproc.model import Backend, Dialect, Target
from extproc.surfaces import Surface


def _gateway(**more: Any) -> Gateway:
    tree: dict[str, Any] = {
        "backends": {
            "one": {"dialect": "openai", "url": "https://api.openai.com/v1"},
            "swe": {"dialect": "azure-openai", "url": "https://swe.openai.azure.com", "api_version": "2024-10-21"},
        },
        "models": {
            "gpt-4o": {
                "aliases": ["azure-gpt-4o", "default"],
                "targets": [[{"backend": "swe", "model": "gpt-4o-swe", "weight": 3}], [{"backend": "one"}]],
            },
            "omni": {"targets": [[{"backend": "one", "weight": 0}, {"backend": "swe"}]]},
        },
    }
    return Gateway.model_validate(tree | more)


def test_a_model_is_found_by_its_name_and_by_each_alias() -> None:
    catalogue = compiled.catalogue(_gateway())
    assert set(catalogue.models) == {"gpt-4o", "azure-gpt-4o", "default", "omni"}
    assert catalogue.models["azure-gpt-4o"] is catalogue.models["gpt-4o"]
    assert [model.name for model in catalogue.listed()] == ["gpt-4o", "omni"]


def test_targets_keep_their_groups_weights_and_names() -> None:
    catalogue = compiled.catalogue(_gateway())
    one, swe = catalogue.backends["one"], catalogue.backends["swe"]
    assert catalogue.models["gpt-4o"].groups == ((Target(swe, "gpt-4o-swe", 3),), (Target(one, "gpt-4o", 1),))
    assert catalogue.models["omni"].groups == ((Target(one, "omni", 0), Target(swe, "omni", 1)),)


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("https://api.openai.com", ""),
        ("https://api.openai.com/", ""),
        ("https://api.openai.com/v1", ""),
        ("https://api.openai.com/v1/", ""),
        ("http://127.0.0.1:8090/llm/v1", "/llm"),
        ("http://host/a/b/", "/a/b"),
        ("https://x.openai.azure.com/openai/v1", ""),
        ("https://x.openai.azure.com/openai", ""),
        ("https://proxy/team/openai/v1/", "/team"),
        ("http://host/v1/models", "/v1/models"),
        ("http://host/myv1", "/myv1"),
    ],
)
def test_the_prefix_of_a_backend_is_its_url_without_what_we_add(url: str, prefix: str) -> None:
    catalogue = compiled.catalogue(
        _gateway(backends={name: {"dialect": "openai", "url": url} for name in ("one", "swe")})
    )
    assert catalogue.backends["one"] == Backend("one", Dialect.OPENAI, prefix)


def test_a_backend_keeps_its_dialect_and_version() -> None:
    swe = compiled.catalogue(_gateway()).backends["swe"]
    assert swe == Backend("swe", Dialect.AZURE, "", "2024-10-21")


def test_a_default_stands_for_its_surface_and_the_cap_for_answers() -> None:
    catalogue = compiled.catalogue(_gateway(default_models={"moderations": "omni"}, limits={"json_answer": "2KiB"}))
    assert catalogue.defaults == {Surface.MODERATIONS: "omni"}
    assert catalogue.answer_cap == 2048


def test_the_catalogue_does_not_change() -> None:
    catalogue = compiled.catalogue(_gateway())
    with pytest.raises(dataclasses.FrozenInstanceError):
        catalogue.answer_cap = 1  # type: ignore[misc]
