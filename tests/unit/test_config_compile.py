"""From the configuration tree to the catalogue that calls are decided by."""

import dataclasses
from typing import Any

import pytest
from pydantic import ValidationError

from extproc.config import compile as compiled
from extproc.config.schema import Gateway
from extproc.dialects import paths
from extproc.model import Backend, Dialect, Target
from extproc.surfaces import Face, Place, Surface


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
    ("dialect", "url", "path"),
    [
        ("openai", "https://api.openai.com", "/v1"),
        ("openai", "https://api.openai.com/", "/v1"),
        ("openai", "https://api.openai.com/v1", "/v1"),
        ("openai", "https://api.openai.com/v1/", "/v1"),
        ("openai", "http://127.0.0.1:8090/llm/v1", "/llm/v1"),
        ("openai", "https://api.groq.com/openai/v1", "/openai/v1"),
        ("openai", "https://generativelanguage.googleapis.com/v1beta/openai/", "/v1beta/openai"),
        ("openai", "https://open.bigmodel.cn/api/paas/v4", "/api/paas/v4"),
        ("openai", "http://host/myv1", "/myv1"),
        ("azure-openai", "https://x.openai.azure.com/openai/v1", "/openai/v1"),
        ("azure-openai", "https://x.openai.azure.com/openai", "/openai/v1"),
        ("azure-openai", "https://x.openai.azure.com", "/openai/v1"),
        ("azure-openai", "https://proxy/team/openai/v1/", "/team/openai/v1"),
    ],
)
def test_a_url_is_taken_as_the_providers_sdk_takes_it(dialect: str, url: str, path: str) -> None:
    given = {name: {"dialect": dialect, "url": url} for name in ("one", "swe")}
    backend = compiled.catalogue(_gateway(backends=given)).backends["one"]
    assert paths.upstream(Target(backend, "m"), Place(Surface.CHAT, Face.OPENAI), "") == f"{path}/chat/completions"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://api.anthropic.com", "/v1/messages"),
        ("https://api.anthropic.com/v1", "/v1/messages"),
        ("https://proxy/anthropic/", "/anthropic/v1/messages"),
    ],
)
def test_anthropics_url_may_come_with_or_without_its_version(url: str, path: str) -> None:
    given = {name: {"dialect": "anthropic", "url": url} for name in ("one", "swe")}
    backend = compiled.catalogue(_gateway(backends=given)).backends["one"]
    assert paths.upstream(Target(backend, "m"), Place(Surface.MESSAGES, Face.ANTHROPIC), "") == path


@pytest.mark.parametrize(
    "url", ["http://h:99999", "http://h:abc", "https://h/x y", "https://h/\nfoo", "https://h/a/../b", "http://h:0/"]
)
def test_a_url_that_no_address_can_be_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        _gateway(backends={name: {"dialect": "openai", "url": url} for name in ("one", "swe")})


def test_a_backend_keeps_its_dialect_and_version() -> None:
    swe = compiled.catalogue(_gateway()).backends["swe"]
    assert swe == Backend("swe", Dialect.AZURE, "", "2024-10-21", cap_field="max_completion_tokens", provider="azure")


def test_a_default_stands_for_its_surface_and_the_cap_for_answers() -> None:
    catalogue = compiled.catalogue(_gateway(default_models={"moderations": "omni"}, limits={"json_answer": "2KiB"}))
    assert catalogue.defaults == {Surface.MODERATIONS: "omni"}
    assert catalogue.answer_cap == 2048


def test_the_catalogue_does_not_change() -> None:
    catalogue = compiled.catalogue(_gateway())
    with pytest.raises(dataclasses.FrozenInstanceError):
        catalogue.answer_cap = 1  # type: ignore[misc]
