"""Hosts of URLs: what parsers disagree about has none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.guardrails.hosts import host_of, is_among


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.com", "example.com"),
        ("https://example.com/", "example.com"),
        ("HTTPS://Example.COM/A?b#c", "example.com"),
        ("http://example.com:8080/x", "example.com"),
        ("https://example.com./x", "example.com"),
        ("https://xn--bcher-kva.example/ä ö", "xn--bcher-kva.example"),
        ("https://192.0.2.7/x", "192.0.2.7"),
        ("https://a/@evil.example", "a"),
    ],
)
def test_a_plain_url_has_a_host(url: str, host: str) -> None:
    assert host_of(url) == host


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com",
        "https:example.com",
        "https:/example.com",
        "https:///example.com",
        "https:\\\\example.com",
        "ftp://example.com",
        "file:///etc/passwd",
        "gs://bucket/x",
        "data:image/png;base64,AAAA",
        "https://",
        "https://.example.com",
        "https://-example.com",
        "https://user@example.com",
        "https://user:pw@example.com",
        "https://example.com@evil.example",
        "https://example.com:@evil.example",
        "https://example.com:80@evil.example",
        "https://example.com\\@evil.example",
        "https://example.com?@evil.example",
        "https://example.com#@evil.example",
        "https://exam\tple.com",
        "https://exam\nple.com/",
        " https://example.com",
        "https://example.com ",
        "https://example.com%2eevil.example",
        "https://bücher.example",
        "https://example。com",
        "https://ｅxample.com",
        "https://[::1]/",
        "https://[::ffff:192.0.2.7]/",
        "https://example.com:port/",
        "https://example_com/",
        "https://example.com\x00.evil.example",
        "https://example.com,evil.example",
    ],
)
def test_what_could_be_read_in_two_ways_has_none(url: str) -> None:
    assert host_of(url) is None


def test_a_host_is_allowed_by_its_name_or_by_what_it_is_under() -> None:
    allowed = ("Example.com.", "*.cdn.example", "192.0.2.7")
    for host in ("example.com", "a.cdn.example", "b.a.cdn.example", "192.0.2.7"):
        assert is_among(host, allowed)
    for other in (None, "cdn.example", "notexample.com", "www.example.com", "evilcdn.example", "3221225991", ""):
        assert not is_among(other, allowed)


@given(st.text())
def test_no_text_makes_it_fail(text: str) -> None:
    for url in (text, f"https://{text}", f"https://example.com{text}"):
        host = host_of(url)
        assert host is None or (host.isascii() and host == host.lower() and host in url.lower())


@given(st.text(alphabet="@:/\\?#.%[]\t \u3002x", max_size=12))
def test_nothing_behind_an_allowed_host_makes_it_another(rest: str) -> None:
    """As Python's own parser and the one of browsers read it: neither may find another host than we."""
    if host_of("https://example.com" + rest) == "example.com":
        assert rest == "" or rest[0] in "/.:"
        authority = rest.partition("/")[0]
        assert set(authority) <= set(".:0123456789")
