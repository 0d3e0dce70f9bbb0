"""Orders as Envoy reads them."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from extproc.adapter import codec
from extproc.call import UNCHANGED, BodyMode, Emit, Leg, Pass, Relay, Reply, Route
from protos.ext_proc_pb2 import CommonResponse, HeaderValueOption, ProcessingMode, ProcessingResponse

LEGS = (Leg("one", "/v1/chat/completions", "gpt-4o"), Leg("two", "/openai/x?api-version=1", "swe", "gpt-4o-swe"))
ORDER = {
    "sluice.order": {
        "priority_groups": [
            {"name": "g0", "clusters": [{"cluster_name": "backend_one", "weight": 1}]},
            {"name": "g1", "clusters": [{"cluster_name": "backend_two", "weight": 1}]},
        ]
    },
    "sluice.chain": {
        "path": {"backend_one": "/v1/chat/completions", "backend_two": "/openai/x?api-version=1"},
        "deployed": {"backend_one": "gpt-4o", "backend_two": "swe"},
        "model": {"backend_two": "gpt-4o-swe"},
    },
}


def _parse(reply: bytes) -> ProcessingResponse:
    return ProcessingResponse.FromString(reply)


def _metadata(reply: ProcessingResponse) -> dict[str, Any]:
    found: dict[str, Any] = MessageToDict(reply.dynamic_metadata)
    return found


def _headers(response: CommonResponse) -> dict[str, bytes]:
    """The headers that are set, each over whatever was there."""
    options = response.header_mutation.set_headers
    assert all(option.append_action == HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD for option in options)
    assert all(not option.header.value for option in options), "only raw_value is read"
    return {option.header.key: option.header.raw_value for option in options}


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (codec.PROCEED_REQUEST_HEADERS, "request_headers"),
        (codec.PROCEED_REQUEST_TRAILERS, "request_trailers"),
        (codec.PROCEED_RESPONSE_TRAILERS, "response_trailers"),
        (codec.UNCHANGED_RESPONSE_BODY, "response_body"),
    ],
)
def test_a_constant_reply_answers_in_kind_and_changes_nothing(reply: bytes, kind: str) -> None:
    parsed = MessageToDict(_parse(reply), preserving_proto_field_name=True)
    assert parsed == {kind: {}}


def test_a_route_after_the_body_orders_clusters_paths_names_and_length() -> None:
    parsed = _parse(codec.route_after_body(Route(LEGS, ("cookie", "authorization"), b"changed", 7, 10, 16)))
    assert parsed.WhichOneof("response") == "request_body"
    response = parsed.request_body.response
    assert response.clear_route_cache, "or the order is never looked at"
    assert _headers(response) == {"x-sluice-routed": b"1", "x-envoy-max-retries": b"1", "content-length": b"7"}
    assert list(response.header_mutation.remove_headers) == ["cookie", "authorization"]
    assert response.body_mutation.body == b"changed"
    # Numbers are strings: Envoy would turn them into doubles.
    assert _metadata(parsed) == ORDER | {"sluice.call": {"cl": "7", "at": "10", "to": "16"}}


def test_a_route_that_changes_nothing_leaves_the_body_and_its_length_alone() -> None:
    parsed = _parse(codec.route_after_body(Route(LEGS[:1], length=5)))
    assert not parsed.request_body.response.HasField("body_mutation")
    assert _headers(parsed.request_body.response) == {"x-sluice-routed": b"1", "x-envoy-max-retries": b"0"}
    assert _metadata(parsed)["sluice.call"] == {"cl": "5"}, "the clusters set it on every attempt"


def test_a_route_after_the_headers_answers_the_headers() -> None:
    parsed = _parse(codec.route_after_headers(Route(LEGS[:1])))
    assert parsed.WhichOneof("response") == "request_headers"
    assert parsed.request_headers.response.clear_route_cache
    assert _metadata(parsed)["sluice.chain"] == {
        "path": {"backend_one": "/v1/chat/completions"},
        "deployed": {"backend_one": "gpt-4o"},
        "model": {},
    }
    assert "sluice.call" not in _metadata(parsed), "there is no body whose length could be told"


@pytest.mark.parametrize("legs", [LEGS, LEGS[:1]], ids=["renamed", "same name"])
@pytest.mark.parametrize("length", [0, 9, 10, 99_999, 100_000, 8 * 2**20])
def test_routes_over_the_same_legs_share_nothing_of_their_own(legs: tuple[Leg, ...], length: int) -> None:
    for at in (1, 22):
        parsed = _parse(codec.route_after_body(Route(legs, length=length, at=at, to=at + 1)))
        names = {"at": str(at), "to": str(at + 1)} if legs is LEGS else {}
        assert _metadata(parsed)["sluice.call"] == {"cl": str(length), **names}
        assert len(_metadata(parsed)["sluice.order"]["priority_groups"]) == len(legs), "merged, not repeated"


@pytest.mark.parametrize("length", [None, 7])
@pytest.mark.parametrize("legs", [LEGS, LEGS[:1]])
def test_an_identity_stands_beside_the_other_facts_of_a_call(legs: tuple[Leg, ...], length: int | None) -> None:
    def facts(identity: str | None) -> dict[str, Any]:
        route = Route(legs, length=length, at=1, to=3, identity=identity)
        found: dict[str, Any] = _metadata(_parse(codec.route_after_body(route))).get("sluice.call", {})
        return found

    assert facts("signed") == facts(None) | {"identity": "signed"}
    assert "identity" not in facts(None)


def test_a_long_query_of_a_caller_is_steered_like_any_other_and_not_kept() -> None:
    before = codec._steer_often.cache_info().currsize
    path = "/v1/chat/completions?" + "x" * 5000
    parsed = _parse(codec.route_after_body(Route((Leg("one", path, "m"),), length=1)))
    assert _metadata(parsed)["sluice.chain"]["path"] == {"backend_one": path}
    assert codec._steer_often.cache_info().currsize == before


@pytest.mark.parametrize("end", [True, False])
def test_a_piece_of_a_form(end: bool) -> None:
    parsed = _parse(codec.request_chunk(Pass(b"\x00\xff", end)))
    assert parsed.WhichOneof("response") == "request_body"
    streamed = parsed.request_body.response.body_mutation.streamed_response
    assert (streamed.body, streamed.end_of_stream) == (b"\x00\xff", end)


def test_an_answer_of_our_own() -> None:
    order = Reply(429, (("content-type", "application/json"), ("x-odd", "é")), b'{"a":1}', "sluice_code")
    parsed = _parse(codec.reply(order)).immediate_response
    assert (parsed.status.code, parsed.body, parsed.details) == (429, b'{"a":1}', "sluice_code")
    set_headers = {option.header.key: option.header.raw_value for option in parsed.headers.set_headers}
    assert set_headers == {"content-type": b"application/json", "x-odd": b"\xe9"}


@pytest.mark.parametrize("resized", [True, False])
@pytest.mark.parametrize("mode", BodyMode)
def test_a_relay_names_the_whole_mode_and_drops_a_length_that_may_change(mode: BodyMode, resized: bool) -> None:
    parsed = _parse(codec.relay(Relay(mode, resized)))
    assert parsed.WhichOneof("response") == "response_headers"
    removed = list(parsed.response_headers.response.header_mutation.remove_headers)
    assert removed == (["content-length"] if resized else [])
    if mode is BodyMode.NONE:
        assert not parsed.HasField("mode_override")
        return
    names = {BodyMode.DUPLEX: "FULL_DUPLEX_STREAMED", BodyMode.PARTIAL: "BUFFERED_PARTIAL"}
    wanted = ProcessingMode.BodySendMode.Value(names.get(mode, mode.name))
    assert parsed.mode_override.response_body_mode == wanted
    trailers = parsed.mode_override.response_trailer_mode == ProcessingMode.SEND
    assert trailers is (mode is BodyMode.DUPLEX), "Envoy demands them with it"
    assert parsed.mode_override.request_header_mode == ProcessingMode.SEND
    assert parsed.mode_override.response_header_mode == ProcessingMode.SEND


TOLD = (("x-ratelimit-limit-tokens", "100000"), ("x-ratelimit-reset-tokens", "1m2.5s"))


@pytest.mark.parametrize("resized", [True, False])
@pytest.mark.parametrize("mode", BodyMode)
@pytest.mark.parametrize("replaced", [(), ("x-ratelimit-limit-tokens", "ratelimit-reset"), ("x-" + "y" * 5000,)])
def test_headers_are_set_on_an_answer_in_place_of_others(
    mode: BodyMode, resized: bool, replaced: tuple[str, ...]
) -> None:
    parsed = _parse(codec.relay(Relay(mode, resized, TOLD), replaced))
    common = parsed.response_headers.response
    assert _headers(common) == {name: value.encode() for name, value in TOLD}
    assert list(common.header_mutation.remove_headers) == (["content-length"] if resized else []) + list(replaced)
    assert parsed.mode_override == _parse(codec.relay(Relay(mode, resized))).mode_override


@given(st.lists(st.tuples(st.text("abc-", min_size=1), st.text(st.characters(codec="latin-1"))), max_size=4))
def test_any_value_is_set_as_it_is(headers: list[tuple[str, str]]) -> None:
    parsed = _parse(codec.relay(Relay(BodyMode.NONE, headers=tuple(headers))))
    options = parsed.response_headers.response.header_mutation.set_headers
    told = [(option.header.key, option.header.raw_value.decode("latin-1")) for option in options]
    assert told == headers
    assert all(option.append_action == HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD for option in options)


def test_long_names_of_a_providers_headers_are_not_kept() -> None:
    before = codec._without_often.cache_info().currsize
    codec.relay(Relay(BodyMode.NONE, headers=TOLD), ("x-ratelimit-" + "y" * 5000,))
    assert codec._without_often.cache_info().currsize == before


def test_a_piece_of_the_answer() -> None:
    assert codec.emit(UNCHANGED) == codec.UNCHANGED_RESPONSE_BODY
    changed = _parse(codec.emit(Emit(b"new"))).response_body.response.body_mutation
    assert changed.body == b"new"
    nothing = _parse(codec.emit(Emit(b""))).response_body.response.body_mutation
    assert nothing.WhichOneof("mutation") == "clear_body", "an empty `body` would be no mutation at all"
    assert nothing.clear_body


def _streamed(replies: list[bytes]) -> list[tuple[bytes, bool]]:
    """The bodies of the replies and whether each ends the answer."""
    parsed = [_parse(reply).response_body.response.body_mutation for reply in replies]
    assert all(mutation.WhichOneof("mutation") == "streamed_response" for mutation in parsed)
    return [(mutation.streamed_response.body, mutation.streamed_response.end_of_stream) for mutation in parsed]


@pytest.mark.parametrize(
    ("order", "end", "sent"),
    [
        (UNCHANGED, False, [(b"told", False)]),
        (UNCHANGED, True, [(b"told", True)]),
        (Emit(b"new"), False, [(b"new", False)]),
        (Emit(b"new"), True, [(b"new", True)]),
        (Emit(b"new", last=True), False, [(b"new", True)]),
        (Emit(last=True), False, [(b"told", True)]),
        (Emit(b""), False, []),
        (Emit(b""), True, [(b"", True)]),
        (Emit(b"", last=True), False, [(b"", True)]),
    ],
)
def test_in_duplex_a_piece_is_sent_by_its_bytes_and_the_end_once(
    order: Emit, end: bool, sent: list[tuple[bytes, bool]]
) -> None:
    assert _streamed(codec.pieces(order, b"told", end)) == sent


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 131_072, 131_073, 1_000_000])
@pytest.mark.parametrize("end", [True, False])
def test_in_duplex_no_reply_is_large_and_only_the_last_one_ends(size: int, end: bool) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    sent = _streamed(codec.pieces(UNCHANGED, body[:size], end))
    assert b"".join(piece for piece, _ in sent) == body[:size]
    assert all(0 < len(piece) <= 65_536 for piece, _ in sent)
    assert [ends for _, ends in sent] == [False] * (len(sent) - 1) + [end]
