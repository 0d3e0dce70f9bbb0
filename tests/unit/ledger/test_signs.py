"""What people are to be told of, and by which id it is known."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.ledger import messages, signs
from extproc.ledger.events import read
from extproc.ledger.signs import Bound
from extproc.stores.alerts import AlertRow, Count, Sign
from tests.support.ledger import call

NOW = datetime(2026, 1, 31, 12)
HOUR = timedelta(hours=1)
PASSED: dict[str, Any] = {
    "key": "money/abc",
    "window": 1_767_225_600,
    "until": 1_769_904_000,
    "limit": "team/search/monthly",
    "measure": "money",
    "amount": 500 * 10**9,
    "used": 402_100_000_000,
    "percent": 80,
    "currency": "USD",
    "scope": "team search",
}
BOUND = Bound(0.5, 20, timedelta(minutes=5))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def found(*passed: Any) -> list[Sign]:
    return read([call(passed=list(passed))]).signs


def row(sign: Sign, hook: str = "people") -> AlertRow:
    (made,) = signs.rows([sign], {hook: {sign.kind}}, NOW)
    return made


def said(sign: Sign) -> str:
    return messages.text(row(sign))


def test_a_passed_budget_is_told_in_words() -> None:
    (sign,) = found(PASSED)
    assert (sign.kind, sign.subject, sign.ends_at) == ("budgets", "team/search/monthly", datetime(2026, 2, 1))
    assert said(sign) == (
        "Budget team/search/monthly of team search has passed 80 % (402.10 USD of 500.00 USD, until "
        "2026-02-01T00:00:00Z)."
    )


def test_a_spent_one_says_that_calls_are_refused() -> None:
    (sign,) = found({**PASSED, "spent": True, "measure": "requests", "amount": 1000, "used": 1000, "scope": None})
    assert said(sign) == (
        "Budget team/search/monthly is used up (1,000 of 1,000 requests): calls are refused, until "
        "2026-02-01T00:00:00Z."
    )


def test_one_that_refused_a_large_call_says_that_others_go_on() -> None:
    """And it does not take the place of the message that all is used up, which comes later."""
    refused = {**PASSED, "amount": 10**9, "used": 91_100_000, "percent": 9, "wanted": 960_138_750}
    (sign,) = found(refused)
    assert said(sign) == (
        "Budget team/search/monthly of team search refused a call: it asked for 0.96013875 USD, and 0.0911 USD of "
        "1.00 USD are used. Calls that ask for less go on, until 2026-02-01T00:00:00Z."
    )
    assert sign.id == found({**refused, "percent": 10, "wanted": 970_000_000})[0].id
    assert sign.id != found({**PASSED, "amount": 10**9, "percent": 100, "spent": True})[0].id


def test_the_same_is_known_by_the_same_id() -> None:
    """Another worker found it, a moment later, when a little more was used."""
    assert found(PASSED)[0].id == found({**PASSED, "used": 403_000_000_000})[0].id


@pytest.mark.parametrize(
    "other",
    [{"key": "money/xyz"}, {"window": 1_769_904_000}, {"percent": 90}, {"spent": True}, {"amount": 1000 * 10**9}],
)
def test_another_sum_window_threshold_or_amount_is_another(other: dict[str, Any]) -> None:
    assert found(PASSED)[0].id != found({**PASSED, **other})[0].id


@given(st.lists(json_values, max_size=4) | json_values, json_values, json_values)
def test_whatever_an_event_says_it_is_read(passed: Any, limit: Any, until: Any) -> None:
    """And what comes of it fits the table and can be told."""
    for sign in read([call(passed=passed), call(passed=[{**PASSED, "limit": limit, "until": until}])]).signs:
        made = row(Sign(id=sign.id, kind=sign.kind, subject=sign.subject, facts=sign.facts))
        assert len(made.subject) <= 200
        assert messages.text(made).isprintable()
        assert json.loads(messages.facts([made]))["id"] == made.id
        assert "\n" not in json.loads(messages.slack([made]))["text"]


def test_slack_reads_no_markup_in_a_name() -> None:
    (sign,) = found({**PASSED, "limit": "<!channel> *a* & `b`"})
    told = json.loads(messages.slack([row(sign)]))
    assert "Budget &lt;!channel&gt; *a* &amp; `b`" in told["text"]
    assert told["mrkdwn"] is False
    assert [block["type"] for block in told["blocks"]] == ["section", "context"]
    assert told["blocks"][0]["text"] == {"type": "plain_text", "text": told["text"], "emoji": False}
    assert sign.id in told["blocks"][1]["elements"][0]["text"]


def test_a_program_gets_the_facts_and_the_words() -> None:
    (sign,) = found(PASSED)
    told = json.loads(messages.facts([row(sign)]))
    assert (told["id"], told["kind"], told["created_at"]) == (sign.id, "budgets", "2026-01-31T12:00:00Z")
    assert told["facts"]["amount"] == 500 * 10**9
    assert told["text"] == said(sign)
    assert "others" not in told


def test_many_are_one_message_that_says_how_many() -> None:
    rows = [row(found({**PASSED, "key": str(number), "scope": f"key k{number}"})[0]) for number in range(5)]
    told = json.loads(messages.facts(rows))
    assert told["text"] == f"{' '.join(map(messages.text, rows[:3]))} And 2 others: sluice alerts list shows all."
    assert told["facts"]["scope"] == "key k0"
    assert [one["facts"]["scope"] for one in told["others"]] == ["key k1", "key k2", "key k3", "key k4"]
    assert json.loads(messages.slack(rows))["text"] == told["text"]
    assert messages.id_of(rows) == told["id"] == messages.id_of(rows[::-1])
    assert told["id"] not in {one.id for one in rows}
    assert messages.id_of(rows[:4]) != told["id"]


def test_when_it_was_found_is_told_for_it_may_come_late() -> None:
    said = json.loads(messages.slack([row(found(PASSED)[0])]))["blocks"][1]["elements"][0]["text"]
    assert said.startswith("Sluice, 2026-01-31 12:00:00 UTC, alert ")


@pytest.mark.parametrize(
    ("count", "is_told"), [(Count(20, 10), True), (Count(19, 19), False), (Count(100, 49), False), (Count(0, 0), False)]
)
def test_a_share_is_told_from_a_number_on(count: Count, is_told: bool) -> None:
    assert [sign.subject for sign in signs.of_backends({"swe": count}, BOUND, NOW, HOUR)] == ["swe"] * is_told
    assert [sign.subject for sign in signs.of_errors(count, BOUND, NOW, HOUR)] == ["gateway"] * is_told


def test_the_words_of_shares_and_of_lag() -> None:
    (backend,) = signs.of_backends({"swe": Count(120, 72)}, BOUND, NOW, HOUR)
    assert said(backend) == "Backend swe fails: of 120 attempts in 5 minutes 72 (60 %) had no answer, or a 429 or 5xx."
    (errors,) = signs.of_errors(Count(400, 200), BOUND, NOW, HOUR)
    assert said(errors) == "Calls fail: of 400 calls in 5 minutes 200 (50 %) ended with a 5xx."
    (lag,) = signs.of_lag(90.4, 60, NOW, HOUR)
    assert said(lag) == "The ledger is behind: what calls used has been waiting for 90 s. Calls go on."
    assert signs.of_lag(59.9, 60, NOW, HOUR) == []
    assert {sign.ends_at for sign in (backend, errors, lag)} == {None}, "tried for a day, whatever `again` is"


def test_two_who_find_it_at_once_find_the_same_and_later_another() -> None:
    def at(now: datetime) -> str:
        return signs.of_lag(90, 60, now, HOUR)[0].id

    assert at(NOW) == at(NOW + timedelta(minutes=5))
    assert at(NOW) != at(NOW + HOUR)


def test_each_webhook_gets_the_kinds_that_it_wants_and_nothing_that_is_over() -> None:
    (sign,) = found(PASSED)
    made = signs.rows([sign], {"all": {"budgets", "ledger"}, "none": {"ledger"}, "money": {"budgets"}}, NOW)
    assert [one.webhook for one in made] == ["all", "money"]
    assert signs.rows([sign], {"all": {"budgets"}}, datetime(2026, 2, 1)) == []
