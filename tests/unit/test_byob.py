"""What a gateway allows teams to bring, and what becomes of that in its catalogue."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from extproc.config.backends import Backend, Cooling
from extproc.config.byob import (
    Byob,
    OwnBackend,
    OwnCredential,
    OwnModel,
    TeamBackends,
    credential_of,
    endpoint_trouble,
    entries,
    mistakes,
    written,
)
from extproc.config.compile import without_policies
from extproc.config.loader import ConfigError, load
from extproc.config.models import Model
from extproc.config.routing import watched
from extproc.config.schema import Gateway
from extproc.model import Caller, Team
from extproc.refusals import MODEL_NOT_FOUND, Refused
from extproc.stages import state
from extproc.stages.route import model_for
from extproc.surfaces import locate

Json = dict[str, Any]

WHERE = {"env": "SLUICE_TEAM_{team}_", "files": "/etc/sluice/teams/{team}"}
BYOB = Byob.model_validate({"hosts": ["llm.example.com", "*.corp.example", "93.184.216.34"], "credentials": WHERE})
OURS: Json = {"dialect": "openai", "url": "https://llm.example.com/v1"}
TEAMS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,10}", fullmatch=True)
CHAT = locate("/v1/chat/completions")


def backend(**fields: Any) -> OwnBackend:
    return OwnBackend.model_validate({**OURS, **fields})


def model(*backends: str, **fields: Any) -> OwnModel:
    return OwnModel.model_validate({"targets": [[{"backend": name}] for name in backends], **fields})


def told(backends: Mapping[str, OwnBackend], models: Mapping[str, OwnModel], byob: Byob | None = BYOB) -> list[str]:
    return [f"{steps}: {message}" for steps, message in mistakes("finance", backends, models, byob, Cooling())]


# ---- where it may be ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["https://llm.example.com", "https://LLM.Example.com/v1", "https://a.b.corp.example/x", "https://93.184.216.34/v1"],
)
def test_a_listed_host_is_allowed(url: str) -> None:
    assert endpoint_trouble(url, BYOB) == ""


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://other.example.com", "is not among `byob.hosts`"),
        ("https://llm.example.com.", "no name that DNS can have"),
        ("https://llm.example.com.evil.example", "is not among"),
        ("https://corp.example", "is not among"),
        ("https://a..corp.example", "no name that DNS can have"),
        (f"https://{'a' * 64}.corp.example", "no name that DNS can have"),
        (f"https://{'.'.join(['abcdefghi'] * 26)}.corp.example", "no name that DNS can have"),
        ("https://llm.example.com:8443", "the port 8443 is not among `byob.ports`"),
        ("http://llm.example.com:443", "must be https"),
        ("https://2130706433/v1", "unusual spelling"),
        ("https://0x7f.1/v1", "unusual spelling"),
        ("https://127.0.0.1", "is not among"),
        ("https://[::ffff:93.184.216.34]", "is not among"),
    ],
)
def test_any_other_place_is_refused(url: str, why: str) -> None:
    assert why in endpoint_trouble(url, BYOB)
    assert why in " ".join(told({"ours": backend(url=url)}, {}))


def test_a_private_address_takes_leave_and_its_place_in_the_list() -> None:
    hosts = ["10.1.2.3", "[fd00::1]"]
    open_ = Byob.model_validate({"hosts": hosts, "private": True, "ports": [8000]})
    assert [endpoint_trouble(f"http://{host}:8000", open_) for host in (*hosts, "[FD00:0::0001]")] == [""] * 3
    assert "is not among" in endpoint_trouble("http://10.1.2.4:8000", open_)
    with pytest.raises(ValidationError, match=r"is a private address, and `byob\.private`"):
        Byob.model_validate({"hosts": hosts})
    with pytest.raises(ValidationError, match="is never allowed"):
        Byob.model_validate({"hosts": ["169.254.169.254"], "private": True})


@pytest.mark.parametrize(
    "host", ["*", "*.", "", "a b", "https://a.example", "a.example:443", "10.1", "a*.example", "-"]
)
def test_a_list_holds_hosts_only(host: str) -> None:
    with pytest.raises(ValidationError):
        Byob.model_validate({"hosts": [host]})


# ---- which secret goes along ---------------------------------------------------------------------------


@given(TEAMS, TEAMS, st.from_regex(r"[A-Z0-9]{1,8}", fullmatch=True))
def test_a_variable_is_of_one_team_alone(one: str, other: str, word: str) -> None:
    given = OwnCredential(env=f"SLUICE_TEAM_{one.upper().replace('-', '_')}_{word}")
    assert credential_of(given, one, BYOB).env == given.env
    if one != other:
        with pytest.raises(ValueError, match="a variable of this team is"):
            credential_of(given, other, BYOB)


@given(TEAMS, st.from_regex(r"[A-Z][A-Z0-9_]{0,30}", fullmatch=True))
def test_no_team_names_a_variable_that_does_not_begin_with_its_own_name(team: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"a variable of this team is|should match|String"):
        credential_of(OwnCredential(env=f"X{name}"), team, BYOB)


@given(TEAMS, st.text(max_size=20))
def test_a_file_lies_in_the_teams_folder(team: str, name: str) -> None:
    try:
        given = OwnCredential.model_validate({"file": name})
    except ValidationError:
        return
    found = credential_of(given, team, BYOB).file
    assert found is not None
    assert found.parent == Path("/etc/sluice/teams") / team
    assert ".." not in found.parts


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../retail/ours", "a/b", "..", ".", ".hidden", "", "a\n", "a\0b", "~/x"]
)
def test_a_file_is_no_path(name: str) -> None:
    with pytest.raises(ValidationError, match="must be the name of a file in the team's folder"):
        OwnCredential.model_validate({"file": name})


@pytest.mark.parametrize(
    "given",
    [
        {"key_vault": {"url": "https://ours.vault.azure.net", "secret": "ours"}},
        {"entra": {}},
        {"env": "SLUICE_TEAM_FINANCE_OURS", "file": "ours"},
        {},
        {"env": None, "file": None},
        "sk-the-secret-itself",
    ],
)
def test_no_other_source_is_a_teams(given: object) -> None:
    with pytest.raises(ValidationError):
        backend(credential=given)


def test_without_a_place_for_them_there_are_no_secrets() -> None:
    byob = Byob.model_validate({"hosts": ["llm.example.com"]})
    given = {
        "one": backend(credential={"env": "SLUICE_TEAM_FINANCE_OURS"}),
        "two": backend(credential={"file": "ours"}),
        "three": backend(),
    }
    assert told(given, {}, byob) == [
        f"('backends', '{name}', 'credential', '{kind}'): no {what} holds credentials of teams: "
        f"`byob.credentials.{kind}{plural}` of the gateway is absent"
        for name, kind, what, plural in (("one", "env", "variable", ""), ("two", "file", "file", "s"))
    ]


@pytest.mark.parametrize(
    "value", ["{team}_", "SLUICE_{team}_", "SLUICE__{team}_", "SLUICE_TEAM_{team}", "SLUICE_TEAM_"]
)
def test_a_prefix_is_one_that_nothing_else_begins_with(value: str) -> None:
    with pytest.raises(ValidationError, match="two words at least"):
        Byob.model_validate({"hosts": ["a.example"], "credentials": {"env": value}})


@pytest.mark.parametrize(
    "value", ["/etc/teams", "/etc/{team}x", "/etc/{team}/{team}", "/etc/x/../{team}", "/{other}/{team}"]
)
def test_a_folder_is_each_teams_own(value: str) -> None:
    with pytest.raises(ValidationError, match=r"must have \{team\} as one of its folders"):
        Byob.model_validate({"hosts": ["a.example"], "credentials": {"files": value}})


def gateway(**more: Any) -> Json:
    ours = {"swe": {"dialect": "openai", "url": "https://swe.example"}}
    return {"backends": ours, "models": {"gpt-4o": {"targets": [[{"backend": "swe"}]]}}, **more}


@pytest.mark.parametrize(
    ("more", "where"),
    [
        (
            {
                "services": {
                    "s": {"api": "presidio", "url": "https://s.example", "credential": {"env": "SLUICE_TEAM_A_B"}}
                }
            },
            "env",
        ),
        ({"identity": {"signing_key": {"env": "SLUICE_TEAM_A_B"}}}, "env"),
        ({"identity": {"signing_key": {"file": "/etc/sluice/teams/a/key"}}}, "files"),
        ({"state_dir": "/etc/sluice/teams/var"}, "files"),
        ({"teams": "/etc/sluice/x/../teams"}, "files"),
        (
            {"listener": {"tls": {"certificate": "/etc/tls/a", "private_key": "/etc/sluice/teams/tls/key"}}},
            "files",
        ),
    ],
)
def test_what_is_the_gateways_own_does_not_lie_among_the_secrets_of_teams(more: Json, where: str) -> None:
    given = gateway(byob={"hosts": ["a.example"], "credentials": WHERE}, **more)
    with pytest.raises(ValidationError, match=rf"byob\.credentials\.{where}: "):
        Gateway.model_validate(given)
    del given["byob"]
    Gateway.model_validate(given)


# ---- as a team writes it -------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [{"identity_header": True}, {"no_such_field": 1}])
def test_what_is_not_for_teams_is_refused_of_a_backend(field: Json) -> None:
    with pytest.raises(ValidationError):
        backend(**field)


@pytest.mark.parametrize(
    "field",
    [
        {"tokenizer": "/etc/passwd"},
        {"tiers": ["gold"]},
        {"aliases": ["gpt-4o"]},
        {"retired": {"old": {"since": "2026-01-01"}}},
        {"enabled": False},
    ],
)
def test_what_is_not_for_teams_is_refused_of_a_model(field: Json) -> None:
    with pytest.raises(ValidationError, match="is for the gateway's own configuration"):
        model("ours", **field)


def test_a_field_that_comes_later_is_not_a_teams_until_somebody_says_so() -> None:
    """Whoever adds one decides whether teams may have it, here or in the two lists of extproc.config.byob."""
    kept = {
        "backends": set(OwnBackend.model_json_schema()["properties"]),
        "models": set(OwnModel.model_json_schema()["properties"]),
    }
    not_for_teams = {
        "backends": {"identity_header"},
        "models": {"enabled", "aliases", "retired", "tiers", "tokenizer", "fallback", "shadow"},
    }
    assert set(Backend.model_fields) - kept["backends"] == not_for_teams["backends"]
    assert set(Model.model_fields) - kept["models"] <= not_for_teams["models"]


def test_targets_are_backends_of_the_same_file() -> None:
    models = {"llama": model("ours", "swe", "oura")}
    assert told({"ours": backend()}, models) == [
        "('own_models', 'llama', 'targets', 1, 0, 'backend'): there is no backend 'swe' under `backends` of this file",
        "('own_models', 'llama', 'targets', 2, 0, 'backend'): there is no backend 'oura' under `backends` of this file "
        "(did you mean ours?)",
    ]
    idle = OwnModel.model_validate({"targets": [[{"backend": "ours", "weight": 0}]]})
    assert "at least one target with a weight above 0" in " ".join(told({"ours": backend()}, {"llama": idle}))


def test_pauses_fit_those_of_the_gateway() -> None:
    assert "must be at most `longest_wait`" in " ".join(told({"ours": backend(cooling={"longest_wait": 1})}, {}))


def test_a_gateway_without_the_section_allows_nothing() -> None:
    assert told({"ours": backend()}, {"llama": model("ours")}, None) == [
        "('backends',): the gateway allows no backends of teams: it has no `byob`",
        "('own_models',): the gateway allows no backends of teams: it has no `byob`",
    ]
    assert told({}, {}, None) == []


def test_what_is_written_reads_as_it_was() -> None:
    full = backend(credential={"file": "ours"}, headers={"x-a": "b"}, cooling={"open_for": "3s"}, health={"path": "/h"})
    free = model("ours", price={"request": 0}, first_byte="1500ms", context=10, affinity="team")
    backends, models = entries(written({"ours": full}, {"llama": free}))
    assert OwnBackend.model_validate(backends["ours"]) == full
    assert OwnModel.model_validate(models["llama"]) == free
    assert written({}, {}) == ""
    assert entries("") == ({}, {})


@pytest.mark.parametrize("text", ["{", "[]", "1", '{"backends": 1}', '{"own_models": []}', "null"])
def test_what_cannot_be_read_is_told_apart(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        entries(text)


def test_nobody_writes_what_the_database_fills(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        'backends: {a: {dialect: openai, url: "https://a"}}\nmodels: {m: {targets: [[{backend: a}]]}}\n'
        "team_backends: {}\n"
    )
    with pytest.raises(ConfigError, match=r"gateway\.yaml:3: team_backends: is filled from the database"):
        load(file, {})


# ---- in the gateway ------------------------------------------------------------------------------------


def brought(*teams: str, **more: Any) -> Gateway:
    """A gateway to which these teams bring a backend `swe` and models `llama` and `gpt-4o`, named as its own are."""
    one = {"dialect": "openai", "url": "https://llm.example.com/v1", "region": "own"}
    models = {name: Model.model_validate({"targets": [[{"backend": "swe"}]]}) for name in ("llama", "gpt-4o")}
    own = TeamBackends(backends={"swe": Backend.model_validate(one)}, models=models)
    return Gateway.model_validate({**gateway(), **more}).model_copy(update={"team_backends": dict.fromkeys(teams, own)})


def caller(team: str | None, models: frozenset[str] | None = None, granted: frozenset[str] = frozenset()) -> Caller:
    return Caller("key_1", "app", models, team=None if team is None else Team(team, "area", "standard", granted))


def backends_of(given: Gateway, who: Caller, named: str) -> list[str]:
    assert CHAT is not None
    found = model_for(who, CHAT, named, without_policies(given))
    return [target.backend.name for group in found.groups for target in group]


def test_a_teams_own_model_comes_first_and_for_nobody_else() -> None:
    given = brought("finance", "retail")
    assert backends_of(given, caller("finance"), "llama") == ["finance.swe"]
    assert backends_of(given, caller("retail"), "llama") == ["retail.swe"]
    assert backends_of(given, caller("retail"), "gpt-4o") == ["retail.swe"]
    assert backends_of(given, caller("plain", granted=frozenset({"gpt-4o"})), "gpt-4o") == ["swe"]
    for other in (caller("plain", granted=frozenset({"llama"})), caller(None), caller("plain", frozenset({"llama"}))):
        with pytest.raises(Refused) as refused:
            backends_of(given, other, "llama")
        assert refused.value.refusal.kind is MODEL_NOT_FOUND


def test_a_key_for_some_models_has_no_others_of_the_team() -> None:
    given = brought("finance")
    assert backends_of(given, caller("finance", frozenset({"llama"})), "llama") == ["finance.swe"]
    with pytest.raises(Refused):
        backends_of(given, caller("finance", frozenset({"gpt-4o-mini"})), "llama")


def test_a_list_shows_each_team_its_own() -> None:
    catalogue = without_policies(brought("finance"))
    assert [(one.name, one.owner) for one in catalogue.listed(caller("finance").team)] == [
        ("gpt-4o", "finance"),
        ("llama", "finance"),
    ]
    assert [(one.name, one.owner) for one in catalogue.listed(caller("plain").team)] == [("gpt-4o", "")]
    assert [(one.name, one.owner) for one in catalogue.listed()] == [("gpt-4o", "")]


def test_state_is_found_at_the_gateways_and_at_the_teams_own_backend_of_a_model() -> None:
    catalogue = without_policies(brought("finance"))
    team = caller("finance").team
    assert state.maker(catalogue, "gpt-4o", "swe", team).owner == ""
    assert state.maker(catalogue, "gpt-4o", "finance.swe", team).owner == "finance"
    for other in (None, caller("plain").team):
        with pytest.raises(Refused):
            state.maker(catalogue, "gpt-4o", "finance.swe", other)


def test_it_is_watched_by_its_own_name() -> None:
    found = watched(brought("finance"))
    assert {name: set(one.models) for name, one in found.items()} == {
        "swe": {"gpt-4o"},
        "finance.swe": {"llama", "gpt-4o"},
    }


def test_it_survives_the_way_to_a_worker() -> None:
    given = brought("finance", "retail", byob={"hosts": ["llm.example.com"]})
    assert Gateway.model_validate_json(given.model_dump_json()) == given


def test_a_limit_of_the_gateway_may_name_what_a_team_brings_where_teams_may() -> None:
    policies = {"limits": {"few": {"requests": 1, "per": "minute", "only": {"backends": ["finance.swe"]}}}}
    Gateway.model_validate(gateway(policies=policies, byob={"hosts": ["llm.example.com"]}))
    with pytest.raises(ValidationError, match=r"there is no backend 'finance\.swe'"):
        Gateway.model_validate(gateway(policies=policies))
