"""Bad bodies and bad credentials: a clear 4xx in the shape of the surface, no upstream call, one record without text.

Every case is sent to every JSON surface, through the real Envoy; the worker must be the same one afterwards.
"""

import base64
import gzip
import json
import secrets
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from extproc.identity.keys import mint
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway
from tests.support.raw_http import Answer, Connection, chunk, chunked, form, head, request

Json = dict[str, Any]

CANARY = "canary-of-the-callers-text"
SAY = [{"role": "user", "content": CANARY}]
BACKENDS = ("openai", "azure", "azure-v1", "anthropic")


@dataclass(frozen=True, slots=True)
class Surface:
    """A JSON surface: how a valid call of it looks. `text`: the field that holds the caller's text."""

    family: str
    path: str
    fields: Json
    text: str

    @property
    def body(self) -> bytes:
        return json.dumps(self.fields).encode()


LEGACY = "/openai/deployments/gpt-4o-azure/chat/completions?api-version=2024-10-21"
SURFACES = {
    "chat": Surface("openai", "/v1/chat/completions", {"model": "gpt-4o", "messages": SAY}, "messages"),
    "azure-legacy": Surface("azure", LEGACY, {"model": "gpt-4o-azure", "messages": SAY}, "messages"),
    "azure-v1": Surface(
        "azure", "/openai/v1/chat/completions", {"model": "gpt-4o-azure-v1", "messages": SAY}, "messages"
    ),
    "completions": Surface("openai", "/v1/completions", {"model": "gpt-4o", "prompt": CANARY}, "prompt"),
    "embeddings": Surface("openai", "/v1/embeddings", {"model": "text-embedding-3-small", "input": CANARY}, "input"),
    "responses": Surface("openai", "/v1/responses", {"model": "gpt-4o", "input": CANARY}, "input"),
    "messages": Surface(
        "anthropic",
        "/anthropic/v1/messages",
        {"model": "claude-sonnet-5-5", "messages": SAY, "max_tokens": 9},
        "messages",
    ),
    "count_tokens": Surface(
        "anthropic", "/v1/messages/count_tokens", {"model": "claude-sonnet-5-5", "messages": SAY}, "messages"
    ),
    "speech": Surface(
        "openai", "/v1/audio/speech", {"model": "gpt-4o-mini-tts", "input": CANARY, "voice": "alloy"}, "input"
    ),
    "images": Surface("openai", "/v1/images/generations", {"model": "gpt-image-1", "prompt": CANARY}, "prompt"),
    "moderations": Surface("openai", "/v1/moderations", {"model": "omni-moderation-latest", "input": CANARY}, "input"),
    "rerank": Surface("openai", "/v1/rerank", {"model": "rerank-v3.5", "query": CANARY, "documents": ["a"]}, "query"),
}
CHAT = SURFACES["chat"]


@pytest.fixture(autouse=True)
def steady(gateway: RunningGateway) -> Iterator[None]:
    """The worker that took the first call is there after the last."""
    before = [worker.pid for worker in gateway.processes("extproc.worker")]
    yield
    assert [worker.pid for worker in gateway.processes("extproc.worker")] == before


def send(gateway: RunningGateway, data: bytes) -> Answer:
    with Connection(gateway.port) as connection:
        connection.try_send(data)
        return connection.answer()


def call(gateway: RunningGateway, surface: Surface, body: bytes, content_type: str = "application/json") -> Answer:
    return send(gateway, request(surface.path, body, gateway.key, content_type, anthropic_version="2023-06-01"))


def no_backend_called(fake: FakeProvider) -> bool:
    return not any(fake.calls(name) for name in BACKENDS)


def assert_refused(
    gateway: RunningGateway, fake: FakeProvider, answer: Answer, family: str, status: int, code: str
) -> Json:
    """The refusal in its surface's shape, nothing upstream, one record and no text; returns the error."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    told = answer.json()
    error: Json = told["error"]
    assert (error["code"], told["request_id"]) == (code, answer.request_id)
    assert error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    assert ("type" in told) == (family == "anthropic")
    assert ("status" in error) == (family == "azure")
    assert no_backend_called(fake)
    record = gateway.record(answer.request_id)
    assert (record["status"], record["refusal"], record["ending"]) == (status, code, "refused")
    assert "usage" not in record
    assert len([line for line in gateway.records() if line["request_id"] == answer.request_id]) == 1
    assert CANARY not in f"{answer.body!r} {record} {gateway.log()}"
    return error


# ---- bodies that every surface refuses -----------------------------------------------------------------


def with_first(text: bytes) -> Callable[[Surface], bytes]:
    """The valid body with more fields before its own."""
    return lambda surface: b"{" + text + b"," + surface.body[1:]


def with_last(text: bytes) -> Callable[[Surface], bytes]:
    return lambda surface: surface.body[:-1] + b"," + text + b"}"


BROKEN: dict[str, Callable[[Surface], bytes]] = {
    "empty": lambda _: b"",
    "white space": lambda _: b" \n\t",
    "cut at its end": lambda surface: surface.body[:-1],
    "cut within a string": lambda surface: surface.body[: surface.body.index(CANARY.encode()) + 3],
    "byte order mark": lambda surface: b"\xef\xbb\xbf" + surface.body,
    "UTF-16": lambda surface: surface.body.decode().encode("utf-16"),
    "trailing bytes": lambda surface: surface.body + b"x",
    "two objects": lambda surface: surface.body * 2,
    "trailing NUL": lambda surface: surface.body + b"\0",
    "list": lambda surface: b"[" + surface.body + b"]",
    "string": lambda _: b'"hello"',
    "number": lambda _: b"1",
    "null": lambda _: b"null",
    "comment": with_first(b'/* no JSON */ "a":1'),
    "single quotes": with_first(b"'a':1"),
    "trailing comma": lambda surface: surface.body[:-1] + b",}",
    "bare key": with_first(b"a:1"),
    "NaN": with_last(b'"temperature":NaN'),
    "Infinity": with_last(b'"temperature":-Infinity'),
    "plus sign": with_last(b'"temperature":+1'),
    "leading zero": with_last(b'"temperature":01'),
    "control character": with_last(b'"a":"\x01"'),
    "bad escape": with_last(b'"a":"\\x41"'),
    "invalid UTF-8": with_last(b'"a":"\xff"'),
    "overlong UTF-8": with_last(b'"a":"\xc0\xaf"'),
    "surrogate in UTF-8": with_last(b'"a":"\xed\xa0\x80"'),
    "deep list": with_last(b'"a":' + b"[" * 300 + b"]" * 300),
    "deep object": with_last(b'"a":' + b'{"a":' * 300 + b"1" + b"}" * 300),
    "unclosed bomb": lambda _: b"[" * 100_000,
    "bomb within": with_last(b'"a":' + b"[" * 100_000),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("surface", SURFACES)
def test_what_is_not_one_json_object_is_refused(
    surface: str, case: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    answer = call(gateway, SURFACES[surface], BROKEN[case](SURFACES[surface]))
    assert_refused(gateway, fake, answer, SURFACES[surface].family, 400, "invalid_json")


AMBIGUOUS: dict[str, Callable[[Surface], bytes]] = {
    "model twice": with_first(b'"model":"gpt-nobody"'),
    "model twice, equal": lambda surface: with_first(b'"model":"%s"' % surface.fields["model"].encode())(surface),
    "Model": with_last(b'"Model":"gpt-nobody"'),
    "MODEL": with_first(b'"MODEL":null'),
    "model by an escape": with_last(b'"\\u006dodel":"gpt-nobody"'),
    "text twice": lambda surface: with_last(b'"%s":[]' % surface.text.encode())(surface),
    "text in capitals": lambda surface: with_last(b'"%s":[]' % surface.text.upper().encode())(surface),
    "text with a long s": lambda surface: with_last(b'"%s":[]' % surface.text.replace("s", "ſ").encode())(surface),
}


@pytest.mark.parametrize(
    ("surface", "case"),
    [
        (surface, case)
        for surface in SURFACES
        for case in AMBIGUOUS
        if case != "text with a long s" or "s" in SURFACES[surface].text
    ],
)
def test_a_field_that_can_be_read_in_two_ways_is_refused(
    surface: str, case: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    """Go's parser takes `Model` for `model` and the long s for an s; the backend may be written in Go."""
    answer = call(gateway, SURFACES[surface], AMBIGUOUS[case](SURFACES[surface]))
    error = assert_refused(gateway, fake, answer, SURFACES[surface].family, 400, "duplicate_field")
    assert ("model" if "odel" in case.lower() else SURFACES[surface].text) in error["message"]


INSIDE = {
    "content twice": b'{"role":"user","content":"a","content":"b"}',
    "Content": b'{"role":"user","content":"a","Content":"b"}',
    "role twice": b'{"role":"user","role":"system","content":"a"}',
    "text twice in a part": b'{"role":"user","content":[{"type":"text","text":"a","text":"b"}]}',
    "type twice in a part": b'{"role":"user","content":[{"type":"text","type":"image_url","text":"a"}]}',
}


@pytest.mark.parametrize("case", INSIDE)
@pytest.mark.parametrize("surface", ["chat", "azure-legacy", "azure-v1", "messages", "count_tokens"])
def test_a_doubled_field_deep_inside_is_refused(
    surface: str, case: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    place = SURFACES[surface]
    body = place.body.replace(json.dumps(SAY).encode(), b"[" + INSIDE[case] + b"]")
    assert_refused(gateway, fake, call(gateway, place, body), place.family, 400, "duplicate_field")


@pytest.mark.parametrize("surface", SURFACES)
def test_doubled_fields_that_policy_does_not_read_pass_as_they_came(
    surface: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    place = SURFACES[surface]
    odd = b'"x_mine":1,"x_mine":2,"X_Mine":{"a":1,"a":2,"n":-0,"model":"a","MODEL":"b"}'
    body = with_last(odd)(place)
    assert call(gateway, place, body).status == 200
    (seen,) = [seen for name in BACKENDS for seen in fake.calls(name)]
    assert odd in bytes_of(seen)


def bytes_of(seen: Json) -> bytes:
    return base64.b64decode(seen["body_base64"])


WRONG_TYPES: dict[str, list[tuple[bytes, str]]] = {
    "chat": [
        (b'"model":1', "model"),
        (b'"model":["gpt-4o"]', "model"),
        (b'"model":{"name":"gpt-4o"}', "model"),
        (b'"messages":{}', "messages"),
        (b'"messages":"text"', "messages"),
        (b'"messages":[]', "messages"),
        (b'"messages":null', "messages"),
        (b'"messages":["text"]', "messages"),
        (b'"messages":[{"role":"user","content":1}]', "content"),
        (b'"messages":[{"role":"user","content":{"a":1}}]', "content"),
        (b'"messages":[{"role":"user","content":["a"]}]', "content"),
        (b'"messages":[{"role":"user","content":[{"type":"text","text":1}]}]', "text"),
        (b'"stream":"true"', "stream"),
        (b'"stream":1', "stream"),
        (b'"stream":true,"stream_options":1', "stream_options"),
        (b'"stream":true,"stream_options":{"include_usage":"yes"}', "include_usage"),
        (b'"max_tokens":"100"', "max_tokens"),
        (b'"max_tokens":-1', "max_tokens"),
        (b'"max_tokens":1e12', "max_tokens"),
        (b'"max_tokens":1000000000000', "max_tokens"),
        (b'"max_tokens":1.5', "max_tokens"),
        (b'"max_tokens":true', "max_tokens"),
        (b'"max_completion_tokens":-1', "max_completion_tokens"),
        (b'"n":0', "n"),
        (b'"n":-1', "n"),
        (b'"n":1000', "n"),
        (b'"n":"2"', "n"),
    ],
    "completions": [(b'"prompt":1', "prompt"), (b'"prompt":{}', "prompt"), (b'"best_of":1000', "best_of")],
    "embeddings": [(b'"input":1', "input"), (b'"input":{}', "input"), (b'"input":[1.5]', "input")],
    "responses": [(b'"input":1', "input"), (b'"max_output_tokens":-1', "max_output_tokens")],
    "messages": [
        (b'"messages":{}', "messages"),
        (b'"max_tokens":-1', "max_tokens"),
        (b'"max_tokens":"9"', "max_tokens"),
        (b'"stream":"true"', "stream"),
        (b'"system":1', "system"),
    ],
    "speech": [(b'"input":1', "input"), (b'"input":["a"]', "input")],
    "images": [(b'"prompt":1', "prompt"), (b'"n":1000', "n")],
}


def instead(surface: Surface, text: bytes) -> bytes:
    """The valid body with these fields in place of its own of the same names."""
    names = {text.split(b'"')[1].decode()}
    kept = {name: value for name, value in surface.fields.items() if name not in names}
    return b"{" + text + b"," + json.dumps(kept).encode()[1:] if kept else b"{" + text + b"}"


@pytest.mark.parametrize(
    ("surface", "text", "param"),
    [(surface, text, param) for surface, cases in WRONG_TYPES.items() for text, param in cases],
)
def test_a_value_of_a_wrong_type_is_refused_by_name(
    surface: str, text: bytes, param: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    place = SURFACES[surface]
    answer = call(gateway, place, instead(place, text))
    error = assert_refused(gateway, fake, answer, place.family, 400, "invalid_value")
    assert param in error["message"]


HEAVY: dict[str, Callable[[], bytes]] = {
    "depth 100,000": lambda: with_last(b'"a":' + b"[" * 100_000 + b"]" * 100_000)(CHAT),
    "depth 1,000,000": lambda: with_last(b'"a":' + b"[" * 1_000_000 + b"]" * 1_000_000)(CHAT),
    "objects of depth 1,000,000": lambda: with_last(b'"a":' + b'{"":' * 1_000_000 + b"1" + b"}" * 1_000_000)(CHAT),
    "a million empty lists": lambda: with_last(b'"a":[' + b",".join([b"[[]]"] * 1_000_000) + b"]")(CHAT),
    "half a million keys": lambda: with_first(b",".join(b'"k%d":1' % n for n in range(500_000)))(CHAT),
    "a million backslashes": lambda: with_last(b'"a":"' + b"\\\\" * 1_000_000)(CHAT),
    "four million strings": lambda: with_last(b'"a":["' + b"[" * 200_000 + b'"]' + b'""' * 3_500_000)(CHAT),
    "a million quotes": lambda: b"{" + b'"' * 1_000_000,
}


@pytest.mark.parametrize("case", HEAVY)
def test_a_body_made_to_be_hard_to_read_is_refused_and_the_worker_lives(
    case: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    answer = call(gateway, CHAT, HEAVY[case]())
    assert_refused(gateway, fake, answer, "openai", 400, "invalid_json")
    assert call(gateway, CHAT, CHAT.body).status == 200


def test_a_long_string_is_no_bomb(gateway: RunningGateway, fake: FakeProvider) -> None:
    body = json.dumps({**CHAT.fields, "messages": [{"role": "user", "content": "x" * 7_000_000}]}).encode()
    assert call(gateway, CHAT, body).status == 200
    assert fake.calls("openai")[0]["body_bytes"] == len(body)


NUMBERS = [b"1" * 5000, b"-" + b"9" * 400, b"1e400", b"-1e400", b"1" + b"0" * 30]


@pytest.mark.parametrize("number", NUMBERS, ids=["5,000 digits", "400 digits", "1e400", "-1e400", "1e30"])
@pytest.mark.parametrize("name", ["max_tokens", "n"])
def test_a_number_beyond_all_bounds_is_refused(
    name: str, number: bytes, gateway: RunningGateway, fake: FakeProvider
) -> None:
    answer = call(gateway, CHAT, with_last(b'"%s":%s' % (name.encode(), number))(CHAT))
    assert answer.json()["error"]["code"] in ("invalid_value", "invalid_json")
    assert_refused(gateway, fake, answer, "openai", 400, answer.json()["error"]["code"])


TEXTS = {
    "Chinese": "请用一句话介绍你自己。",
    "Japanese": "こんにちは、世界。",
    "Arabic": "مرحبا بالعالم، كيف حالك؟",
    "Hindi": "नमस्ते दुनिया",
    "Thai": "สวัสดีชาวโลก",
    "Hebrew": "שלום עולם",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈👍🏽",
    "combining": "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!",
    "zero width": "a\u200bb\u200dc\ufeffd\u2028e\u2029f",
    "NUL": "a\x00b",
    "controls": "\x01\x1b[31m\x7f",
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("escaped", [False, True], ids=["UTF-8", "escapes"])
@pytest.mark.parametrize("name", TEXTS)
def test_every_script_passes_byte_for_byte(
    name: str, escaped: bool, stream: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    text = TEXTS[name]
    fields = {**CHAT.fields, "messages": [{"role": "user", "content": text}], "stream": stream}
    answer = call(gateway, CHAT, json.dumps(fields, ensure_ascii=escaped).encode())
    assert answer.status == 200
    seen = bytes_of(fake.calls("openai")[0])
    assert json.dumps(text, ensure_ascii=escaped).encode() in seen
    assert spoken(answer, stream).startswith(f"You said: {text}")
    assert gateway.record(answer.request_id)["usage"]["source"] == "reported"


def test_half_a_character_is_refused(gateway: RunningGateway, fake: FakeProvider) -> None:
    """A lone surrogate can be written by an escape, and parsers disagree on what it is."""
    answer = call(gateway, CHAT, json.dumps({**CHAT.fields, "user": "\ud800"}).encode())
    assert_refused(gateway, fake, answer, "openai", 400, "invalid_json")


def spoken(answer: Answer, stream: bool) -> str:
    if not stream:
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text
    events = [json.loads(line[6:]) for line in answer.body.decode().split("\n") if line.startswith("data: {")]
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)


@pytest.mark.parametrize("size", [1, 7, 16 * 1024])
def test_a_body_in_many_chunks_is_the_same_body(size: int, gateway: RunningGateway, fake: FakeProvider) -> None:
    filler = "é€😀\\u20ac".encode() * (1_000 if size == 1 else 20_000)
    body = with_last(b'"x_pad":"' + filler + b'"')(CHAT)
    answer = send(gateway, chunked(CHAT.path, body, gateway.key, size))
    assert answer.status == 200
    (seen,) = fake.calls("openai")
    assert (seen["body_bytes"], seen["complete"]) == (len(body), True)


# ---- encodings and types ---------------------------------------------------------------------------------

ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": bytes,
    "zstd": bytes,
    "x-gzip": gzip.compress,
    "gzip, gzip": lambda body: gzip.compress(gzip.compress(body)),
    "identity, gzip": gzip.compress,
    "GZIP": gzip.compress,
    "bogus": bytes,
    "gzip ": bytes,
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("surface", ["chat", "azure-legacy", "messages", "responses"])
def test_an_encoded_body_is_never_taken_for_something_unreadable_to_pass(
    surface: str, encoding: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    """Whether the label is right or not."""
    place = SURFACES[surface]
    body = ENCODINGS[encoding](place.body)
    headers = {
        "content-type": "application/json",
        "content-encoding": encoding,
        "content-length": str(len(body)),
    }
    answer = send(gateway, head("POST", place.path, headers, gateway.key) + body)
    assert_refused(gateway, fake, answer, place.family, 415, "unsupported_media_type")


def test_a_decompression_bomb_stays_closed(gateway: RunningGateway, fake: FakeProvider) -> None:
    bomb = gzip.compress(b'{"a":"' + b"a" * 50_000_000 + b'"}')
    headers = {"content-type": "application/json", "content-encoding": "gzip", "content-length": str(len(bomb))}
    answer = send(gateway, head("POST", CHAT.path, headers, gateway.key) + bomb)
    assert_refused(gateway, fake, answer, "openai", 415, "unsupported_media_type")


def test_two_content_encodings_are_refused(gateway: RunningGateway, fake: FakeProvider) -> None:
    headers = [
        ("content-type", "application/json"),
        ("content-encoding", "identity"),
        ("content-encoding", "gzip"),
        ("content-length", str(len(CHAT.body))),
    ]
    answer = send(gateway, head("POST", CHAT.path, headers, gateway.key) + CHAT.body)
    assert_refused(gateway, fake, answer, "openai", 415, "unsupported_media_type")


TYPES = ["text/plain", "application/x-www-form-urlencoded", "application/xml", "application/jsonx", "json", "", "*/*"]


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("surface", SURFACES)
def test_a_body_of_another_type_is_415(
    surface: str, content_type: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    place = SURFACES[surface]
    answer = call(gateway, place, place.body, content_type)
    assert_refused(gateway, fake, answer, place.family, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json;charset=UTF-8"]
)
def test_the_type_of_json_has_many_spellings(content_type: str, gateway: RunningGateway) -> None:
    assert call(gateway, CHAT, CHAT.body, content_type).status == 200


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits"])
def test_json_is_no_form(path: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    answer = send(gateway, request(path, CHAT.body, gateway.key))
    assert_refused(gateway, fake, answer, "openai", 415, "unsupported_media_type")


def test_a_form_is_no_json(gateway: RunningGateway, fake: FakeProvider) -> None:
    kind, body = form({"model": "gpt-4o"}, CANARY.encode())
    answer = call(gateway, CHAT, body, kind)
    assert_refused(gateway, fake, answer, "openai", 415, "unsupported_media_type")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gpt-4o"])
def test_a_list_asked_for_with_a_body_is_answered_all_the_same(path: str, gateway: RunningGateway) -> None:
    """RFC 9110, 9.3.1: the content of a GET has no meaning; its bytes must not become the next request."""
    headers = {"content-type": "application/json", "content-length": "20"}
    with Connection(gateway.port) as connection:
        connection.send(head("GET", path, headers, gateway.key) + b"x" * 20)
        assert connection.answer().status == 200
        connection.send(head("GET", "/v1/models", {}, gateway.key))
        assert connection.answer().status == 200


# ---- models -----------------------------------------------------------------------------------------------

NO_MODELS = [
    "gpt-nobody",
    "gpt-4o ",
    " gpt-4o",
    "GPT-4O",
    "gpt-4o\x00",
    "../gpt-4o",
    "openai/gpt-4o",
    "gpt-4o/../whisper-1",
    "ft:gpt-4o:company::id",
    "gpt‐4o",  # a hyphen of another kind
    "ｇｐｔ-4o",
    "backend_openai",
    "x" * 100_000,
    '"],"x":["',
]


@pytest.mark.parametrize("model", NO_MODELS, ids=range(len(NO_MODELS)))
@pytest.mark.parametrize("surface", ["chat", "azure-v1", "messages", "embeddings", "responses"])
def test_a_model_that_nobody_configured_is_404(
    surface: str, model: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    place = SURFACES[surface]
    answer = call(gateway, place, json.dumps({**place.fields, "model": model}).encode())
    error = assert_refused(gateway, fake, answer, place.family, 404, "model_not_found")
    assert model not in error["message"]


@pytest.mark.parametrize("surface", ["chat", "azure-v1", "messages", "embeddings", "responses"])
def test_an_empty_name_is_no_model(surface: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    place = SURFACES[surface]
    answer = call(gateway, place, json.dumps({**place.fields, "model": ""}).encode())
    assert_refused(gateway, fake, answer, place.family, 400, "missing_model")


# ---- credentials ---------------------------------------------------------------------------------------------

STRANGER = mint(secrets.token_bytes(32))  # well-formed, and nobody's


def with_credentials(gateway: RunningGateway, place: Surface, *credentials: tuple[str, bytes]) -> Answer:
    lines = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in credentials)
    plain = {"content-type": "application/json", "content-length": str(len(place.body))}
    opening = head("POST", place.path, plain)[:-2] + lines + b"\r\n"
    return send(gateway, opening + place.body)


def never_told(gateway: RunningGateway, answer: Answer, secret: bytes) -> bool:
    return secret not in answer.body and secret.decode("latin-1") not in gateway.log()


NO_CREDENTIAL: dict[str, tuple[tuple[str, bytes], ...]] = {
    "none": (),
    "empty": (("authorization", b""),),
    "empty Bearer": (("authorization", b"Bearer "),),
    "Bearer alone": (("authorization", b"Bearer"),),
    "empty in all": (("authorization", b""), ("api-key", b""), ("x-api-key", b"")),
    "placeholder": (("authorization", b"Bearer undefined"),),
}


@pytest.mark.parametrize("case", NO_CREDENTIAL)
@pytest.mark.parametrize("surface", ["chat", "azure-legacy", "messages"])
def test_no_credential_is_401(surface: str, case: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    answer = with_credentials(gateway, SURFACES[surface], *NO_CREDENTIAL[case])
    assert_refused(gateway, fake, answer, SURFACES[surface].family, 401, "missing_api_key")


BAD_CREDENTIALS = {
    "stranger": STRANGER.encode(),
    "SQL": b"' OR '1'='1' --",
    "SQL in ours": b"sk-sluice-' OR 1=1 --",
    "percent": b"sk-sluice-%",
    "underscores": b"sk-sluice-" + b"_" * 49,
    "Cyrillic": STRANGER.replace("s", "ѕ").encode(),
    "full width": STRANGER.replace("k", "ｋ").encode(),
    "NUL by escape": STRANGER.encode() + b"\\x00",
    "cut": STRANGER[:-1].encode(),
    "long": STRANGER.encode() * 50,
    "Basic": b"Basic " + b"dXNlcjpwYXNz",
    "digest": b"2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",
    "provider's": b"sk-proj-" + b"a" * 40,
    "high bytes": b"\xff\xfe" * 20,
}


@pytest.mark.parametrize("case", BAD_CREDENTIALS)
@pytest.mark.parametrize("header", ["authorization", "api-key", "x-api-key"])
def test_a_bad_credential_is_401_and_never_told(
    header: str, case: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    given = BAD_CREDENTIALS[case]
    value = b"Bearer " + given if header == "authorization" and case != "Basic" else given
    answer = with_credentials(gateway, CHAT, (header, value))
    assert_refused(gateway, fake, answer, "openai", 401, "invalid_api_key")
    assert never_told(gateway, answer, given)


@pytest.mark.parametrize("surface", ["chat", "azure-legacy", "messages"])
def test_a_key_anywhere_but_in_a_header_is_no_key(surface: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    place = SURFACES[surface]
    mark = "&" if "?" in place.path else "?"
    for query in ("api-key", "key", "api_key", "access_token", "authorization"):
        opened = Surface(place.family, f"{place.path}{mark}{query}={gateway.key}", place.fields, place.text)
        assert_refused(gateway, fake, with_credentials(gateway, opened), place.family, 401, "missing_api_key")
    inside = Surface(place.family, place.path, {**place.fields, "api_key": gateway.key}, place.text)
    assert_refused(gateway, fake, with_credentials(gateway, inside), place.family, 401, "missing_api_key")


def test_white_space_around_a_key_is_not_part_of_it(gateway: RunningGateway) -> None:
    """RFC 9110, 5.5: a field value has none at its ends; a line break cannot be in it at all."""
    key = gateway.key.encode()
    assert with_credentials(gateway, CHAT, ("authorization", b"  Bearer   " + key + b" \t")).status == 200
    assert with_credentials(gateway, CHAT, ("authorization", b"Bearer " + key + b"\\n")).status == 401


TWO_KEYS: dict[str, Callable[[bytes, bytes], tuple[tuple[str, bytes], ...]]] = {
    "two headers": lambda ours, other: (("authorization", b"Bearer " + ours), ("authorization", b"Bearer " + other)),
    "reversed": lambda ours, other: (("authorization", b"Bearer " + other), ("authorization", b"Bearer " + ours)),
    "joined": lambda ours, other: (("authorization", b"Bearer " + ours + b", Bearer " + other),),
    "joined bare": lambda ours, other: (("authorization", b"Bearer " + ours + b"," + other),),
    "authorization and x-api-key": lambda ours, other: (("authorization", b"Bearer " + ours), ("x-api-key", other)),
    "api-key and x-api-key": lambda ours, other: (("api-key", other), ("x-api-key", ours)),
    "x-api-key twice": lambda ours, other: (("x-api-key", ours), ("x-api-key", other)),
    "three": lambda ours, other: (("authorization", b"Bearer " + ours), ("api-key", ours), ("x-api-key", other)),
    "capitals": lambda ours, other: (("Authorization", b"BEARER " + ours), ("X-API-KEY", other)),
}


@pytest.mark.parametrize("case", TWO_KEYS)
@pytest.mark.parametrize("surface", ["chat", "azure-legacy", "messages"])
def test_two_different_keys_are_never_first_wins(
    surface: str, case: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    credentials = TWO_KEYS[case](gateway.key.encode(), STRANGER.encode())
    answer = with_credentials(gateway, SURFACES[surface], *credentials)
    assert_refused(gateway, fake, answer, SURFACES[surface].family, 400, "ambiguous_credentials")
    assert never_told(gateway, answer, STRANGER.encode())
    assert never_told(gateway, answer, gateway.key.encode())


def test_a_wrong_key_is_refused_before_its_body_is_read(gateway: RunningGateway, fake: FakeProvider) -> None:
    """Whoever may not call cannot make the gateway hold a body either."""
    headers = {"content-type": "application/json", "content-length": "8000000"}
    with Connection(gateway.port) as connection:
        connection.send(head("POST", CHAT.path, headers, STRANGER))
        answer = connection.answer()
    assert_refused(gateway, fake, answer, "openai", 401, "invalid_api_key")


# ---- forms -------------------------------------------------------------------------------------------------

SPEAK = "/v1/audio/transcriptions"
MARK = b"--boundary\r\n"


def field(name: str, value: str) -> bytes:
    return MARK + f'content-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


FILE = MARK + b'content-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + CANARY.encode() + b"\r\n"
END = b"--boundary--\r\n"
FORMS: dict[str, tuple[bytes, int, str]] = {
    "no model": (FILE + END, 400, "missing_model"),
    "model after the file": (FILE + field("model", "whisper-1") + END, 400, "missing_model"),
    "model twice": (field("model", "whisper-1") + field("model", "gpt-4o") + FILE + END, 400, "duplicate_field"),
    "model twice, again behind the file": (
        field("model", "whisper-1") + FILE + field("model", "gpt-4o") + END,
        400,
        "duplicate_field",
    ),
    "Model beside model": (field("model", "whisper-1") + field("Model", "x") + FILE + END, 400, "duplicate_field"),
    "unknown model": (field("model", "nobody") + FILE + END, 404, "model_not_found"),
    "ended at once": (b"\r\n", 400, "bad_request"),
    "no form at all": (b"RIFF" * 50, 400, "bad_request"),
    "only its end": (END, 400, "missing_model"),
}


@pytest.mark.parametrize("size", [None, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("case", FORMS)
def test_a_form_that_cannot_be_read_in_one_way_is_refused(
    case: str, size: int | None, gateway: RunningGateway, fake: FakeProvider
) -> None:
    """A backend that got the start of such a form never gets it whole."""
    body, status, code = FORMS[case]
    kind = "multipart/form-data; boundary=boundary"
    whole = request(SPEAK, body, gateway.key, kind)
    answer = send(gateway, whole if size is None else chunked(SPEAK, body, gateway.key, size, kind))
    assert answer.status == status
    assert answer.json()["error"]["code"] == code
    assert not any(seen["complete"] for name in BACKENDS for seen in fake.calls(name))
    record = gateway.record(answer.request_id)
    assert (record["status"], record["refusal"]) == (status, code)
    assert CANARY not in f"{record} {gateway.log()}"


BOUNDARIES = [
    "multipart/form-data",
    "multipart/form-data; boundary=",
    'multipart/form-data; boundary="a',
    "multipart/form-data; boundary=a; boundary=b",
]


@pytest.mark.parametrize("kind", BOUNDARIES)
def test_a_form_without_one_clear_boundary_is_refused(kind: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    answer = send(gateway, request(SPEAK, field("model", "whisper-1") + FILE + END, gateway.key, kind))
    assert_refused(gateway, fake, answer, "openai", 400, "bad_request")


def test_trailers_of_a_request_are_nobodys_business(gateway: RunningGateway, fake: FakeProvider) -> None:
    """They pass no policy, so they reach no backend."""
    headers = {"content-type": "application/json", "transfer-encoding": "chunked", "trailer": "x-team"}
    with Connection(gateway.port) as connection:
        connection.send(head("POST", CHAT.path, headers, gateway.key) + chunk(CHAT.body) + b"0\r\nx-team: a\r\n\r\n")
        assert connection.answer().status == 200
        connection.send(request(CHAT.path, CHAT.body, gateway.key))
        assert connection.answer().status == 200
    for seen in fake.calls("openai"):
        assert (seen["complete"], seen["malformed"]) == (True, False)
        assert not any(name == "x-team" for name, _ in seen["headers"])
