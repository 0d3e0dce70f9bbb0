"""What a caller may say to the cache."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache.control import HEADERS, Control, read
from extproc.headers import Headers
from extproc.refusals import INVALID_VALUE, Refused

PLAIN = Control()
NOTHING = Control(reads=False, keeps=False)
FRESH = Control(reads=False)


def asked(*pairs: tuple[str, str]) -> Control:
    return read(Headers.of([(":path", b"/"), *((name, value.encode("latin-1")) for name, value in pairs)]))


def cache_control(*values: str) -> Control:
    return asked(*(("cache-control", value) for value in values))


def test_without_a_word_the_policy_decides() -> None:
    assert asked() == PLAIN
    assert read(Headers({"content-type": b"x"})) == PLAIN


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("", PLAIN),
        (",, ,", PLAIN),
        ("no-store", NOTHING),
        ("No-Store", NOTHING),
        ("no-cache", FRESH),
        ("no-cache, no-store", NOTHING),
        ("\tno-cache\t,foo", FRESH),
        ("only-if-cached", Control(only=True)),
        ("max-age=60", Control(max_age=60)),
        ("max-age = 60", Control(max_age=60)),
        ('max-age="60"', Control(max_age=60)),
        ("MAX-AGE=60", Control(max_age=60)),
        ("max-age=0", replace(FRESH, max_age=0)),
        ("max-age=000", replace(FRESH, max_age=0)),
        ("max-age=00000000000000000060", Control(max_age=60)),
        ("max-age=60, max-age=5", Control(max_age=5)),
        ("max-age=5, only-if-cached", Control(max_age=5, only=True)),
        ("max-age=99999999999999999999", Control(max_age=2**31)),
        ("max-age=4294967296", Control(max_age=2**31)),
        ("max-age=" + "9" * 5000, Control(max_age=2**31)),
        ('no-store="x", no-cache=y', NOTHING),
        ("max-stale=10, min-fresh=1, no-transform, new=1", PLAIN),
        ("s-maxage=5, x-max-age=5", PLAIN),
        ('new="no-store, no-cache"', PLAIN),
        ('new="a,b", no-cache', FRESH),
        ("no store", PLAIN),
        ("no-storage", PLAIN),
        ("=5, =, no-cache", FRESH),
    ],
)
def test_cache_control_is_read_as_http_has_it(value: str, wanted: Control) -> None:
    assert cache_control(value) == wanted
    assert asked(("pragma", "no-cache"), ("cache-control", value)) == wanted


@pytest.mark.parametrize(
    "value", ["max-age", "max-age=", "max-age=soon", "max-age=-1", "max-age=1.5", "max-age=1 2", "max-age=\xb2"]
)
def test_an_age_that_cannot_be_read_wants_a_fresh_answer(value: str) -> None:
    assert cache_control(value) == replace(FRESH, max_age=0)
    assert cache_control(f"{value}, max-age=60") == replace(FRESH, max_age=0)


@pytest.mark.parametrize(
    "value",
    ['new="a, no-store', 'new="\\"", no-store', 'new="\\", no-store', 'no-store"', '"no-store'],
)
def test_of_quotes_that_are_not_well_set_none_hides_a_word(value: str) -> None:
    assert cache_control(value) == NOTHING


def test_all_headers_of_a_name_count() -> None:
    assert cache_control("max-age=60", "no-store") == replace(NOTHING, max_age=60)
    assert cache_control("max-age=60", "max-age=5") == Control(max_age=5)
    assert cache_control('new="', "no-cache") == FRESH


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("no-cache", FRESH), ("x, No-Cache", FRESH), ("max-age=0", PLAIN), ("no-store", PLAIN), ("", PLAIN)],
)
def test_pragma_is_heard_where_there_is_nothing_newer(value: str, wanted: Control) -> None:
    assert asked(("pragma", value)) == wanted
    assert asked(("pragma", value), ("cache-control", "new")) == PLAIN


@given(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60) | st.text('no-stre=",\\ ', max_size=40))
def test_nothing_in_cache_control_is_refused(value: str) -> None:
    bare = value.lower().replace('"', "")
    told = cache_control(value)
    assert told.keeps or "no-store" in bare
    assert cache_control(value, "no-store") == replace(told, reads=False, keeps=False)


# ---- our own ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("x-sluice-cache", "off", NOTHING),
        ("x-sluice-cache", " OFF ", NOTHING),
        ("x-sluice-cache", "exact", Control(is_semantic=False)),
        ("x-sluice-cache-ttl", "90", Control(ttl=90)),
        ("x-sluice-cache-ttl", "90s", Control(ttl=90)),
        ("x-sluice-cache-ttl", "5m", Control(ttl=300)),
        ("x-sluice-cache-ttl", "1h", Control(ttl=3600)),
        ("x-sluice-cache-ttl", "7d", Control(ttl=604_800)),
        ("x-sluice-cache-threshold", "0", Control(threshold=0)),
        ("x-sluice-cache-threshold", "0.95", Control(threshold=0.95)),
        ("x-sluice-cache-threshold", "1", Control(threshold=1)),
        ("x-sluice-cache-threshold", "1.000", Control(threshold=1)),
    ],
)
def test_our_headers_say_more(name: str, value: str, wanted: Control) -> None:
    assert asked((name, value)) == wanted
    assert asked((name, value), (name, value)) == wanted
    assert name in HEADERS


def test_all_are_heard_together() -> None:
    told = asked(
        ("cache-control", "max-age=9"),
        ("x-sluice-cache", "exact"),
        ("x-sluice-cache-ttl", "5m"),
        ("x-sluice-cache-threshold", "0.9"),
    )
    assert told == Control(max_age=9, ttl=300, threshold=0.9, is_semantic=False)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("x-sluice-cache", ["", "on", "semantic", "hit", "off, off", "0"]),
        ("x-sluice-cache-ttl", ["", "0", "0s", "-1", "1.5", "5 m", "5w", "1e3", "9999999999", "\xb2", "5m5s"]),
        ("x-sluice-cache-threshold", ["", "-0.1", "1.01", "2", ".9", "0.", "1e-1", "nan", "inf", "90%", "0,9", "\xbd"]),
    ],
)
def test_what_cannot_be_read_of_ours_is_refused(name: str, values: list[str]) -> None:
    for value in values:
        with pytest.raises(Refused) as refused:
            asked((name, value))
        refusal = refused.value.refusal
        assert (refusal.kind, refusal.param) == (INVALID_VALUE, name)
        assert name in refusal.message


def test_a_life_of_no_time_is_told_the_least() -> None:
    with pytest.raises(Refused) as refused:
        asked(("x-sluice-cache-ttl", "0"))
    assert "at least 1 second" in refused.value.refusal.message


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [("x-sluice-cache", "off", "exact"), ("x-sluice-cache-ttl", "1", "2"), ("x-sluice-cache-threshold", "0.9", "1")],
)
def test_two_words_of_ours_that_differ_are_refused(name: str, one: str, other: str) -> None:
    with pytest.raises(Refused) as refused:
        asked((name, one), (name, other))
    assert refused.value.refusal.param == name
