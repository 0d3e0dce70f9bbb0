"""The catalogue as people write it: names, backends of every kind, where they are, and how they are spared."""

import dataclasses
import re
import subprocess
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import hypothesis
import pytest
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from extproc import model as compiled_model
from extproc.config import compile as compiled
from extproc.config.backends import Backend, BackendSurface, OwnCooling, cooling, is_credential, is_ours
from extproc.config.backends import Cooling as SpokenCooling
from extproc.config.backends import Dialect as DialectName
from extproc.config.doubts import doubts
from extproc.config.loader import json_schema, load
from extproc.config.models import Modality as ModalityName
from extproc.config.routing import watched
from extproc.config.schema import Gateway
from extproc.config.team_files import offer
from extproc.config.teams import TeamFile
from extproc.contract import CREDENTIAL_HEADERS
from extproc.dialects import listing, paths
from extproc.model import Affinity, Binding, Catalogue, Dialect, Modality, PublicModel, Retirement, Team
from extproc.routing.policy import Cooling, Watched
from extproc.stages.forward import _PASS, _PASS_PREFIXES
from extproc.surfaces import ALLOWABLE, Face, Surface
from tests.support.json_schema import mistakes

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "catalogue" / "gateway.yaml"
TWO = {
    "swe": {"dialect": "azure-openai", "url": "https://swe.openai.azure.com", "region": "swedencentral"},
    "own": {"dialect": "openai", "url": "http://vllm:8000"},
}
ON_SWE = {"targets": [[{"backend": "swe"}]]}


def gateway(**models: Mapping[str, Any]) -> Gateway:
    given = {name.replace("_", "-"): {**ON_SWE, **model} for name, model in (models or {"m": {}}).items()}
    return Gateway.model_validate({"backends": TWO, "models": given})


def catalogue(**models: Mapping[str, Any]) -> Catalogue:
    return compiled.without_policies(gateway(**models))


def backend(**settings: Any) -> compiled_model.Backend:
    given = {"dialect": "openai", "url": "https://api.example/v1", **settings}
    tree = {"backends": {"b": given}, "models": {"m": {"targets": [[{"backend": "b"}]]}}}
    return compiled.without_policies(Gateway.model_validate(tree)).backends["b"]


# ---- models ----------------------------------------------------------------------------------------


def test_a_model_that_is_not_enabled_has_none_of_its_names() -> None:
    off = {"enabled": False, "aliases": ["other"], "retired": {"old": {"since": "2026-01-01"}}}
    known = catalogue(off=off, on={"enabled": True})
    assert set(known.models) == {"on"}
    assert [model.name for model in known.listed()] == ["on"]


def test_a_retired_name_works_and_says_since_when() -> None:
    retired = {"old": {"since": "2026-03-31"}, "older": {"since": "2025-12-01", "sunset": "2026-06-30"}}
    known = catalogue(new={"aliases": ["same"], "retired": retired})
    assert {name: model.name for name, model in known.models.items()} == dict.fromkeys(
        ("new", "same", "old", "older"), "new"
    )
    assert known.models["old"].retired == {
        "old": Retirement(int(datetime(2026, 3, 31, tzinfo=UTC).timestamp())),
        "older": Retirement(
            int(datetime(2025, 12, 1, tzinfo=UTC).timestamp()), int(datetime(2026, 6, 30, tzinfo=UTC).timestamp())
        ),
    }


def test_an_alias_and_the_own_name_can_be_retired_too() -> None:
    days = {"since": "2026-03-31"}
    known = catalogue(new={"aliases": ["same"], "retired": {"same": days, "new": days}})
    assert set(known.models) == {"new", "same"}
    assert set(known.models["new"].retired) == {"new", "same"}


def test_a_model_can_be_called_where_its_modality_is_and_without_one_anywhere() -> None:
    for name in get_args(ModalityName):
        surfaces = catalogue(m={"modality": name}).models["m"].surfaces
        assert surfaces == Modality(name).surfaces
    assert catalogue().models["m"].surfaces is None


def test_every_surface_of_a_model_belongs_to_one_modality() -> None:
    of_models = {Surface(name) for name in ALLOWABLE} - {Surface.MODELS, Surface.ME}
    of_models |= {Surface.RESPONSE_ITEM, Surface.COUNT_TOKENS}
    told = [surface for modality in Modality for surface in modality.surfaces]
    assert len(told) == len(set(told))
    assert set(told) == of_models


def test_the_words_of_the_configuration_are_those_of_the_code() -> None:
    assert get_args(ModalityName) == tuple(Modality)
    assert get_args(DialectName) == tuple(Dialect)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (None, None),
        ("team", Affinity(Binding.TEAM)),
        ("prompt", Affinity(Binding.PROMPT)),
        ("header:X-Session-Id", Affinity(Binding.HEADER, "x-session-id")),
        ("cookie:Session.Id", Affinity(Binding.COOKIE, "Session.Id")),
    ],
)
def test_an_affinity_in_parts(written: str | None, read: Affinity | None) -> None:
    assert catalogue(m={"affinity": written}).models["m"].affinity == read


@pytest.mark.parametrize(("written", "seconds"), [(None, None), ("1500ms", 1.5), (20, 20.0)])
def test_how_long_a_backend_may_take_until_its_answer_begins(written: str | int | None, seconds: float | None) -> None:
    assert catalogue(m={"first_byte": written}).models["m"].first_byte == seconds


@pytest.mark.parametrize(("written", "seconds"), [(None, None), ("1500ms", 1.5), (20, 20.0)])
def test_how_long_a_backend_may_be_silent_in_the_middle(written: str | int | None, seconds: float | None) -> None:
    assert catalogue(m={"stall": written}).models["m"].stall == seconds


def test_what_the_gateway_ends_is_ended_before_envoy_cuts_it() -> None:
    tree = {"backends": TWO, "models": {"m": ON_SWE}, "timeouts": {"idle": "40s"}}
    assert compiled.without_policies(Gateway.model_validate(tree)).silence == 36.0


def test_at_how_many_backends_a_call_is_tried() -> None:
    tree = {"backends": TWO, "models": {"m": ON_SWE}}
    assert compiled.without_policies(Gateway.model_validate(tree)).attempts == 5
    assert compiled.without_policies(Gateway.model_validate({**tree, "routing": {"attempts": 2}})).attempts == 2


def test_how_many_calls_are_tried_again() -> None:
    tree = {"backends": TWO, "models": {"m": ON_SWE}}
    assert compiled.without_policies(Gateway.model_validate(tree)).retry_share == 0.2
    unbound = Gateway.model_validate({**tree, "routing": {"retry_share": 1}})
    assert compiled.without_policies(unbound).retry_share == 1
    for share in (-0.1, 1.1, "some"):
        with pytest.raises(ValidationError, match="retry_share"):
            Gateway.model_validate({**tree, "routing": {"retry_share": share}})


def test_a_model_of_gemini_resembles_google_s_tokenizer() -> None:
    tree = {
        "backends": {"g": {"dialect": "gemini", "url": "https://generativelanguage.googleapis.com"}},
        "models": {"m": {"targets": [[{"backend": "g"}]]}},
    }
    assert compiled.without_policies(Gateway.model_validate(tree)).models["m"].bounds.family == "google"


# ---- lists of models -------------------------------------------------------------------------------


@pytest.mark.parametrize("face", Face)
def test_a_list_of_models_tells_what_each_is_for(face: Face) -> None:
    listed = [PublicModel("a", (), modality=Modality.IMAGE), PublicModel("b", ())]
    entries = YAML(typ="safe").load(listing.models(listed, face))["data"]
    assert [entry.get("modality") for entry in entries] == ["image", None]


def test_anthropic_s_list_tells_that_a_name_is_retired() -> None:
    old = {"old": {"since": "2026-03-31", "sunset": "2026-06-30"}}
    own = {"new": {"since": "2026-03-31"}}
    entries = {}
    for name, retired in (("elsewhere", old), ("own", own), ("both", {"new": old["old"]})):
        told = listing.model(catalogue(new={"retired": retired}).models["new"], Face.ANTHROPIC)
        entry = YAML(typ="safe").load(told)
        entries[name] = [str(entry.get(field)) for field in ("lifecycle", "deprecated_at", "retires_at")]
    assert entries == {
        "elsewhere": ["active", "None", "None"],
        "own": ["deprecated", "2026-03-31T00:00:00Z", "None"],
        "both": ["deprecated", "2026-03-31T00:00:00Z", "2026-06-30T00:00:00Z"],
    }


# ---- backends --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "url", "base"),
    [
        ("openai", "https://api.x.ai/v1", ("", "/v1")),
        ("openai", "https://models.github.ai/inference", ("/inference", "")),
        ("openai", "https://models.github.ai/orgs/contoso/inference/", ("/orgs/contoso/inference", "")),
        ("openai", "https://api.githubcopilot.com", ("", "")),
        ("openai", "https://api.business.githubcopilot.com/", ("", "")),
        ("openai", "https://api.githubcopilot.com.corp.example", ("", "/v1")),
        ("openai", "http://workspace-phi-4.models.svc:80", ("", "/v1")),
        ("azure-openai", "https://contoso.services.ai.azure.com", ("", "/v1")),
        ("anthropic", "https://contoso.services.ai.azure.com/anthropic", ("/anthropic", "/v1")),
        ("gemini", "https://generativelanguage.googleapis.com", ("", "/v1beta")),
        ("gemini", "https://generativelanguage.googleapis.com/v1beta/", ("", "/v1beta")),
        ("gemini", "https://generativelanguage.googleapis.com/v1", ("", "/v1beta")),
        ("gemini", "https://proxy.example/google/v1beta", ("/google", "/v1beta")),
    ],
)
def test_what_stands_before_the_paths_of_a_backend(dialect: str, url: str, base: tuple[str, str]) -> None:
    found = backend(dialect=dialect, url=url)
    assert (found.prefix, found.version) == base


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://EU.api.openai.com./v1", "openai"),
        ("https://x.openai.azure.com", "azure"),
        ("https://x.services.ai.azure.com", "azure"),
        ("https://api.anthropic.com", "anthropic"),
        ("https://europe-west1-aiplatform.googleapis.com", "google"),
        ("https://api.x.ai/v1", "xai"),
        ("https://models.github.ai/inference", "github"),
        ("https://api.githubcopilot.com", "github"),
        ("https://myapi.openai.com.corp.example", None),
        ("https://notapi.x.ai", None),
        ("http://127.0.0.1:8000", None),
    ],
)
def test_the_host_tells_the_provider_unless_it_is_given(url: str, provider: str | None) -> None:
    assert backend(url=url).provider == provider
    assert backend(url=url, provider="mine").provider == "mine"


def test_a_region_is_what_is_written() -> None:
    assert backend(region="westeurope").region == "westeurope"
    assert backend().region is None


def test_a_backend_serves_the_surfaces_that_are_named_with_what_belongs_to_them() -> None:
    assert backend().surfaces is None
    assert backend(surfaces=["chat", "responses"]).surfaces == frozenset(
        {
            Surface.CHAT,
            Surface.RESPONSES,
            Surface.RESPONSE_ITEM,
        }
    )
    assert {Surface(name).key for name in get_args(BackendSurface)} == {*ALLOWABLE} - {Surface.MODELS, Surface.ME}


def test_a_backend_may_name_the_surfaces_that_its_dialect_has_and_no_other() -> None:
    for dialect in Dialect:
        for name in get_args(BackendSurface):
            has = paths.serves(compiled_model.Backend("b", dialect, "", None), Surface(name))
            with nullcontext() if has else pytest.raises(ValueError, match=f"has no {name}"):
                Backend(dialect=dialect.value, url="https://a", surfaces=(name,))


def test_headers_are_held_in_lower_case() -> None:
    given = Backend(dialect="openai", url="https://a", headers={"Editor-Version": "vscode/1.0 (x; 100%)"})
    assert given.headers == {"editor-version": "vscode/1.0 (x; 100%)"}


def test_no_header_of_a_backend_is_a_credential_or_one_that_callers_may_send() -> None:
    refused = {*CREDENTIAL_HEADERS, *_PASS, "x-auth-token"}
    refused |= {f"{prefix}x" for prefix in _PASS_PREFIXES if prefix != ":"}
    for header in refused:
        with pytest.raises(ValueError, match=header):
            Backend(dialect="openai", url="https://a", headers={header.title(): "x"})


def test_a_header_like_a_secret_s_is_none_where_only_a_part_of_a_word_is() -> None:
    assert [header for header in ("x-keyboard", "x-tokens", "monkey") if is_credential(header)] == []
    assert not is_ours("x-sluiced")


# ---- where a team's calls may go -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("providers", "regions", "admitted"),
    [
        (None, None, {"swe", "own", "claude"}),
        ({"azure"}, None, {"swe"}),
        ({"azure", "anthropic"}, None, {"swe", "claude"}),
        (None, {"swedencentral"}, {"swe"}),
        ({"anthropic"}, {"swedencentral"}, set()),
    ],
)
def test_a_backend_of_which_nobody_said_where_it_is_fits_no_list(
    providers: set[str] | None, regions: set[str] | None, admitted: set[str]
) -> None:
    backends = {**TWO, "claude": {"dialect": "anthropic", "url": "https://api.anthropic.com"}}
    known = compiled.without_policies(Gateway.model_validate({"backends": backends, "models": {"m": ON_SWE}}))
    limits = [None if names is None else frozenset(names) for names in (providers, regions)]
    team = Team("t", "a", "standard", providers=limits[0], regions=limits[1])
    assert {name for name, one in known.backends.items() if team.admits(one)} == admitted


# ---- how backends are spared -----------------------------------------------------------------------


def test_backends_are_watched_by_what_is_deployed_there() -> None:
    targets = [[{"backend": "swe", "model": "a-swe"}, {"backend": "swe"}], [{"backend": "swe", "model": "a-swe"}]]
    given = gateway(a={"targets": targets}, off={"enabled": False})
    assert watched(given) == {"swe": Watched(frozenset({"a-swe", "a", "off"})), "own": Watched(frozenset())}


def test_what_a_backend_does_not_say_of_its_cooling_is_as_usual() -> None:
    own = {**TWO["own"], "cooling": {"failures": 2, "open_for": "500ms", "longest_wait": 90}}
    usual = {"cooling": {"default_wait": "2s", "failures": 9, "longest_open": "1h"}}
    tree = {"backends": {**TWO, "own": own}, "models": {"m": ON_SWE}, "routing": usual}
    found = watched(Gateway.model_validate(tree))
    assert found["swe"].cooling == Cooling(default_wait=2, failures=9, longest_open=3600)
    assert found["own"].cooling == Cooling(default_wait=2, longest_wait=90, failures=2, open_for=0.5, longest_open=3600)


TIMES = st.integers(1, 80_000)
GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "default_wait": TIMES,
        "longest_wait": TIMES,
        "failures": st.integers(1, 1000),
        "open_for": TIMES,
        "longest_open": TIMES,
    },
)


@hypothesis.given(GIVEN, GIVEN)
def test_what_is_said_nearer_to_a_backend_wins_field_by_field(usual: dict[str, int], own: dict[str, int]) -> None:
    found = cooling(SpokenCooling(**usual), OwnCooling(**own))
    assert dataclasses.asdict(found) == {**dataclasses.asdict(Cooling()), **usual, **own}


def test_pauses_can_be_switched_off() -> None:
    own = {**TWO["own"], "cooling": {"longest_wait": "0s"}}
    tree = {"backends": {**TWO, "own": own}, "models": {"m": ON_SWE}}
    assert watched(Gateway.model_validate(tree))["own"].cooling == Cooling(longest_wait=0)
    tree = {"backends": TWO, "models": {"m": ON_SWE}, "routing": {"cooling": {"longest_wait": 0}}}
    assert watched(Gateway.model_validate(tree))["swe"].cooling == Cooling(longest_wait=0)


def test_without_a_word_backends_are_spared_as_the_code_has_it() -> None:
    assert watched(gateway())["swe"].cooling == Cooling()


# ---- what is hardly meant --------------------------------------------------------------------------


def test_what_is_named_to_serve_and_is_not_enabled_is_doubted() -> None:
    limits = {"day": {"tokens": 5, "per": "day", "only": {"models": ["m"]}, "fallback": "other"}}
    tree = {
        "backends": TWO,
        "models": {
            "m": {**ON_SWE, "fallback": {"content_filter": "other"}},
            "off": {**ON_SWE, "enabled": False, "aliases": ["other"]},
        },
        "default_models": {"speech": "off", "moderations": "m"},
        "policies": {"limits": limits},
    }
    assert list(doubts(Gateway.model_validate(tree), 0)) == [
        (("default_models", "speech"), "off is not enabled"),
        (("policies", "limits", "day", "fallback"), "off is not enabled"),
        (("models", "m", "fallback", "content_filter"), "off is not enabled"),
    ]


@pytest.mark.parametrize(
    ("own", "others", "said"),
    [
        ("5s", None, ["is not in force while other, its fallback, has none"]),
        ("5s", "6s", ["is not in force: that of other, its fallback, is longer"]),
        ("5s", "5s", []),
        (None, "5s", []),
    ],
)
def test_a_time_that_another_models_takes_the_place_of_is_doubted(
    own: str | None, others: str | None, said: list[str]
) -> None:
    both = {"content_filter": "other", "context_window": "other"}
    models = {"m": {**ON_SWE, "first_byte": own, "fallback": both}, "other": {**ON_SWE, "first_byte": others}}
    found = doubts(Gateway.model_validate({"backends": TWO, "models": models}), 0)
    assert list(found) == [(("models", "m", "first_byte"), text) for text in said]


def test_a_sunset_is_doubted_from_its_day_on() -> None:
    given = gateway(m={"retired": {"old": {"since": "2026-01-01", "sunset": "2026-06-30"}}})
    day = datetime(2026, 6, 30, tzinfo=UTC).timestamp()
    assert list(doubts(given, day - 1)) == []
    (doubt,) = doubts(given, day)
    assert doubt[0] == ("models", "m", "retired", "old", "sunset")


# ---- by environment variables alone ----------------------------------------------------------------

ALONE = {
    "SLUICE__BACKENDS__AZURE_PTU": '{dialect: azure-openai, url: "https://ptu.openai.azure.com", region: eu}',
    "SLUICE__BACKENDS__AZURE_PTU__CREDENTIAL__ENV": "PTU_KEY",
    "SLUICE__BACKENDS__SWE__DIALECT": "azure-openai",
    "SLUICE__BACKENDS__SWE__URL": "https://swe.openai.azure.com",
    "SLUICE__BACKENDS__SWE__API_VERSION": "2024-10-21",
    "SLUICE__BACKENDS__SWE__CREDENTIAL__FILE": "/run/secrets/swe",
    "SLUICE__BACKENDS__SWE__COOLING__LONGEST_WAIT": "2m",
    "SLUICE__BACKENDS__FRA": '{dialect: azure-openai, url: "https://${FRA_NAME}.openai.azure.com"}',
    "SLUICE__BACKENDS__COPILOT__DIALECT": "openai",
    "SLUICE__BACKENDS__COPILOT__URL": "https://api.githubcopilot.com",
    "SLUICE__BACKENDS__COPILOT__HEADERS__COPILOT_INTEGRATION_ID": "vscode-chat",
    "SLUICE__MODELS__GPT_4O__TARGETS": "[[{backend: azure-ptu, model: gpt-4o-ptu}], "
    '[{backend: swe, weight: 3}, {backend: fra, model: gpt-4o-fr, weight: "${FRA_SHARE}"}]]',
    "SLUICE__MODELS__GPT_4O__ALIASES": "[azure-gpt-4o]",
    "SLUICE__MODELS__GPT_4O__RETIRED__GPT_4__SINCE": "2026-01-31",
    "SLUICE__MODELS__GPT_4O__ENABLED": "true",
    "SLUICE__ROUTING__COOLING__FAILURES": "3",
    "FRA_NAME": "contoso-fra",
    "FRA_SHARE": "2",
}


def test_backends_weights_and_secrets_by_the_environment_alone() -> None:
    given = load(None, ALONE)
    known = compiled.without_policies(given)
    targets = [
        [(target.backend.name, target.model, target.weight) for target in group]
        for group in known.models["azure-gpt-4o"].groups
    ]
    assert targets == [[("azure-ptu", "gpt-4o-ptu", 1)], [("swe", "gpt-4o", 3), ("fra", "gpt-4o-fr", 2)]]
    secrets = {
        name: one.credential and (one.credential.env, one.credential.file) for name, one in given.backends.items()
    }
    assert secrets == {
        "azure-ptu": ("PTU_KEY", None),
        "swe": (None, Path("/run/secrets/swe")),
        "fra": None,
        "copilot": None,
    }
    assert given.backends["fra"].url == "https://contoso-fra.openai.azure.com"
    assert given.backends["copilot"].headers == {"copilot-integration-id": "vscode-chat"}
    assert known.models["gpt-4"].retired["gpt-4"].since == int(datetime(2026, 1, 31, tzinfo=UTC).timestamp())
    assert watched(given)["swe"].cooling == Cooling(longest_wait=120, failures=3)


def test_the_environment_adds_a_backend_to_a_file_and_switches_a_model_off(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "backends: {swe: {dialect: openai, url: https://swe.example}}\n"
        "models: {gpt-4o: {targets: [[{backend: swe, weight: 3}]]}, phi-4: {targets: [[{backend: swe}]]}}\n"
    )
    environ = {
        "SLUICE__BACKENDS__KAITO": '{dialect: openai, url: "http://workspace-phi-4.models.svc:80"}',
        "SLUICE__MODELS__PHI_4__TARGETS": "[[{backend: kaito, model: microsoft/phi-4}]]",
        "SLUICE__MODELS__GPT_4O__ENABLED": "false",
    }
    known = compiled.without_policies(load(file, environ))
    assert set(known.models) == {"phi-4"}
    assert known.models["phi-4"].groups[0][0].backend.name == "kaito"


# ---- the example -----------------------------------------------------------------------------------


def test_the_example_has_every_kind_of_backend_and_of_setting() -> None:
    given = Gateway.model_validate(YAML(typ="safe").load(EXAMPLE))
    assert {one.dialect for one in given.backends.values()} == set(Dialect)
    assert {one.whose for one in given.backends.values()} == {
        *("azure", "openai", "anthropic", "google", "xai", "github"),
        "contoso",  # its own
    }
    assert any(one.api_version for one in given.backends.values())
    for setting in ("headers", "health", "cooling", "region", "provider", "cap_field", "surfaces"):
        assert any(getattr(one, setting) for one in given.backends.values()), setting
    for setting in ("aliases", "retired", "modality", "affinity", "first_byte", "tiers", "price", "context"):
        assert any(getattr(one, setting) for one in given.models.values()), setting
    assert not all(one.enabled for one in given.models.values())
    first, second = given.models["gpt-4o"].targets[:2]
    assert [target.backend for target in first] == ["azure-ptu"]
    assert [target.weight for target in second] == [3, 1]


def test_no_backend_of_the_example_is_left_over() -> None:
    found = watched(Gateway.model_validate(YAML(typ="safe").load(EXAMPLE)))
    assert [name for name, one in found.items() if not one.models] == []


def test_an_editor_accepts_the_example() -> None:
    assert mistakes(json_schema(), YAML(typ="safe").load(EXAMPLE)) == []


# ---- models.md -------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "models.md").read_text()


def test_the_examples_of_the_page_fit_each_other() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    of_a_team = [text for text in examples if text.startswith("# teams/ledger.yaml")]
    whole, routing, team = (YAML(typ="safe").load(text) for text in (*examples[:2], *of_a_team))
    given = Gateway.model_validate({**whole, **routing})
    places = offer(given).places["gpt-4o"]
    file = TeamFile.model_validate(team)
    assert places == {("azure", region) for region in file.regions or ()}
    assert {("azure",)} == {file.providers}
    (since,) = re.findall(r"`deprecation: @([0-9]+)`", PAGE)
    assert given.models["gpt-4o"].retired["gpt-4"].compiled().since == int(since)


def test_the_page_s_configuration_by_environment_alone_is_one() -> None:
    (block,) = re.findall(r"```sh\n(.*?)sluice up\n```", PAGE, re.DOTALL)
    run = subprocess.run(["/bin/sh", "-c", f"{block}\nenv -0"], env={}, capture_output=True, text=True, check=True)
    environ = dict(entry.split("=", 1) for entry in run.stdout.split("\0") if entry)
    known = compiled.without_policies(load(None, environ))
    groups = known.models["gpt-4o"].groups
    assert [[(target.backend.name, target.weight) for target in group] for group in groups] == [
        [("swe", 3), ("fra", 1)],
        [("copilot", 1)],
    ]


def test_the_page_names_every_kind_of_backend_of_the_example_and_where_its_credential_goes() -> None:
    table = [row.split("|") for row in PAGE.splitlines() if row.startswith("| ") and "://" in row]
    wanted = {"openai": "Authorization: Bearer", "azure-openai": "api-key", "anthropic": "x-api-key"}
    wanted["gemini"] = "x-goog-api-key"
    told = []
    for _, _, dialect, url, credential, _ in table:
        (spoken,) = [name for name in wanted if f"`{name}`" in dialect]
        (written,) = re.findall(r"`(https?://[^`]*)`", url)[:1]
        told.append((spoken, backend(dialect=spoken, url=written).provider))
        assert wanted[spoken] in credential or "none" in credential
    example = Gateway.model_validate(YAML(typ="safe").load(EXAMPLE))
    known = {(one.dialect, one.whose) for one in example.backends.values() if one.whose != "contoso"}
    assert known <= set(told)


def test_every_modality_and_provider_of_the_code_is_on_the_page() -> None:
    assert set(re.findall(r"`(\w+)`", PAGE)) >= {*Modality, "openai", "azure", "anthropic", "google", "xai", "github"}
    for name in ("default_wait", "longest_wait", "failures", "open_for", "longest_open"):
        assert f"`{name}" in PAGE
