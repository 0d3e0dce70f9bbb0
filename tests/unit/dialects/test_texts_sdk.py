"""Changed streams as the unmodified SDKs put them together, and recorded ones with placeholders in them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from extproc import surfaces
from extproc.dialects import json_strings, registry, sse
from extproc.dialects.answers import Document, Stream
from extproc.dialects.endings import Reason
from extproc.dialects.json_spans import splice
from extproc.redaction import positions
from extproc.redaction.answer import AnswerTexts
from extproc.redaction.changes import Change
from extproc.redaction.output import OutputGuard
from extproc.redaction.placeholders import Placeholders
from extproc.redaction.policy import Action, RedactionPolicy
from extproc.redaction.redactor import Redactor
from extproc.surfaces import Surface
from tests.support import cassettes
from tests.support.cassettes import Exchange
from tests.unit.dialects.telling import TELLINGS, Piece, Telling
from tests.unit.redaction.finding import findings

CAP = 10**6
POLICY = RedactionPolicy(
    input=dict.fromkeys(("EMAIL_ADDRESS", "CREDIT_CARD", "US_SSN", "PRIVATE_KEY"), Action.PLACEHOLDER),
    output={"EMAIL_ADDRESS": Action.MASK, "PROJECT": Action.BLOCK},
)
BOB, EVE, CARD = "bob@example.com", "eve@example.org", "4111 1111 1111 1111"
PEM = '-----BEGIN PRIVATE KEY-----\n"x"\\\n-----END PRIVATE KEY-----'


def placeholders() -> Placeholders:
    made = Placeholders(POLICY.grammar)
    made.of("EMAIL_ADDRESS", BOB)
    made.of("CREDIT_CARD", CARD)
    made.of("PRIVATE_KEY", PEM)
    return made


def guarding() -> AnswerTexts:
    return AnswerTexts(placeholders(), [OutputGuard(findings, Redactor(POLICY, POLICY.output))])


def changed(surface: Surface, texts: AnswerTexts, raw: bytes, size: int = 10**9) -> bytes:
    stream = Stream(registry.meter(surface, False), False, CAP, registry.event_texts(surface, texts, False))
    out = []
    for at in range(0, len(raw), size):
        piece = raw[at : at + size]
        new = stream.feed(piece, end=at + size >= len(raw))
        out.append(piece if new is None else new)
    if stream.blocked:
        out.append(stream.ending(5, tells_usage=True, reason=Reason.CONTENT))
    return b"".join(out)


@contextmanager
def reading(body: bytes) -> Iterator[httpx2.Client]:
    headers = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, content=body))
    with httpx2.Client(transport=transport) as client:
        yield client


@contextmanager
def openai_reading(body: bytes) -> Iterator[openai.OpenAI]:
    with reading(body) as client:
        yield openai.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=client, max_retries=0)


# ---- the SDKs -----------------------------------------------------------------------------------------


class Mail(BaseModel):
    to: str
    also: str


MAIL = '{"to": "<EMAIL_ADDRESS_1>", "also": "eve@example.org"}'
TEXT = 'So <EMAIL_ADDRESS_1>, "eve@example.org" and <CREDIT_CARD_1>.'
SAID = f'So {BOB}, "[EMAIL_ADDRESS]" and {CARD}.'


def pieces(text: str, size: int) -> list[Piece]:
    return [(0, text[at : at + size]) for at in range(0, len(text), size)]


def stream_of(name: str, text: str, size: int) -> bytes:
    (telling,) = [one for one in TELLINGS if one.name == name]
    return changed(telling.surface, guarding(), b"".join(telling.made(1, pieces(text, size))))


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_openai_puts_a_chat_together(size: int) -> None:
    with openai_reading(stream_of("chat", TEXT, size)) as client:
        with client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "?"}]) as stream:
            done = [event.content for event in stream if event.type == "content.done"]
        assert done == [SAID]
        assert stream.get_final_completion().choices[0].message.content == SAID


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_openai_parses_the_arguments_of_tool_calls(size: int) -> None:
    tool = openai.pydantic_function_tool(Mail, name="f")
    with openai_reading(stream_of("chat, tools", MAIL, size)) as client:
        asked: list[Any] = [{"role": "user", "content": "?"}]
        with client.chat.completions.stream(model="m", messages=asked, tools=[tool]) as stream:
            calls = stream.get_final_completion().choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.parsed_arguments == Mail(to=BOB, also="[EMAIL_ADDRESS]")


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_openai_puts_a_completion_together(size: int) -> None:
    with openai_reading(stream_of("completions", TEXT, size)) as client:
        chunks = client.completions.create(model="m", prompt="?", stream=True)
        assert "".join([chunk.choices[0].text for chunk in chunks]) == SAID


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_openai_puts_a_response_together(size: int) -> None:
    with openai_reading(stream_of("responses", TEXT, size)) as client:
        with client.responses.stream(model="m", input="?") as stream:
            deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert "".join(deltas) == stream.get_final_response().output_text == SAID


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_openai_puts_the_arguments_of_a_response_together(size: int) -> None:
    with (
        openai_reading(stream_of("responses, tools", MAIL, size)) as client,
        client.responses.stream(model="m", input="?") as stream,
    ):
        (call,) = stream.get_final_response().output
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"to": BOB, "also": "[EMAIL_ADDRESS]"}


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("name", "text"), [("messages", TEXT), ("messages, thinking", TEXT), ("messages, tools", MAIL)]
)
def test_anthropic_puts_a_message_together(name: str, text: str, size: int) -> None:
    with reading(stream_of(name, text, size)) as http:
        client = anthropic.Anthropic(api_key="k", base_url="http://gateway", http_client=http, max_retries=0)
        with client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "?"}]) as stream:
            (block,) = stream.get_final_message().content
    if block.type == "tool_use":
        assert block.input == {"to": BOB, "also": "[EMAIL_ADDRESS]"}
    else:
        assert (block.thinking if block.type == "thinking" else getattr(block, "text", None)) == SAID


BLOCKED = "Hear this: project falcon is late."


def test_openai_sees_why_a_chat_ended() -> None:
    with openai_reading(stream_of("chat", BLOCKED, 5)) as client:
        chunks = list(
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], stream=True)
        )
    text = "".join([chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices])
    assert BLOCKED.startswith(text)
    assert "project" not in text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "content_filter"


def test_openai_sees_why_a_response_ended() -> None:
    with openai_reading(stream_of("responses", BLOCKED, 5)) as client:
        *_, last = client.responses.create(model="m", input="?", stream=True)
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "content_filter"
    assert BLOCKED.startswith(last.response.output_text)
    assert "project" not in last.response.output_text


def test_anthropic_sees_why_a_message_ended() -> None:
    with reading(stream_of("messages", BLOCKED, 5)) as http:
        client = anthropic.Anthropic(api_key="k", base_url="http://gateway", http_client=http, max_retries=0)
        with client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "?"}]) as stream:
            message = stream.get_final_message()
    assert message.stop_reason == "refusal"
    assert "project" not in getattr(message.content[0], "text", "project")


# ---- recorded answers -----------------------------------------------------------------------------------


def recorded() -> list[Any]:
    folder = cassettes.shared()
    found = [pytest.param(exchange, id=exchange.name) for exchange in cassettes.load(cassettes.OWN)]
    if folder is None:
        skip = pytest.mark.skip(reason="no shared recordings beside the project")
        return [*found, pytest.param(None, id="shared", marks=skip)]
    return found + [pytest.param(exchange, id=f"shared/{exchange.name}") for exchange in cassettes.load(folder)]


RECORDED = [param for param in recorded() if param.values[0] is None or param.values[0].answer.status == 200]


def surface_of(exchange: Exchange) -> Surface:
    place = surfaces.locate(exchange.path.partition("?")[0])
    assert place is not None
    return place.surface


def passed(exchange: Exchange, texts: AnswerTexts, body: bytes, size: int = 10**9) -> bytes:
    if is_stream(exchange):
        return changed(surface_of(exchange), texts, body, size)
    document = Document(registry.meter(surface_of(exchange), False), texts, CAP)
    assert document.feed(body, end=False) == b""
    out = document.feed(b"", end=True)
    assert out is not None
    return out


def is_stream(exchange: Exchange) -> bool:
    return any(value.startswith("text/event-stream") for _, value in exchange.answer.headers)


@pytest.mark.parametrize("exchange", RECORDED)
def test_a_recorded_answer_without_placeholders_keeps_its_bytes(exchange: Exchange) -> None:
    body = exchange.answer.body
    assert passed(exchange, AnswerTexts(placeholders()), body) == body


SILENT = {"images-streaming", "chat-streaming-detailed-usage"}
"""Streams in which a model says nothing."""
TOLD = {"content", "text", "delta", "arguments", "partial_json", "thinking", "refusal"}


def spoken(body: bytes) -> list[positions.Position]:
    """The texts that the model said, as far as they are known by their names."""
    values = [one for one in positions.read(body) if one.kind is positions.Kind.VALUE and one.path]
    return [one for one in values if one.path[-1] in TOLD]


def with_placeholders(body: bytes) -> bytes:
    """The JSON with a placeholder behind every text that the model said."""
    edits = positions.edits(
        body, [(one, [Change(len(one.text), len(one.text), " <EMAIL_ADDRESS_1>.")]) for one in spoken(body)]
    )
    return splice(body, edits)


@pytest.mark.parametrize("exchange", RECORDED)
def test_a_placeholder_in_a_recorded_answer_is_taken_back_and_nothing_else_changes(exchange: Exchange) -> None:
    body = exchange.answer.body
    if is_stream(exchange):
        events = sse.EventReader().feed(body)
        marked = b"".join(
            [raw.replace(sse.data(raw), _marked(sse.data(raw))) if sse.data(raw) else raw for raw in events]
        )
    else:
        marked = with_placeholders(body)
    expected = json_strings.without_logprobs(marked.replace(b"<EMAIL_ADDRESS_1>", BOB.encode()))
    assert passed(exchange, AnswerTexts(placeholders()), marked) == expected
    if is_stream(exchange):
        assert (marked == body) is (exchange.name in SILENT)
        assert passed(exchange, AnswerTexts(placeholders()), marked, 7) == expected


def _marked(data: bytes) -> bytes:
    return data if data == b"[DONE]" else with_placeholders(data)


# ---- there and back -------------------------------------------------------------------------------------

VALUES = (BOB, EVE, CARD, "4111111111111111", PEM, "<EMAIL_ADDRESS_1>", "EMAIL_ADDRESS_1", "&lt;CREDIT_CARD_1&gt;")
PROSE = ("Write to ", " and ", "\n", "é😀", '"', "\\", "<", ">", "_", "1", " ", "EMAIL_", "{", "}", ".")
_said = st.lists(st.sampled_from(VALUES + PROSE), min_size=1, max_size=8).map("".join)


@st.composite
def _echoes(draw: st.DrawFn) -> tuple[list[str], list[int], list[int]]:
    """What a caller says, how much of what is left the model says in each delta, and in whose turn."""
    said = draw(st.lists(_said, min_size=1, max_size=3))
    return said, draw(st.lists(st.integers(1, 15), min_size=1, max_size=5)), draw(st.lists(st.integers(0, 9)))


def redacted(said: list[str]) -> tuple[list[str], Placeholders]:
    body = json.dumps({"messages": [{"role": "user", "content": text} for text in said]}).encode()
    made = Placeholders(POLICY.grammar)
    redactor = Redactor(POLICY, POLICY.input, made)
    found = positions.read(body)
    edits = positions.edits(body, [(one, redactor.changes(one.text, findings(one.text), one.lead)) for one in found])
    return [message["content"] for message in json.loads(splice(body, edits))["messages"]], made


def echoed(telling: Telling, texts: list[str], sizes: list[int], turns: list[int]) -> list[bytes]:
    """The model says each text, in pieces of these sizes, in turns."""
    left = dict(enumerate(texts))
    told: list[Piece] = []
    for number in range(sum(map(len, texts))):
        waiting = [at for at, rest in left.items() if rest]
        if not waiting:
            break
        at = waiting[(turns[number % len(turns)] if turns else number) % len(waiting)]
        size = sizes[number % len(sizes)]
        told.append((at, left[at][:size]))
        left[at] = left[at][size:]
    return telling.made(len(texts), told)


@pytest.mark.parametrize("telling", [one for one in TELLINGS if one.name != "transcripts"], ids=lambda one: one.name)
@settings(max_examples=40)
@given(_echoes(), st.integers(1, 200))
def test_what_was_redacted_comes_back_to_its_caller(
    telling: Telling, conversation: tuple[list[str], list[int], list[int]], size: int
) -> None:
    said, sizes, turns = conversation
    clean, made = redacted(said)
    texts = [json.dumps({"said": text}) if telling.json else text for text in clean]
    raw = b"".join(echoed(telling, texts, sizes, turns))
    told = list(telling.told(changed(telling.surface, AnswerTexts(made), raw, size)).values())
    assert sorted(json.loads(text)["said"] if telling.json else text for text in told) == sorted(said)
