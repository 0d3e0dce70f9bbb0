"""Backends and models of a team's own, from its file into the plan and the directory."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from extproc.config.problems import ConfigError
from extproc.config.schema import Gateway
from extproc.config.team_files import load_teams, offer
from extproc.gitops.apply import Wish, apply
from extproc.gitops.declared import declared
from extproc.gitops.plan import Plan, make_plan
from extproc.gitops.view import team_fields
from extproc.stores.memory import MemoryDirectory
from extproc.stores.ports import ChangeSet, DirectoryStore
from tests.support.gitops import GATEWAY, Shelf

OFFER = offer(
    Gateway.model_validate(
        {
            **GATEWAY.model_dump(),
            "byob": {"hosts": ["*.corp.example"], "credentials": {"env": "SLUICE_TEAM_{team}_", "files": "/x/{team}"}},
        }
    )
)
NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
OWN = """\
area: retail
owner: anna@example.com
models: [{name: gpt-4o}]
backends:
  ours: {dialect: openai, url: "https://llm.corp.example/v1", region: eu, credential: {env: SLUICE_TEAM_CHECKOUT_OURS}}
own_models:
  llama: {targets: [[{backend: ours, model: llama-3.3}]], price: {request: 0}}
limits:
  few: {requests: 5, per: minute, only: {backends: [checkout.ours], models: [llama]}}
keys:
  - {name: app, models: [llama, big], limits: {one: {requests: 1, per: second, only: {models: [llama]}}}}
"""
PLAIN = "area: retail\nowner: anna@example.com\nmodels: [{name: gpt-4o}]\nkeys: [{name: app}]\n"


def wish(folder: Path, text: str) -> Wish:
    (folder / "checkout.yaml").write_text(text)
    return Wish(declared(GATEWAY, OFFER, load_teams(folder, OFFER)), OFFER)


def carried_out(store: DirectoryStore, wanted: Wish) -> Plan:
    return apply(store, wanted, Shelf(), lambda _: None, lambda *_: None, lambda: NOW)


def problems(folder: Path, *changes: tuple[str, str]) -> list[str]:
    text = OWN
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (folder / "checkout.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_teams(folder, OFFER)
    return [str(problem).partition(".yaml:")[2] for problem in caught.value.problems]


def test_keys_and_limits_may_name_them(tmp_path: Path) -> None:
    found = wish(tmp_path, OWN).declared
    assert found.keys["checkout", "app"].models == ("gpt-4o", "llama")
    (few,) = found.teams["checkout"].limits
    assert (few.only.backends, few.only.models) == (frozenset({"checkout.ours"}), frozenset({"llama"}))
    assert found.teams["checkout"].models == ("gpt-4o",)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([("llm.corp.example", "llm.example")], "5: backends.ours.url: the host llm.example is not among `byob.hosts`"),
        ([("CHECKOUT_OURS", "RETAIL_OURS")], "5: backends.ours.credential.env: a variable of this team is"),
        ([("backend: ours", "backend: swe")], "7: own_models.llama.targets[0][0].backend: there is no backend 'swe'"),
        (
            [("  llama: ", "  gpt-4o-mini: "), ("[llama]", "[gpt-4o]"), ("[llama, big]", "[big]")],
            "is the name of a model",
        ),
        ([("  llama: ", "  big: "), ("[llama]", "[gpt-4o]"), ("[llama, big]", "[big]")], "is the name of a model"),
        ([("[checkout.ours]", "[ours]")], "9: limits.few.only.backends[0]: there is no backend 'ours'"),
        ([("[checkout.ours]", "[finance.ours]")], "9: limits.few.only.backends[0]: there is no backend"),
        ([("[llama, big]", "[llama, phi]")], "11: keys[0].models[1]: there is no model 'phi'"),
        ([("[{name: gpt-4o}]", "[{name: llama}, {name: gpt-4o}]")], "3: models[0].name: needs no entry here"),
        ([("models: [{name: gpt-4o}]", "regions: [us]")], "3: regions[0]: no model has a target in the region 'us'"),
        ([("models: [{name: gpt-4o}]", "providers: [acme]"), (", region: eu", "")], "no model has a target in"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(changes: list[tuple[str, str]], told: str, tmp_path: Path) -> None:
    assert any(told in problem for problem in problems(tmp_path, *changes))


def test_regions_hold_for_own_backends_too(tmp_path: Path) -> None:
    assert wish(tmp_path, OWN.replace("models: [{name: gpt-4o}]", "regions: [eu]").replace(", big]", "]"))
    two = '  far: {dialect: openai, url: "https://far.corp.example", region: us}\nown_models:\n'
    two += "  phi: {targets: [[{backend: far}]]}\n"
    told = problems(
        tmp_path,
        ("models: [{name: gpt-4o}]", "regions: [eu]"),
        (", big]", "]"),
        ("own_models:\n", two),
    )
    assert told == ["8: own_models.phi: phi has no target in the team's providers and regions"]


def test_a_plan_shows_them_and_who_gains(tmp_path: Path) -> None:
    store = MemoryDirectory(lambda: NOW)
    carried_out(store, wish(tmp_path, PLAIN))
    made = make_plan(store.state(), (own := wish(tmp_path, OWN)).declared, own.offered, NOW)
    (step,) = made.teams
    fields: dict[str, Any] = {change.field: change.after for change in step.fields}
    assert "https://llm.corp.example/v1" in fields["backends"]["ours"]
    assert "SLUICE_TEAM_CHECKOUT_OURS" in fields["backends"]["ours"]
    assert "llama-3.3" in fields["own_models"]["llama"]
    gains = {(one.team, one.model): dict(one.gains) for one in made.access}
    assert gains == {("checkout", "llama"): {"users": 1, "keys": 1}}


def test_an_apply_is_all_there_is_to_do_and_takes_away_what_left(tmp_path: Path) -> None:
    store = MemoryDirectory(lambda: NOW)
    carried_out(store, wish(tmp_path, OWN))
    assert list(store.brought()) == ["checkout"]
    assert carried_out(store, wish(tmp_path, OWN.replace("region: eu", 'region: "eu"'))).is_empty()
    carried_out(store, wish(tmp_path, PLAIN))
    assert store.brought() == {}


def test_what_cannot_be_read_in_the_directory_is_a_change_and_no_crash(tmp_path: Path) -> None:
    store = MemoryDirectory(lambda: NOW)
    wanted = wish(tmp_path, OWN)
    carried_out(store, wanted)
    (team,) = store.state().teams
    damaged = type(team)(**{name: getattr(team, name) for name in team.__slots__} | {"brought": "{"})
    store.apply(ChangeSet(teams=(damaged,)), store.revision())
    assert team_fields(damaged)["backends"] == {"?": "cannot be read"}
    assert [step.name for step in carried_out(store, wanted).teams] == ["checkout"]
    assert store.state().teams == (team,)
