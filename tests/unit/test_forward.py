"""What goes to the providers: only what must change is changed, and nothing of ours goes along."""

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.call import Call, Leg, Phase, Route
from extproc.contract import CREDENTIAL_HEADERS
from extproc.dialects import paths
from extproc.dialects.multipart import FormReader
from extproc.dialects.openai_chat import read_chat
from extproc.headers import Headers
from extproc.model import Backend, Chain, CleanPrompt, Dialect, PublicModel, Target
from extproc.stages.forward import asks_usage, body_route, form_pass, legs, same_form, stripped
from extproc.surfaces import Face, Place, Surface
from tests.support.playbook import catalogue

OPENAI = Backend("openai", Dialect.OPENAI)
SECOND = Backend("second", Dialect.OPENAI)
LEGACY = Backend("legacy", Dialect.AZURE, api_version="2024-10-21")
ANCIENT = Backend("ancient", Dialect.AZURE, api_version="2023-05-15")
CHAT = Place(Surface.CHAT, Face.OPENAI)
PUBLIC = "gpt-4o"


def _chain(*targets: Target) -> Chain:
    return Chain(PublicModel(PUBLIC, (targets,)), targets)


# ---- headers that stay behind -----------------------------------------------------------------------


def _stripped(*names: str) -> list[str]:
    return list(stripped(Headers.of([(name, b"x") for name in names])))


def test_every_credential_header_stays_behind() -> None:
    assert set(_stripped(*CREDENTIAL_HEADERS)) == set(CREDENTIAL_HEADERS)


@pytest.mark.parametrize(
    "name",
    [
        *("x-sluice-team", "x_sluice_team", "x-sluice_team", "x-sluice", "x.sluice.team", "sluice-team", "x--sluice"),
        *("x-envoy-max-retries", "x_envoy_max_retries", "x-envoy-upstream-rq-timeout-ms", "x-envoy-original-path"),
        *(
            "x-forwarded-for",
            "x_forwarded_for",
            "x-forwarded-host",
            "x-forwarded-client-cert",
            "x-forwarded",
            "forwarded",
        ),
        *(
            "cookie",
            "cookie2",
            "set-cookie",
            "x-real-ip",
            "x-team-id",
            "x-user",
            "x-route",
            "via",
            "x-http-method-override",
        ),
        *("x-openai-organization", "openai-organization", "openai-project", "openai_beta", "x-anthropic-version"),
        *("api_key", "x_api_key", "authorization2", "proxy-authorization", "accept-encoding", "te", "connection"),
        *("x-forwarded-proto2", "x-stainless", "content-type2", "expect", "upgrade", "traceparent", "baggage", "b3"),
    ],
)
def test_what_is_not_known_to_be_harmless_stays_behind(name: str) -> None:
    assert _stripped(name) == [name]


@pytest.mark.parametrize(
    "name",
    [
        *(":method", ":path", ":authority", ":scheme"),
        *("content-type", "content-length", "transfer-encoding", "accept", "user-agent", "x-request-id"),
        *("openai-beta", "idempotency-key", "x-client-request-id", "x-ms-client-request-id", "x-forwarded-proto"),
        *("anthropic-version", "anthropic-beta", "x-stainless-retry-count", "x-claude-code-session-id"),
    ],
)
def test_what_providers_and_envoy_need_goes_along(name: str) -> None:
    assert _stripped(name) == []


@given(st.sampled_from(["sluice", "envoy", "forwarded"]), st.text("abc-_.0123456789", max_size=12))
def test_no_spelling_of_an_internal_header_goes_along(word: str, rest: str) -> None:
    for joint in "-_.":
        name = f"x{joint}{word}{joint}{rest}"
        if name != "x-forwarded-proto":
            assert _stripped(name) == [name]


def test_a_repeated_header_is_named_once() -> None:
    assert _stripped("cookie", "accept", "cookie") == ["cookie"]


# ---- legs -------------------------------------------------------------------------------------------


def test_a_leg_has_a_name_only_where_the_body_must_say_another() -> None:
    chain = _chain(Target(OPENAI, "gpt-4o"), Target(SECOND, "other"), Target(LEGACY, "swe"))
    assert legs(chain, CHAT, "", "gpt-4o") == (
        Leg("openai", "/v1/chat/completions", "gpt-4o"),
        Leg("second", "/v1/chat/completions", "other", "other"),
        Leg("legacy", "/openai/deployments/swe/chat/completions?api-version=2024-10-21", "swe"),
    )
    assert [leg.model for leg in legs(chain, CHAT, "", None)] == [None, None, None]


# ---- JSON bodies: every way to name a model × every way to ask for usage -----------------------------

MODELS = {
    "plain": b'"model":"gpt-4o"',
    "spaced": b'"model" :\n "gpt-4o"',
    "escaped value": rb'"model":"gpt\u002d4o"',
    "escaped key": rb'"mod\u0065l":"gpt-4o"',
    "null": b'"model": null',
    "absent": None,
}
OPTIONS = {
    "absent": None,
    "null": b'"stream_options": null',
    "empty": b'"stream_options":{ }',
    "false": b'"stream_options":{"include_usage":false}',
    "null inside": b'"stream_options":{"include_usage" : null,"x":1}',
    "other": b'"stream_options":{"include_obfuscation":true}',
    "escaped": rb'"stream\u005foptions":{"include\u005fusage":false}',
    "asked": b'"stream_options":{"include_usage":true}',
}
REST = (
    b'"messages": [ {"role":"user", "content":"\xc3\xa4 \\u00e4 \\/ \\" {\\"model\\":\\"x\\"}" } ]',
    b'"temperature":1.0e0',
    b'"metadata":{"model":"decoy","stream_options":{"include_usage":false}}',
)
CHAINS = {
    "same name": _chain(Target(OPENAI, "gpt-4o")),
    "other name": _chain(Target(OPENAI, "a-much-longer-name-of-a-deployment")),
    "shorter name": _chain(Target(OPENAI, "m")),
    "by path": _chain(Target(LEGACY, "swe")),
    "mixed": _chain(Target(LEGACY, "swe"), Target(OPENAI, "gpt-4o"), Target(SECOND, "third")),
    "no usage": _chain(Target(ANCIENT, "old"), Target(OPENAI, "third")),
}


@dataclass(frozen=True)
class Case:
    """A body, as it was built."""

    start: bytes
    pieces: tuple[bytes, ...]
    end: bytes
    model: bytes | None
    options: bytes | None

    @property
    def body(self) -> bytes:
        return b"{" + self.start + b" ,".join(self.pieces) + self.end

    def sendable(self) -> re.Pattern[bytes]:
        """The body as it may be sent: the values of `model` and `stream_options` are free, all else is as given."""
        parts = []
        for piece in self.pieces:
            key = re.escape(piece[: piece.index(b":") + 1])
            if piece is self.model:
                parts.append(key + rb'\s*(?:"[^"]*"|null)')
            elif piece is self.options:
                parts.append(key + rb"\s*(?:\{[^{}]*\}|null)")
            else:
                parts.append(re.escape(piece))
        asked = rb'(?:"stream_options":\{"include_usage":true\},)?' if self.options is None else b""
        named = rb'(?:"model":"[^"]*",)?' if self.model is None else b""
        return re.compile(
            rb"\{" + asked + named + re.escape(self.start) + b" ,".join(parts) + re.escape(self.end), re.DOTALL
        )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    model = draw(st.sampled_from([*MODELS.values()]))
    options = draw(st.sampled_from([*OPTIONS.values()]))
    stream = draw(st.sampled_from([b'"stream":true', b'"stream" : true', b'"stream":false']))
    pieces = [piece for piece in (model, options, stream, *REST) if piece is not None]
    start, end = draw(st.sampled_from([(b"", b"}"), (b"\r\n ", b" }\n"), (b"\t", b"\n}")]))
    return Case(start, tuple(draw(st.permutations(pieces))), end, model, options)


def _sent(route: Route, original: bytes, leg: Leg) -> bytes:
    """The body of one attempt, spliced as the cluster's filter does it."""
    body = original if route.body is None else route.body
    assert route.length == len(body)
    assert 0 <= route.at <= route.to <= len(body)
    return body if leg.model is None else body[: route.at] + leg.model.encode() + body[route.to :]


def _wanted(case: Case, chain: Chain, target: Target) -> dict[str, Any]:
    """The object that this target must read."""
    wanted: dict[str, Any] = json.loads(case.body)
    by_path = paths.names_model_in_path(target.backend, Surface.CHAT)
    if not by_path:
        wanted["model"] = target.model
    elif wanted.get("model") is None and not all(
        paths.names_model_in_path(t.backend, Surface.CHAT) for t in chain.targets
    ):
        wanted["model"] = PUBLIC
    if wanted["stream"] and all(paths.reports_stream_usage(t.backend) for t in chain.targets):
        wanted["stream_options"] = (wanted.get("stream_options") or {}) | {"include_usage": True}
    return wanted


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
@given(cases())
@settings(deadline=None)
def test_a_provider_reads_the_callers_object_with_only_model_and_usage_changed(chain: Chain, case: Case) -> None:
    prompt = read_chat(case.body)
    route = body_route(CleanPrompt(prompt), chain, CHAT, "", ("cookie",))
    assert route.remove == ("cookie",)
    sendable = case.sendable()
    assert sendable.fullmatch(case.body), "the pattern itself must fit"
    for leg, target in zip(route.legs, chain.targets, strict=True):
        sent = _sent(route, case.body, leg)
        assert json.loads(sent) == _wanted(case, chain, target)
        assert sendable.fullmatch(sent), "every other byte is the caller's"


def test_what_need_not_change_is_not_touched() -> None:
    for model in ("plain", "spaced", "escaped value", "escaped key"):
        body = b"{" + (MODELS[model] or b"") + b',"messages":[{"role":"user"}]}'
        route = body_route(CleanPrompt(read_chat(body)), CHAINS["same name"], CHAT, "", ())
        assert (route.body, route.length, route.legs[0].model) == (None, len(body), None)


def test_a_body_without_a_model_stays_so_where_no_target_reads_it() -> None:
    body = b'{"messages":[{"role":"user"}]}'
    route = body_route(CleanPrompt(read_chat(body)), CHAINS["by path"], CHAT, "", ())
    assert (route.body, route.at, route.to) == (None, 0, 0)


def test_the_model_of_a_deployment_path_replaces_the_one_in_the_body() -> None:
    body = b'{"model":"ignored","messages":[{"role":"user"}]}'
    route = body_route(CleanPrompt(read_chat(body)), CHAINS["same name"], CHAT, "", ())
    assert json.loads(_sent(route, body, route.legs[0]))["model"] == "gpt-4o"


@pytest.mark.parametrize(
    ("chain", "asks"), [("same name", True), ("by path", True), ("mixed", True), ("no usage", False)]
)
def test_usage_is_asked_for_only_where_every_target_knows_the_field(chain: str, asks: bool) -> None:
    prompt = read_chat(b'{"stream":true,"messages":[{"role":"user"}]}')
    assert asks_usage(prompt, CHAINS[chain], CHAT) is asks


def test_usage_that_the_caller_asked_for_is_not_asked_again() -> None:
    prompt = read_chat(b'{"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user"}]}')
    assert not asks_usage(prompt, CHAINS["same name"], CHAT)


# ---- forms ------------------------------------------------------------------------------------------

UPLOAD = Place(Surface.TRANSCRIPTIONS, Face.OPENAI)
FILE = b'--B\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF'
NAMED = b'--B\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n' + FILE


def _form_pass(held: bytes, target: Target, length: int | None = 1000) -> tuple[bytes, Route]:
    """The bytes and the route that a form with this start is sent with."""
    call = Call(started=0.0, catalogue=catalogue(), phase=Phase.ROUTED)
    call.content_length, call.stripped = length, ("cookie",)
    form = FormReader(b"--B", required=False)
    form.feed(held, False)
    order = form_pass(call, _chain(target), UPLOAD, form, held)
    assert not order.end
    assert order.route is not None
    return order.body, order.route


def test_a_streamed_form_is_changed_once_so_all_targets_must_take_the_same() -> None:
    one, renamed, other = Target(OPENAI, "w"), Target(SECOND, "w"), Target(Backend("x", Dialect.OPENAI), "y")
    by_path = Target(LEGACY, "swe")
    assert same_form(_chain(one, by_path, other, renamed), UPLOAD).targets == (one, by_path, renamed)
    assert same_form(_chain(by_path, other, one), UPLOAD).targets == (by_path, other)
    assert same_form(_chain(by_path), UPLOAD).targets == (by_path,)


def test_a_form_that_needs_no_other_name_is_sent_as_it_came() -> None:
    body, route = _form_pass(NAMED, Target(OPENAI, "whisper-1"))
    assert body == NAMED
    assert route == Route((Leg("openai", "/v1/audio/transcriptions", "whisper-1"),), ("cookie",), length=1000)


@pytest.mark.parametrize("name", ["w", "a-much-longer-name"])
def test_a_renamed_model_changes_its_span_and_the_length_alone(name: str) -> None:
    body, route = _form_pass(NAMED, Target(OPENAI, name))
    assert body == NAMED.replace(b"whisper-1", name.encode())
    assert route.length == 1000 + len(name) - len("whisper-1")


def test_a_form_whose_path_named_the_model_gets_it_as_its_first_field() -> None:
    body, route = _form_pass(FILE, Target(OPENAI, "whisper-1"))
    assert body.endswith(FILE)
    read = FormReader(b"--B")
    read.feed(body, False)
    assert read.model is not None
    assert read.model.model == "whisper-1"
    assert route.length == 1000 + len(body) - len(FILE)


def test_a_form_of_unknown_length_stays_so() -> None:
    assert _form_pass(NAMED, Target(OPENAI, "w"), length=None)[1].length is None


@pytest.mark.parametrize("held", [NAMED, FILE])
def test_a_backend_that_reads_the_path_gets_the_form_as_it_came(held: bytes) -> None:
    assert _form_pass(held, Target(LEGACY, "swe"))[0] == held
