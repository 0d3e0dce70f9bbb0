"""The verdict on a crowd at a budget: that it sees what was overspent, who was refused in vain, what is unexplained."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from loadtest.budgets import INPUT, OUTPUT, Verdict, judge, requested, settings
from loadtest.overspend import COLUMNS, Setup, missed, row
from loadtest.spenders import Ask, Spent, Told, alike, keeps_its_word, outcomes, spent_at, unruly

GOOD = Verdict("tokens", 100, admitted=3, refused=1, failed=0, held=90, smallest=30, used=60, above=0, causes={})


@pytest.mark.parametrize(
    ("changes", "exact"),
    [
        ({}, True),
        ({"smallest": None, "refused": 0}, True),
        ({"smallest": 11}, True),
        ({"smallest": 10}, False),  # it would have fitted
        ({"held": 100}, True),
        ({"held": 101}, False),
        ({"failed": 1}, False),
    ],
)
def test_a_budget_is_shared_out_exactly_or_not(changes: Mapping[str, Any], exact: bool) -> None:
    verdict = replace(GOOD, **changes)
    assert verdict.exact is exact
    assert bool(missed("alike", verdict)) is not exact


@pytest.mark.parametrize(
    ("changes", "explained"),
    [
        ({"used": 100}, True),
        ({"used": 101}, False),
        ({"used": 101, "above": 1}, True),
        ({"used": 110, "above": 9}, False),
        ({"failed": 1}, False),
    ],
)
def test_what_was_overspent_is_explained_or_not(changes: Mapping[str, Any], explained: bool) -> None:
    verdict = replace(GOOD, **changes)
    assert verdict.explained is explained
    assert bool(missed("unruly", verdict)) is not explained


def test_a_crowd_is_judged_by_its_records() -> None:
    ask = Ask("chat", "m")
    told = [
        Told(ask, 200, {"x-request-id": "a"}),
        Told(ask, 200, {"x-request-id": "b"}),
        refusal(ask, "tokens", "tokens per hour (TPH): Limit 100, Used 90, Requested 45."),
        refusal(ask, "requests", "requests per hour (RPH): Limit 1, Used 1, Requested 1."),
        Told(ask, 503),
    ]
    held = {"input": 10, "output": 20, "money": 7}
    records: dict[str, dict[str, Any]] = {
        "a": {"held": held},
        "b": {"held": held, "overspent": {"output_above_cap": 5}, "overspent_money": 9},
    }
    tokens = judge("tokens", 100, told, [Spent(1, 10, 25), Spent(1, 1, 2)], records)
    assert tokens == Verdict("tokens", 100, 2, 2, 1, 60, 45, 38, 5, {"output_above_cap": 5})
    money = judge("money", 100, told, [Spent(2, 10, 25)], records)
    assert (money.held, money.used, money.above, money.smallest) == (14, 10 * INPUT + 25 * OUTPUT, 9, None)
    requests = judge("requests", 2, told, [Spent(2, 10, 25)], records)
    assert (requests.held, requests.used, requests.smallest, requests.overspent) == (2, 2, 1, 0)
    assert outcomes(told) == {"admitted": 2, "refused": 2, "failed": 1}


def refusal(ask: Ask, limit: str, message: str) -> Told:
    return Told(ask, 429, {"x-sluice-limit": limit}, {"message": message})


def test_an_amount_of_money_is_read_from_a_refusal() -> None:
    ask = Ask("chat", "m")
    assert (
        requested("money", refusal(ask, "money", "Limit 0.04 USD, Used 0.01 USD, Requested 0.000537 USD.")) == 537_000
    )
    with pytest.raises(ValueError, match="does not tell"):
        requested("money", refusal(ask, "money", "no"))


def test_the_unruly_are_as_unruly_as_said() -> None:
    models = {"chat": ("m",), "messages": ("c",), "responses": ("m",)}
    asks = list(unruly(3000, models, seed=7))
    assert asks == list(unruly(3000, models, seed=7)) != list(unruly(3000, models, seed=8))
    assert 0.03 < share(asks, lambda ask: ask.fake["ignores_cap"]) < 0.07
    assert 0.07 < share(asks, lambda ask: ask.fake["reasoning_tokens"]) < 0.13
    free = [ask for ask in asks if ask.surface != "messages"]
    assert 0.28 < share(free, lambda ask: ask.cap is None) < 0.38
    assert {ask.fake["tokens_percent"] for ask in asks} == set(range(70, 131))
    assert all(ask.cap is not None for ask in asks if ask.surface == "messages")
    assert 0.8 < share(asks, keeps_its_word) < 0.9


def share(asks: list[Ask], which: Any) -> float:
    return sum(bool(which(ask)) for ask in asks) / len(asks)


def test_a_row_stands_under_its_columns() -> None:
    line = row(Setup(2, 1, 200), "unruly", replace(GOOD, causes={"output_above_cap": 5}))
    assert line.split()[: len(COLUMNS)] == ["2", "1", "200", "unruly", "tokens", "100", "3", "1", "0", "0"]
    assert line.endswith("caused: output_above_cap 5")


def test_a_call_is_written_as_its_surface_wants_it() -> None:
    assert alike(2, "m", cap=9)[1].stream
    assert b'"max_tokens":50' in Ask("messages", "c").content()
    assert b"max" not in Ask("responses", "m", cap=None).content()
    assert spent_at({"by_model": {"m": {"calls": 1, "input_tokens": 2, "output_tokens": 3}}}) == {"m": Spent(1, 2, 3)}


def test_each_round_has_models_and_limits_of_its_own() -> None:
    given = settings("http://127.0.0.1:1", "memory://", 1, rounds=2)
    limited = {model for limit in given["policies"]["limits"].values() for model in limit["only"]["models"]}
    assert limited == set(given["models"])
