"""Headers as Envoy hands them over."""

from hypothesis import given
from hypothesis import strategies as st

from extproc.headers import Headers

PAIRS = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.binary(max_size=8)), max_size=8)


def test_the_first_value_counts_and_all_are_kept_in_order() -> None:
    headers = Headers.of([("a", b"1"), ("b", b"2"), ("a", b"3")])
    assert headers.get("a") == "1"
    assert headers.all("a") == ["1", "3"]
    assert headers.all("c") == []
    assert headers.get("c") is None
    assert "b" in headers
    assert "c" not in headers
    assert sorted(headers) == ["a", "b"]


def test_an_empty_value_is_a_value() -> None:
    headers = Headers.of([("a", b"")])
    assert headers.get("a") == ""
    assert headers.all("a") == [""]
    assert "a" in headers


@given(PAIRS)
def test_any_bytes_decode_and_no_value_is_lost(pairs: list[tuple[str, bytes]]) -> None:
    headers = Headers.of(pairs)
    for name in ("a", "b", "c"):
        values = [value for given, value in pairs if given == name]
        assert [text.encode("latin-1") for text in headers.all(name)] == values
        assert headers.get(name) == (values[0].decode("latin-1") if values else None)
    assert set(headers) == {name for name, _ in pairs}


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.binary(max_size=8)))
def test_names_that_come_once_need_no_pairs(once: dict[str, bytes]) -> None:
    short, long = Headers(once), Headers.of(list(once.items()))
    for name in ("a", "b", "c"):
        assert (short.get(name), short.all(name), name in short) == (long.get(name), long.all(name), name in long)
    assert set(short) == set(long)
