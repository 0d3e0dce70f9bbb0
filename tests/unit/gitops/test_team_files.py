"""From a folder of team files to what they say, and what people are told when that fails."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from extproc.config.problems import ConfigError
from extproc.config.schema import Gateway
from extproc.config.team_files import Offer, load_teams, offer
from extproc.config.teams import SurfaceName, TeamFile, json_schema
from extproc.surfaces import ALLOWABLE
from tests.support.json_schema import mistakes

MISTAKES = sorted((Path(__file__).parents[1] / "config" / "teams").glob("*.yaml"))
EXPECTED = "# => "
OFFER = Offer(
    areas=frozenset({"retail", "finance"}),
    models={"gpt-4o": None, "gpt-4o-mini": None, "claude": ("premium",)},
    public={"gpt-4o": "gpt-4o", "big": "gpt-4o", "gpt-4o-mini": "gpt-4o-mini", "claude": "claude"},
    backends=frozenset({"swe"}),
    redaction=frozenset({"strict"}),
    guardrails=frozenset({"default", "open"}),
    places={
        "gpt-4o": frozenset({("azure", "us"), ("azure", "sweden")}),
        "gpt-4o-mini": frozenset({("openai", "sweden"), ("azure", "us"), (None, None)}),
        "claude": frozenset({("azure", "us"), (None, None)}),
    },
)
FULL = """\
area: retail
owner: Anna@Example.com
tier: premium
models: [{name: big, tokensPerMinute: 5000, requestsPerMinute: 10}, {name: claude}]
ip_ranges: [10.0.0.0/8, "2001:db8::/32"]
redaction: strict
guardrails: default
providers: [azure]
regions: [sweden, us]
tags: {cost-centre: 4711, "owner's note": "line 1"}
members:
  - {user: bob@example.com}
  - {user: eve@example.com, role: viewer}
groups: [{id: 0f6a, role: viewer}]
service_accounts: [{name: ci, client_id: 11-22}, {name: batch}]
limits:
  budget: {money: 0.1, per: month, zone: Europe/Zurich, only: {models: [big], backends: [swe]}}
  calls: {concurrent: 20, scope: [user, model]}
keys:
  - {name: ci, service_account: ci, environment: prod, lifetime: 90d, models: [big], surfaces: [chat, responses]}
  - {name: Bob's laptop, user: BOB@example.com, lifetime: 12h, ip_ranges: [192.168.1.1]}
  - {name: spare, priority: low, limits: {minute: {tokens: 100, per: minute}}}
"""


def _team(folder: Path, text: str, name: str = "checkout") -> TeamFile:
    (folder / f"{name}.yaml").write_text(text)
    return load_teams(folder, OFFER)[name]


def _problems(folder: Path, offered: Offer = OFFER) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_teams(folder, offered)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


# ---- mistakes: each file of tests/unit/config/teams says what its reader is told --------------------


@pytest.mark.parametrize("file", MISTAKES, ids=lambda file: file.stem)
def test_a_mistake_is_told_with_its_file_line_and_field(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_SECRET", "s3cret")
    text = file.read_text()
    wanted = [line.removeprefix(EXPECTED) for line in text.splitlines() if line.startswith(EXPECTED)]
    (tmp_path / file.name).write_text(text)
    told = [line.removeprefix(file.name) for line in _problems(tmp_path)]
    assert told == [f":{line}" if line[0].isdigit() else f": {line}" for line in wanted]


def test_the_problems_of_all_files_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("area: retail\n")
    (tmp_path / "three.yaml").write_text("[")
    (tmp_path / "two.yaml").write_text(FULL.replace("big", "huge"))
    told = _problems(tmp_path)
    assert [line.partition(":")[0] for line in told] == ["one.yaml", "three.yaml", *["two.yaml"] * 3]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("TOPSECRET: 1\n")
    (tmp_path / "teams").mkdir()
    (tmp_path / "teams" / "evil.yaml").symlink_to("../secret")
    (tmp_path / "teams" / "gone.yaml").symlink_to("nowhere")
    (tmp_path / "teams" / "folder.yaml").symlink_to("..")
    (tmp_path / "teams" / "README.md").symlink_to("../secret")
    told = "is a symbolic link: what it shows could be any file of this machine"
    assert _problems(tmp_path / "teams") == [f"{name}.yaml: {told}" for name in ("evil", "folder", "gone")]


@pytest.mark.parametrize("width", [9, 60])
def test_aliases_that_stand_for_millions_are_not_written_out(tmp_path: Path, width: int) -> None:
    lines = (f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]\n" for level in range(1, 10))
    (tmp_path / "checkout.yaml").write_text("a0: &a0 [x, x, x]\n" + "".join(lines))
    assert _problems(tmp_path) == ["checkout.yaml: not usable: its aliases (*) repeat too much"]


def test_a_few_aliases_are_no_matter(tmp_path: Path) -> None:
    text = FULL.replace("ip_ranges: [10", "ip_ranges: &office [10").replace("[192.168.1.1]", "*office")
    assert _team(tmp_path, text).keys[1].ip_ranges == _team(tmp_path, text).ip_ranges != ()


def test_what_looks_like_a_team_file_is_not_passed_over(tmp_path: Path) -> None:
    _team(tmp_path, FULL)
    for name in ("a.yml", "b.json", "Big.yaml", "-x.yaml", "a b.yaml", "README.md", ".hidden.yaml", "CODEOWNERS"):
        (tmp_path / name).write_text(FULL)
    for name in ("nested", "nested.yaml", "..data"):
        (tmp_path / name).mkdir()
    name_rule = "its name is the team's: lower-case letters, digits and dashes, at most 63, no dash first"
    assert _problems(tmp_path) == [
        f"-x.yaml: {name_rule}",
        f"Big.yaml: {name_rule}",
        f"a b.yaml: {name_rule}",
        "a.yml: is not read: a team file ends in .yaml",
        "b.json: is not read: a team file ends in .yaml",
        "nested: is a folder: team files stand side by side",
        "nested.yaml: is a folder: team files stand side by side",
    ]


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    assert _problems(tmp_path / "none") == [f"{tmp_path / 'none'}: cannot be read (No such file or directory)"]


def test_an_empty_folder_has_no_teams(tmp_path: Path) -> None:
    assert load_teams(tmp_path, OFFER) == {}


def test_where_the_gateway_names_no_areas_any_will_do(tmp_path: Path) -> None:
    (tmp_path / "checkout.yaml").write_text(FULL.replace("retail", "anything"))
    assert load_teams(tmp_path, replace(OFFER, areas=frozenset()))["checkout"].area == "anything"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(
        st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>%@`\"'#?,<=~ \n\t$0.\x01é\ufeff"), max_size=60),
        st.lists(st.sampled_from(FULL.split(" ")), max_size=30).map(" ".join),
    )
)
def test_no_text_gives_anything_but_a_team_or_its_problems(text: str, tmp_path: Path) -> None:
    (tmp_path / "any.yaml").write_text(text)
    try:
        told = list(load_teams(tmp_path, OFFER))
    except ConfigError as error:
        told = [str(error)]
    assert all(told)


# ---- values ---------------------------------------------------------------------------------------


def test_a_team_in_full(tmp_path: Path) -> None:
    team = _team(tmp_path, FULL)
    assert (team.area, team.owner, team.tier) == ("retail", "anna@example.com", "premium")
    assert (team.redaction, team.guardrails) == ("strict", "default")
    assert (team.providers, team.regions) == (("azure",), ("sweden", "us"))
    assert team.tags == {"cost-centre": "4711", "owner's note": "line 1"}
    assert [(member.user, member.role) for member in team.members] == [
        ("bob@example.com", "developer"),
        ("eve@example.com", "viewer"),
    ]
    ci, laptop, spare = team.keys
    assert (ci.lifetime, laptop.lifetime, spare.lifetime) == (timedelta(days=90), timedelta(hours=12), None)
    assert (ci.models, ci.surfaces, spare.models, spare.surfaces) == (("big",), ("chat", "responses"), None, None)
    assert (laptop.user, laptop.ip_ranges) == ("bob@example.com", ("192.168.1.1/32",))


@pytest.mark.parametrize(
    ("places", "usable"),
    [
        ("", True),
        ("providers: [azure]", True),
        ("providers: [openai]", True),
        ("regions: [us]", True),
        ("providers: [azure]\nregions: [us]", True),
        ("providers: [openai]\nregions: [us]", False),
        ("providers: [azure]\nregions: [sweden]", False),
    ],
)
def test_a_model_has_a_target_that_is_at_one_of_the_team_s_places(tmp_path: Path, places: str, usable: bool) -> None:
    (tmp_path / "checkout.yaml").write_text(f"area: retail\nowner: a\nmodels: [{{name: gpt-4o-mini}}]\n{places}\n")
    if usable:
        assert load_teams(tmp_path, OFFER)
        return
    told = "checkout.yaml:3: models[0].name: gpt-4o-mini has no target in the team's providers and regions"
    assert _problems(tmp_path) == [told]


def test_every_model_may_be_granted_where_some_are_elsewhere(tmp_path: Path) -> None:
    text = 'area: retail\nowner: a\nmodels: [{name: "*"}]\nproviders: [openai]\n'
    assert _team(tmp_path, text).providers == ("openai",)


def test_a_gateway_offers_the_places_of_each_model_s_targets() -> None:
    backends = {
        "swe": {"dialect": "azure-openai", "url": "https://swe.openai.azure.com", "region": "sweden"},
        "own": {"dialect": "openai", "url": "http://vllm:8000", "provider": "contoso"},
        "any": {"dialect": "openai", "url": "https://llm.example"},
    }
    models = {
        "a": {"targets": [[{"backend": "swe"}], [{"backend": "own"}]]},
        "b": {"targets": [[{"backend": "any"}]], "aliases": ["c"]},
    }
    assert offer(Gateway.model_validate({"backends": backends, "models": models})).places == {
        "a": {("azure", "sweden"), ("contoso", None)},
        "b": {(None, None)},
    }


def test_limits_in_full(tmp_path: Path) -> None:
    team = _team(tmp_path, FULL)
    assert [(model.tokens_per_minute, model.requests_per_minute) for model in team.models] == [(5000, 10), (None, None)]
    assert (team.limits["budget"].money, team.limits["budget"].zone) == (Decimal("0.1"), "Europe/Zurich")
    assert team.limits["calls"].scope == ("user", "model")
    assert [(key.priority, list(key.limits)) for key in team.keys] == [("high", []), ("high", []), ("low", ["minute"])]


def test_where_no_limit_can_be_kept_each_is_refused_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "checkout.yaml").write_text(FULL)
    assert _problems(tmp_path, replace(OFFER, limits_refused="not here")) == [
        "checkout.yaml:4: models[0].tokensPerMinute: not here",
        "checkout.yaml:4: models[0].requestsPerMinute: not here",
        "checkout.yaml:17: limits.budget: not here",
        "checkout.yaml:18: limits.calls: not here",
        "checkout.yaml:22: keys[2].limits.minute: not here",
    ]
    (tmp_path / "checkout.yaml").write_text("{area: retail, owner: a, models: [{name: big}]}")
    assert list(load_teams(tmp_path, replace(OFFER, limits_refused="not here"))) == ["checkout"]


def test_two_required_fields_make_a_team(tmp_path: Path) -> None:
    team = _team(tmp_path, "{area: retail, owner: anna@example.com}")
    assert (team.tier, team.models, team.members, team.keys) == ("standard", (), (), ())
    assert (team.redaction, team.guardrails) == ("default", "default")
    assert (team.providers, team.regions) == (None, None)


def test_every_model_can_be_granted_and_a_key_may_have_one_of_them(tmp_path: Path) -> None:
    text = 'area: retail\nowner: a\nmodels: [{name: "*"}]\nkeys: [{name: ci, models: [big]}]\n'
    assert _team(tmp_path, text).models[0].name == "*"


def test_the_surfaces_of_a_key_are_those_that_can_be_allowed() -> None:
    assert get_args(SurfaceName) == ALLOWABLE


# ---- the published schema -------------------------------------------------------------------------


def test_an_editor_accepts_what_is_right() -> None:
    text = FULL.replace("4711", '"4711"').replace("192.168", '"192.168').replace("1.1]", '1.1"]')
    assert mistakes(json_schema(), YAML(typ="safe").load(text)) == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("owner: Anna@Example.com", "", "$: lacks owner"),
        ("tier:", "teir:", "$: no teir"),
        ("role: viewer", "role: boss", "$.members[1].role: enum ['team_admin', 'developer', 'viewer']"),
        ("lifetime: 90d", "lifetime: 3w", "$.keys[0].lifetime: pattern ^0*[1-9][0-9]{0,4}[dh]$"),
        ("name: claude}", "name: claude, tokens_per_minute: 1}", "$.models[1]: no tokens_per_minute"),
        ("concurrent: 20,", "concurent: 20,", "$.limits.calls: no concurent"),
        ("priority: low", "priority: top", "$.keys[2].priority: enum ['high', 'low']"),
    ],
)
def test_an_editor_underlines_what_is_wrong(before: str, after: str, told: str) -> None:
    text = FULL.replace("4711", '"4711"').replace(before, after, 1)
    assert mistakes(json_schema(), YAML(typ="safe").load(text)) == [told]


def test_every_field_is_described() -> None:
    schema = json_schema()
    for place in (schema, *schema["$defs"].values()):
        assert place["description"]
        assert [name for name, field in place["properties"].items() if "description" not in field] == []
