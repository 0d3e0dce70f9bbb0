"""Limits and prices as they are written, and what they come to. What is refused stands in tests/unit/config."""

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from extproc.config import compile as compiled
from extproc.config.fields import MOST, Duration, Money, TokenPrice, UnitPrice, nanos
from extproc.config.limits import GatewayLimit, KeyLimit, LimitFile, TeamLimit, compile_limit
from extproc.config.loader import json_schema, load
from extproc.config.models import Model
from extproc.config.prices import Price, ServiceTier
from extproc.config.schema import Gateway
from extproc.limits.limit import Limit, Measure, Mode, Only, Period, Priority, Raise, Scope, Short
from extproc.model import SERVICE_TIERS, Bounds, Catalogue, Dialect
from extproc.model import Price as NanoPrice
from tests.support.json_schema import mistakes

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = Path(__file__).parents[2] / "examples/limits/gateway.yaml"
MONEY = TypeAdapter[Decimal](Money)
UNIT_PRICE = TypeAdapter[Decimal](UnitPrice)
TOKEN_PRICE = TypeAdapter[Decimal](TokenPrice)


def _limit(**fields: Any) -> Limit:
    return compile_limit("some", GatewayLimit.model_validate(fields))


def _catalogue(policies: dict[str, Any], **more: Any) -> Catalogue:
    tree: dict[str, Any] = {
        "backends": {"one": {"dialect": "openai", "url": "https://llm.example"}},
        "models": {
            "gpt-4o": {"aliases": ["four"], "targets": [[{"backend": "one"}]]},
            "llama": {"aliases": ["free"], "targets": [[{"backend": "one"}]]},
        },
        "policies": policies,
    }
    return compiled.catalogue(Gateway.model_validate(tree | more))


def _model(backend: dict[str, Any] | None = None, target: dict[str, Any] | None = None, **fields: Any) -> Any:
    """The one target and the bounds of a model with these settings."""
    catalogue = compiled.catalogue(
        Gateway.model_validate(
            {
                "backends": {"one": {"dialect": "openai", "url": "https://llm.example"} | (backend or {})},
                "models": {"m": {"targets": [[{"backend": "one"} | (target or {})]]} | fields},
            }
        )
    )
    model = catalogue.models["m"]
    return model.groups[0][0], model.bounds


# ---- money ----------------------------------------------------------------------------------------


@given(st.integers(1, MOST))
def test_every_amount_of_whole_billionths_is_read_to_the_last_digit(amount: int) -> None:
    written = f"{amount // 10**9}.{amount % 10**9:09}"
    assert nanos(MONEY.validate_python(written)) == amount
    assert MONEY.validate_json(MONEY.dump_json(MONEY.validate_python(written))) == Decimal(written)


@given(st.text(alphabet="0123456789.-+e_, ", max_size=12))
def test_what_is_read_as_money_is_the_number_that_is_written(written: str) -> None:
    try:
        amount = MONEY.validate_python(written)
    except ValidationError:
        return
    assert Fraction(nanos(amount), 10**9) == Fraction(written)
    assert 0 < nanos(amount) <= MOST


@given(st.decimals(0, 9_000, places=6))
def test_a_number_of_python_is_money_as_it_is_written(amount: Decimal) -> None:
    assert UNIT_PRICE.validate_python(float(amount)) == UNIT_PRICE.validate_python(amount) == amount


@pytest.mark.parametrize(
    "wrong", [True, None, "1e999", "1e-10", "e3", "١", "1.", ".5", "", float("nan"), float("inf"), [], "0." + "1" * 10]
)
def test_what_is_no_amount_of_money(wrong: object) -> None:
    with pytest.raises(ValidationError, match="write a number with at most 9 decimal places"):
        MONEY.validate_python(wrong)


@pytest.mark.parametrize(("written", "amount"), [("1e3", "1000"), ("1e-06", "0.000001"), ("1.5E+6", "1500000")])
def test_an_amount_may_be_written_with_an_exponent(written: str, amount: str) -> None:
    """As programs that write YAML do by themselves."""
    assert MONEY.validate_python(written) == Decimal(amount)


def test_nothing_is_a_price_and_no_limit() -> None:
    assert UNIT_PRICE.validate_python("0.0") == 0
    with pytest.raises(ValidationError, match="must be more than 0"):
        MONEY.validate_python("0.0")


@given(st.integers(0, MOST // 1000))
def test_a_price_of_a_thousand_tokens_is_a_thousandth_of_that_of_a_million(amount: int) -> None:
    a_million = Decimal(amount).scaleb(-9)
    written = {"input": format(a_million.scaleb(-3), "f"), "output": 0, "per": "1k"}
    same = Price.model_validate({"input": a_million, "output": 0})
    assert Price.model_validate(written).compiled() == same.compiled()
    assert Price.model_validate(written).compiled().input == amount


def test_a_duration_beyond_all_bounds_is_told_and_does_not_break() -> None:
    for written in (1e300, f"{'9' * 300}h"):
        with pytest.raises(ValidationError, match="is longer than any duration can be"):
            TypeAdapter[timedelta](Duration).validate_python(written)


# ---- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "measure", "amount"),
    [
        ({"requests": 5, "per": "day"}, Measure.REQUESTS, 5),
        ({"tokens": "100000", "per": "day"}, Measure.TOKENS, 100_000),
        ({"input_tokens": MOST, "per": "day"}, Measure.INPUT_TOKENS, MOST),
        ({"output_tokens": 7, "per": "day"}, Measure.OUTPUT_TOKENS, 7),
        ({"concurrent": 1}, Measure.CONCURRENT, 1),
        ({"money": "0.000000001", "per": "day"}, Measure.MONEY, 1),
        ({"money": 5000, "per": "day"}, Measure.MONEY, 5_000 * 10**9),
    ],
)
def test_a_limit_has_one_measure_in_whole_units(fields: dict[str, Any], measure: Measure, amount: int) -> None:
    limit = _limit(**fields)
    assert (limit.measure, limit.amount) == (measure, amount)


@pytest.mark.parametrize(
    ("fields", "sliding", "period", "zone"),
    [
        ({"per": "second"}, 1_000, None, "UTC"),
        ({"per": "minute"}, 60_000, None, "UTC"),
        ({"per": "hour"}, 3_600_000, None, "UTC"),
        ({"per": "day"}, 0, Period.DAY, "UTC"),
        ({"per": "month", "zone": "Europe/Zurich"}, 0, Period.MONTH, "Europe/Zurich"),
        ({"per": "minute", "window": "calendar", "zone": "Asia/Kathmandu"}, 0, Period.MINUTE, "Asia/Kathmandu"),
        ({"per": "day", "window": "sliding"}, 86_400_000, None, "UTC"),
        ({"per": "month", "window": "sliding"}, 30 * 86_400_000, None, "UTC"),
        ({"per": "90s"}, 90_000, None, "UTC"),
        ({"per": 1.5}, 1_500, None, "UTC"),
        ({"per": "744h", "window": "sliding"}, 31 * 86_400_000, None, "UTC"),
        ({"per": "7d"}, 7 * 86_400_000, None, "UTC"),
    ],
)
def test_a_window_slides_or_is_of_the_calendar(
    fields: dict[str, Any], sliding: int, period: Period | None, zone: str
) -> None:
    limit = _limit(requests=1, **fields)
    assert (limit.sliding, limit.period, limit.zone) == (sliding, period, zone)


def test_open_calls_have_no_window() -> None:
    limit = _limit(concurrent=20, scope="key")
    assert (limit.sliding, limit.period) == (0, None)


def test_a_limit_says_nothing_more_than_it_must() -> None:
    assert _limit(requests=1, per="minute") == Limit("some", Measure.REQUESTS, 1, sliding=60_000)


def test_everything_that_a_limit_can_say() -> None:
    limit = _limit(
        scope=["model", "team"],
        money="12.5",
        per="month",
        zone="Europe/Zurich",
        only={
            "models": ["gpt-4o"],
            "backends": ["one"],
            "teams": ["a"],
            "areas": ["b"],
            "tiers": ["c"],
            "environments": ["prod"],
            "priority": "low",
            "low_route": False,
        },
        mode="shadow",
        on_error="allow",
        warn_at=[10, 20],
        kept_for_high=20,
        when_short="lease",
        slice=512,
        fallback="llama",
        reject={"status": 503, "message": "rate limited"},
    )
    assert limit == Limit(
        name="some",
        measure=Measure.MONEY,
        amount=12_500_000_000,
        scope=(Scope.TEAM, Scope.MODEL),
        period=Period.MONTH,
        zone="Europe/Zurich",
        only=Only(
            models=frozenset({"gpt-4o"}),
            backends=frozenset({"one"}),
            teams=frozenset({"a"}),
            areas=frozenset({"b"}),
            tiers=frozenset({"c"}),
            environments=frozenset({"prod"}),
            priority=Priority.LOW,
            low_route=False,
        ),
        mode=Mode.SHADOW,
        allow_on_error=True,
        warn_at=(10, 20),
        kept_for_high=20,
        short=Short.LEASE,
        slice=512,
        fallback="llama",
        status=503,
        message="rate limited",
    )


def test_a_limit_is_hard_unless_it_says_otherwise() -> None:
    assert _limit(tokens=1, per="day").hard
    assert not _limit(tokens=1, per="day", hard=False).hard


def test_money_warns_unless_it_is_told_not_to() -> None:
    assert _limit(money=1, per="day").warn_at == (50, 80, 100)
    assert _limit(money=1, per="day", warn_at=[]).warn_at == ()
    assert _limit(tokens=1, per="day").warn_at == ()


@pytest.mark.parametrize(
    ("until", "zone", "then"),
    [
        ("2026-03-31", None, datetime(2026, 3, 31, tzinfo=UTC)),
        ("2026-03-31", "Europe/Zurich", datetime(2026, 3, 30, 22, tzinfo=UTC)),
        ("2026-03-31T18:00:00+02:00", "Asia/Tokyo", datetime(2026, 3, 31, 16, tzinfo=UTC)),
        ("2026-03-31T18:00:00Z", None, datetime(2026, 3, 31, 18, tzinfo=UTC)),
        ("2026-09-06", "America/Santiago", datetime(2026, 9, 6, 4, tzinfo=UTC)),  # a day that begins at one o'clock
    ],
)
def test_a_raise_ends_at_a_moment_or_as_a_day_begins(until: str, zone: str | None, then: datetime) -> None:
    limit = _limit(money=1, per="day", zone=zone, **{"raise": {"to": "1.5", "until": until}})
    assert limit.raised == Raise(1_500_000_000, int(then.timestamp() * 1000))


def test_a_raise_of_what_is_counted_may_be_as_large_as_any_limit() -> None:
    limit = _limit(tokens=1, per="day", **{"raise": {"to": MOST, "until": "2026-03-31"}})
    assert limit.raised is not None
    assert limit.raised.amount == MOST


@pytest.mark.parametrize(("field", "value"), [("per", []), ("per", True), ("raise", {"to": 2, "until": 20260331})])
def test_a_value_of_another_kind_is_told_as_a_misspelt_one_is(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=r"write (second, minute|a date like)"):
        _limit(**{"requests": 1, "per": "day", field: value})


def test_the_limits_of_teams_and_keys_have_scopes_of_their_own() -> None:
    fields = {"requests": 1, "per": "day"}
    team = compile_limit("day", TeamLimit.model_validate(fields), "team/payments")
    key = compile_limit("day", KeyLimit.model_validate(fields), "key/1")
    assert (team.scope, team.title) == ((Scope.TEAM,), "team/payments/day")
    assert (key.scope, key.title) == ((Scope.KEY,), "key/day")
    for model, scope in ((TeamLimit, "area"), (KeyLimit, "team")):
        with pytest.raises(ValidationError):
            model.model_validate({**fields, "scope": scope})


@pytest.mark.parametrize("more", [{"only": {"teams": ["a"]}}, {"reject": {"status": 503}}, {"scope": []}])
def test_what_is_the_gateways_alone_is_not_for_teams_and_keys(more: dict[str, Any]) -> None:
    for model in (TeamLimit, KeyLimit):
        with pytest.raises(ValidationError):
            model.model_validate({"requests": 1, "per": "day", **more})
    assert GatewayLimit.model_validate({"requests": 1, "per": "day", **more})


AMOUNTS = st.one_of(
    st.fixed_dictionaries({"money": st.decimals("0.000000001", 1_000, places=9)}),
    st.fixed_dictionaries({"tokens": st.integers(1, 10**6)}),
)
WINDOWS = st.one_of(
    st.fixed_dictionaries({"per": st.sampled_from(["second", "minute", "hour"])}),
    st.fixed_dictionaries({"per": st.integers(1, 31 * 86_400)}),
    st.fixed_dictionaries({"per": st.sampled_from(["day", "month"]), "zone": st.sampled_from(["UTC", "Asia/Tokyo"])}),
)
REST = st.fixed_dictionaries(
    {},
    optional={
        "scope": st.lists(st.sampled_from(["key", "team", "model"]), unique=True, min_size=1),
        "warn_at": st.sets(st.integers(1, 100)).map(sorted),
        "raise": st.fixed_dictionaries(
            {
                "to": st.integers(10**6 + 1, 9 * 10**6),
                "until": st.dates().map(str) | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
            }
        ),
        "when_short": st.sampled_from(["refuse", "cap", "lease"]),
    },
)


@given(AMOUNTS, WINDOWS, REST)
def test_a_limit_is_the_same_after_it_was_written_down(
    amount: dict[str, Any], window: dict[str, Any], rest: dict[str, Any]
) -> None:
    given_limit = GatewayLimit.model_validate(amount | window | rest)
    for written in (given_limit.model_dump_json(), given_limit.model_dump_json(exclude_defaults=True)):
        again = GatewayLimit.model_validate_json(written)
        assert again == given_limit
        assert compile_limit("x", again) == compile_limit("x", given_limit)


@pytest.mark.parametrize("model", [LimitFile, GatewayLimit, TeamLimit, KeyLimit])
def test_the_word_for_a_raise_is_the_one_that_people_write(model: type[LimitFile]) -> None:
    assert "raise" in model.model_json_schema()["properties"]
    with pytest.raises(ValidationError, match="raised"):
        model.model_validate({"requests": 1, "per": "day", "raised": {"to": 2, "until": "2026-03-31"}})


# ---- in a gateway's configuration -----------------------------------------------------------------


def test_limits_take_models_by_any_of_their_names() -> None:
    day = {"requests": 1, "per": "day", "only": {"models": ["four"]}, "fallback": "free"}
    (limit,) = _catalogue({"limits": {"day": day}}).limits
    assert (limit.only.models, limit.fallback) == (frozenset({"gpt-4o"}), "llama")


def test_a_limit_that_is_off_is_none() -> None:
    given_limits = {
        "on": {"requests": 1, "per": "day"},
        "off": {"requests": 1, "per": "day", "mode": "off"},
        "shadow": {"requests": 1, "per": "day", "mode": "shadow"},
    }
    assert [limit.name for limit in _catalogue({"limits": given_limits}).limits] == ["on", "shadow"]


def test_many_workers_need_counters_that_they_share() -> None:
    limits: dict[str, Any] = {"limits": {"day": {"requests": 1, "per": "day"}}}
    with pytest.raises(ValidationError, match="each of the 2 workers would count by itself"):
        _catalogue(limits, workers=2)
    assert _catalogue(limits, workers=2, stores={"counters": "redis://h"}).limits
    limits["limits"]["day"]["mode"] = "off"
    assert not _catalogue(limits, workers=2).limits
    assert not _catalogue({}, workers=2).limits


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "redis://h",
        "redis://h:6379/0",
        "rediss://user:p%40ss@h:6380",
        "redis://[::1]:6379",
        "unix:///run/r",
    ],
)
def test_where_counters_can_be(url: str) -> None:
    gateway = load(None, _environ(SLUICE__STORES__COUNTERS=url))
    assert gateway.stores.counters == url
    assert url == "memory://" or url not in repr(gateway)


@pytest.mark.parametrize(
    "url",
    [
        "memory",
        "memory://x",
        "redis:h",
        "redis://",
        "redis://:pw@h:x",
        "redis://[pw",
        "redis://pw\u2100@h",
        "unix:",
        "http://h",
    ],
)
def test_where_counters_cannot_be_and_no_password_is_told(url: str) -> None:
    with pytest.raises(Exception, match="must be memory://, or like redis://host") as caught:
        load(None, _environ(SLUICE__STORES__COUNTERS=url))
    assert "pw" not in str(caught.value)


def test_the_wait_for_counters() -> None:
    assert load(None, _environ()).stores.counters_wait == timedelta(milliseconds=50)
    assert load(None, _environ(SLUICE__STORES__COUNTERS_WAIT="1s")).stores.counters_wait == timedelta(seconds=1)


@pytest.mark.parametrize("prefix", ["/low", "/prioritization-simple", "/a/b.c"])
def test_a_prefix_of_low_priority(prefix: str) -> None:
    catalogue = _catalogue({}, listener={"low_priority_prefix": prefix, "tells_priority": True})
    assert (catalogue.low_prefix, catalogue.tells_priority) == (prefix, True)


@pytest.mark.parametrize(
    "prefix", ["", "/", "low", "/low/", "/lo w", "/../low", "/low?x", "/v1", "/openai/low", "/readyz"]
)
def test_what_cannot_be_a_prefix(prefix: str) -> None:
    with pytest.raises(ValidationError, match=r"must be like /low|begins like a path of the gateway's own"):
        _catalogue({}, listener={"low_priority_prefix": prefix})


def test_without_any_of_it_nothing_is_limited() -> None:
    catalogue = _catalogue({})
    assert (catalogue.limits, catalogue.currency, catalogue.low_prefix, catalogue.tells_priority) == (
        (),
        "USD",
        "",
        False,
    )


def test_a_worker_gets_the_same_configuration_as_the_supervisor_has() -> None:
    gateway = load(EXAMPLE, {})
    assert Gateway.model_validate_json(gateway.model_dump_json()) == gateway


def test_money_of_a_file_and_of_the_environment_is_no_binary_fraction(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(
        """
        backends: {one: {dialect: openai, url: "https://llm.example"}}
        models: {m: {targets: [[{backend: one}]], price: {input: 0.100000001, output: 1}}}
        policies: {currency: CHF, limits: {year: {money: 123456.100000001, per: month}}}
        """
    )
    gateway = load(tmp_path / "gateway.yaml", {"SLUICE__MODELS__M__PRICE__OUTPUT": "123456.100000003"})
    catalogue = compiled.catalogue(gateway)
    assert catalogue.currency == "CHF"
    assert catalogue.limits[0].amount == 123_456_100_000_001
    assert catalogue.models["m"].groups[0][0].price == NanoPrice(
        input=100_000_001, output=123_456_100_000_003, version="auto-475e6b88"
    )


def test_an_editor_accepts_the_example_and_no_misspelling_of_it() -> None:
    text = EXAMPLE.read_text()
    assert mistakes(json_schema(), YAML(typ="rt").load(text)) == []
    text = text.replace("2026-12-24", "2027")
    wrong = text.replace("per: hour", "per: week").replace("scope: team", "scope: planet").replace("max_output", "most")
    told = {line.partition(":")[0] for line in mistakes(json_schema(), YAML(typ="rt").load(wrong))}
    assert {
        "$.policies.limits.nightly.per",
        "$.policies.limits.next-quarter.scope",
        "$.policies.limits.company.raise.until",
    } <= told


def test_the_example_is_what_its_comments_say() -> None:
    catalogue = compiled.catalogue(load(EXAMPLE, {}))
    limits = {limit.name: limit for limit in catalogue.limits}
    raised = limits["company"].raised
    assert raised is not None
    assert (
        datetime.fromtimestamp(raised.until / 1000, ZoneInfo("Europe/Zurich")).isoformat()
        == "2026-12-24T00:00:00+01:00"
    )
    fallback = catalogue.models[limits["company"].fallback or ""]
    assert fallback.groups[0][0].price == NanoPrice(version="auto-3833238a")
    assert limits["nightly"].only == Only(low_route=True)
    assert limits["next-quarter"].mode is Mode.SHADOW


# ---- prices and bounds ----------------------------------------------------------------------------


def test_a_price_in_full() -> None:
    target, _ = _model(
        price={
            "input": "2.5",
            "output": 10,
            "cached_input": "1.25",
            "cache_write": 3,
            "reasoning": 0,
            "audio_input": 40,
            "audio_output": 80,
            "image_input": 5,
            "image_output": 40,
            "request": "0.01",
            "minute": "0.006",
            "image": "0.04",
            "hosted_call": "0.025",
            "version": "2026-01",
        }
    )
    assert target.price == NanoPrice(
        input=2_500_000_000,
        output=10_000_000_000,
        cached_input=1_250_000_000,
        cache_write=3_000_000_000,
        reasoning=0,
        audio_input=40_000_000_000,
        audio_output=80_000_000_000,
        image_input=5_000_000_000,
        image_output=40_000_000_000,
        request=10_000_000,
        minute=6_000_000,
        image=40_000_000,
        hosted_call=25_000_000,
        version="2026-01",
    )


def test_a_target_has_its_own_price_or_the_models_or_none() -> None:
    assert _model()[0].price is None
    own, other = {"input": 0, "output": 2}, {"input": 1, "output": 0}
    assert _unnamed(_model(price=other)[0].price) == NanoPrice(input=10**9)
    assert _unnamed(_model(target={"price": own}, price=other)[0].price) == NanoPrice(output=2 * 10**9)
    assert _unnamed(_model(price={"request": 0})[0].price) == NanoPrice()


def _unnamed(price: NanoPrice | None) -> NanoPrice:
    assert price is not None
    assert price.version.startswith("auto-")
    return replace(price, version="")


def test_prices_of_long_inputs_and_of_service_tiers() -> None:
    price = {
        "per": "1k",
        "input": 2,
        "output": 8,
        "cache_write_1h": 4,
        "request": 1,
        "version": "v",
        "long_context": [{"above": 200_000, "input": 4, "output": 12}, {"above": 500_000, "input": 5, "output": 15}],
        "service_tiers": {
            "priority": {"input": 6, "output": 9, "long_context": [{"above": 7, "input": 10, "output": 0}]},
            "flex": {"input": 1, "output": 1, "cached_input": 0},
        },
    }
    million, each = 10**12, 10**9
    assert _model(price=price)[0].price == NanoPrice(
        input=2 * million,
        output=8 * million,
        cache_write_1h=4 * million,
        request=each,
        version="v",
        above=(
            (200_000, NanoPrice(4 * million, 12 * million, request=each)),
            (500_000, NanoPrice(5 * million, 15 * million, request=each)),
        ),
        tiers=(
            ("flex", NanoPrice(million, million, cached_input=0, request=each)),
            (
                "priority",
                NanoPrice(6 * million, 9 * million, request=each, above=((7, NanoPrice(10 * million, request=each)),)),
            ),
        ),
    )


def test_the_service_tiers_are_those_that_answers_can_have() -> None:
    assert get_args(ServiceTier) == SERVICE_TIERS


def test_versions_of_a_price_are_in_force_one_after_the_other() -> None:
    target, _ = _model(
        price=[
            {"input": 1, "output": 1},
            {"from": "2026-03-01", "input": 2, "output": 2},
            {"from": "2026-03-01T18:00:00+02:00", "input": 3, "output": 3},
            {"from": date(2026, 4, 1), "version": "april", "input": 4, "output": 4},
        ]
    )
    march = 1_772_323_200_000
    assert target.price is None
    assert [version.since for version in target.versions] == [0, march, march + 16 * 3_600_000, 1_775_001_600_000]
    names = [version.version for version in target.versions]
    assert names == ["auto-9bfb6abf", "2026-03-01", "2026-03-01T16:00:00Z", "april"]
    at = [target.at(moment).price for moment in (0, march - 1, march, march + 16 * 3_600_000, 2**53)]
    assert [price.input // 10**9 if price else None for price in at] == [1, 1, 2, 3, 4]


def test_before_its_first_version_nothing_has_a_price() -> None:
    target, _ = _model(price={"from": "2026-03-01", "input": 2, "output": 2})
    assert target.at(1_772_323_199_999).price is None
    assert target.at(1_772_323_200_000).price == target.versions[0]


def test_a_price_without_a_name_has_another_one_once_it_is_another() -> None:
    def name(**price: Any) -> str:
        target, _ = _model(price={"input": 1, "output": 2, **price})
        return str(target.price.version)

    same = [name(), name(per="1M"), name(input="1.000"), name(minute=0)]
    assert len(set(same)) == 1
    long = {"above": 5, "input": 1, "output": 2}
    others = [name(input=2), name(cached_input=1), name(cached_input=0), name(minute=1), name(long_context=[long])]
    others += [name(long_context=[{**long, "above": 6}]), name(service_tiers={"flex": {"input": 1, "output": 2}})]
    assert len({*same, *others}) == 1 + len(others)


def test_prices_are_told_as_they_were_written() -> None:
    """A version's `from`, too, in what is made from the configuration."""
    versions = [{"input": "1", "output": "1"}, {"from": "2026-03-01", "input": "2", "output": "2", "version": "v"}]
    model = Model.model_validate({"targets": [[{"backend": "one"}]], "price": versions})
    dumped = model.model_dump(mode="json", exclude_unset=True)
    assert dumped["price"] == versions
    assert Model.model_validate(dumped) == model
    assert Model.model_validate(model.model_dump(exclude_unset=True)) == model


def test_the_example_of_the_page_on_prices_is_accepted() -> None:
    example = re.findall(r"```yaml\n(.*?)```", (DOCS / "prices.md").read_text(), re.DOTALL)
    tree = YAML(typ="safe").load(example[0])
    backends = {"anthropic": {"dialect": "anthropic", "url": "https://api.anthropic.com"}}
    assert mistakes(json_schema(), {"backends": backends, **tree}) == []
    gateway = Gateway.model_validate({"backends": backends, **tree})
    (model,) = compiled.without_policies(gateway).listed()
    assert [price.version for price in model.groups[0][0].versions] == ["2026-01", "2027-01"]


def test_the_bounds_of_a_model() -> None:
    assert _model()[1] == Bounds()
    _, bounds = _model(
        max_output=100_000,
        min_output=200,
        context=200_000,
        hidden_output=True,
        tokenizer_family="other",
        tokenizer="tokenizers/some.json",
        image_tokens=1_000,
        max_seconds=1_500,
    )
    assert bounds == Bounds(100_000, 200, 200_000, True, "other", "tokenizers/some.json", 1_000, 1_500)


@pytest.mark.parametrize(
    ("name", "deployed", "own", "tokens"),
    [
        ("gpt-4o", None, None, 1_700),
        ("gpt-4o-mini", None, None, 48_169),
        ("small", "GPT-4o-mini-2024-07-18", None, 48_169),
        ("gpt-4.1-nano", None, None, 3_779),
        ("eu/o4-mini", "swe", None, 2_642),
        ("gpt-4.1-mini", None, None, 2_489),
        ("gpt-4.1-mini", "gpt-4o-mini", None, 48_169),
        ("gpt-4o-mini", None, 2_833, 2_833),
    ],
)
def test_the_tokens_of_an_image_follow_from_a_models_names(
    name: str, deployed: str | None, own: int | None, tokens: int
) -> None:
    gateway = Gateway.model_validate(
        {
            "backends": {"one": {"dialect": "openai", "url": "https://llm.example"}},
            "models": {name: {"targets": [[{"backend": "one", "model": deployed}]], "image_tokens": own}},
        }
    )
    assert compiled.catalogue(gateway).models[name].bounds.image_tokens == tokens


@pytest.mark.parametrize(
    ("fields", "floor"),
    [({}, 1024), ({"max_output": 512}, 512), ({"max_output": 4096}, 1024), ({"max_output": 512, "min_output": 1}, 1)],
)
def test_the_floor_of_caps_is_never_above_the_longest_answer(fields: dict[str, Any], floor: int) -> None:
    assert _model(**fields)[1].floor == floor


@pytest.mark.parametrize(
    ("dialect", "url", "cap_field", "family"),
    [
        ("openai", "https://api.openai.com/v1", "max_completion_tokens", "openai"),
        ("azure-openai", "https://swe.openai.azure.com", "max_completion_tokens", "openai"),
        ("openai", "http://vllm:8000", "max_tokens", "openai"),
        ("anthropic", "https://api.anthropic.com", "max_tokens", "anthropic"),
    ],
)
def test_what_a_backend_is_taken_for(dialect: str, url: str, cap_field: str, family: str) -> None:
    target, bounds = _model(backend={"dialect": dialect, "url": url})
    assert target.backend.dialect is Dialect(dialect)
    assert (target.backend.cap_field, bounds.family) == (cap_field, family)


def test_what_a_backend_is_told_to_be() -> None:
    told = {"dialect": "openai", "url": "https://api.openai.com", "cap_field": "max_tokens"}
    assert _model(backend=told)[0].backend.cap_field == "max_tokens"


def _environ(**more: str) -> dict[str, str]:
    return {
        "SLUICE__BACKENDS__ONE__DIALECT": "openai",
        "SLUICE__BACKENDS__ONE__URL": "https://llm.example",
        "SLUICE__MODELS__M__TARGETS": "[[{backend: one}]]",
        **more,
    }
