"""Events that are known by how they are written come to the same as if they had been parsed."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.dialects import pieces, registry
from extproc.dialects.answers import Stream
from extproc.dialects.endings import Reason
from extproc.dialects.meters import ChatMeter
from extproc.redaction.answer import AnswerTexts
from extproc.redaction.output import OutputGuard
from extproc.redaction.placeholders import Placeholders
from extproc.redaction.policy import Action, RedactionPolicy
from extproc.redaction.redactor import Redactor
from extproc.surfaces import Surface
from tests.unit.dialects.telling import DONE, Json, chunk, unnamed
from tests.unit.redaction.finding import findings

CAP = 100_000
POLICY = RedactionPolicy(
    input=dict.fromkeys(("EMAIL_ADDRESS", "API_KEY"), Action.PLACEHOLDER),
    output={"EMAIL_ADDRESS": Action.MASK, "PROJECT": Action.BLOCK, "CREDIT_CARD": Action.FLAG},
)

OPENAI = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1767225600,"model":"gpt-4o-2024-08-06",'
    b'"service_tier":"default","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" word"},'
    b'"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"aB3"}\n\n'
)
AZURE = (
    b'data: {"choices":[{"content_filter_results":{"hate":{"filtered":false,"severity":"safe"},'
    b'"protected_material_text":{"filtered":false,"detected":false}},"delta":{"content":" word"},"finish_reason":null,'
    b'"index":0,"logprobs":null}],"created":1767225600,"id":"chatcmpl-1","model":"gpt-4o","object":"chat.completion.chunk",'
    b'"system_fingerprint":null}\n\n'
)
VLLM = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1767225600,"model":"phi-4","choices":'
    b'[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
)
THINKING = (
    b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    b'{"role":"assistant","content":null,"reasoning_content":" word"},"finish_reason":null}]}\n\n'
)
SPACED = b'data: {"model": "m", "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": null}]}\n\n'


def placeholders() -> Placeholders:
    made = Placeholders(POLICY.grammar)
    made.of("EMAIL_ADDRESS", "bob@example.com")
    made.of("API_KEY", 'a"b\\c\nd')
    return made


@contextmanager
def parsing_all() -> Iterator[None]:
    """Meanwhile no event is known by how it is written."""
    with patch.object(pieces, "chat", lambda _: None):
        yield


# ---- what is a piece ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "field", "is_bare", "tier"),
    [
        (OPENAI, "content", True, "default"),
        (AZURE, "content", False, None),
        (VLLM, "content", True, None),
        (THINKING, "reasoning_content", True, None),
        (SPACED, "content", True, None),
    ],
    ids=["OpenAI", "Azure", "vLLM", "thinking", "spaced"],
)
def test_what_providers_write_is_known(raw: bytes, field: str, is_bare: bool, tier: str | None) -> None:
    found = pieces.chat(raw)
    assert found is not None
    assert (found.text, found.channel, found.is_bare, found.tier) == (" word", (0, field), is_bare, tier)
    assert found.span == (raw.index(b" word"), raw.index(b" word") + 5)


def test_escapes_are_understood() -> None:
    found = pieces.chat(VLLM.replace(b" word", rb"a\"\\\n\u00e9\ud83d\ude00"))
    assert found is not None
    assert found.text == 'a"\\\né😀'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b" word", rb"\ud83d"),
        (b" word", rb"\x"),
        (b" word", b"\xff"),
        (b" word", b"\t"),
        (b'"logprobs":null', b'"logprobs":{}'),
        (b'"finish_reason":null', b'"finish_reason":"stop"'),
        (b'"index":0', b'"index":00'),
        (b'"index":0', b'"index":-1'),
        (b"1767225600", b"007"),
        (b'"model":"phi-4"', b'"usage":{"prompt_tokens":1}'),
        (b'"model":"phi-4"', b'"error":"e"'),
        (b'"model":"phi-4"', b'"choices":null'),
        (b'"content":', b'"role":"user","content":'),
        (b'"content":', b'"reasoning":"r","content":'),
        (b'"content":" word"', b'"content":" word","content":null'),
        (b'"content":" word"', b'"refusal":" word"'),
        (b'"content":" word"', b""),
        (b'"token_ids":null', b'"delta":null'),
        (b'"token_ids":null', b'"message":{"content":"x"}'),
        (b'"token_ids":null', b""),
        (b"null}]}", b"null},{}]}"),
        (b"data: ", b"data:"),
        (b"data: ", b"id: 1\ndata: "),
        (b"\n\n", b"\r\n\r\n"),
        (b"\n\n", b""),
    ],
)
def test_whatever_may_say_more_is_parsed(old: bytes, new: bytes) -> None:
    assert pieces.chat(VLLM) is not None
    assert old in VLLM
    assert pieces.chat(VLLM.replace(old, new)) is None


# ---- it comes to the same -------------------------------------------------------------------------------

WORDS = (
    *("<EMAIL_ADDRESS_1>", "<API_KEY_1>", "<EMAIL_ADDRESS_9>", "EMAIL_ADDRESS_1", "&lt;API_KEY_1&gt;", "<", "EMAIL_"),
    *("eve@example.org", "4111111111111111", "TRITON ", "hello ", "world. ", "Say ", "A", "I ", "déjà ", "你好", "😀"),
    *('"', "\\", "\n", " ", "{", "}", "_", "&", "1"),
)
FIELDS = ("content", "reasoning_content", "reasoning", "refusal", "new")
NULL_FIELDS = (*FIELDS, "role", "tool_calls", "function_call", "audio")
LABELS = {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "m", "system_fingerprint": None}
MORE: tuple[Json, ...] = (
    *({"usage": None}, {"obfuscation": "ab"}, {"service_tier": "flex"}, {"service_tier": None}, {"provider": "x"}),
    *({"error": None}, {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}, {"new": "eve@example.org"}, {}),
)
OF_CHOICE: tuple[Json, ...] = (
    *({"logprobs": None}, {"finish_reason": None}, {"stop_reason": None}, {"content_filter_results": {}}, {}),
    *({"content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}, {"finish_reason": "stop"}),
    *({"logprobs": {"content": [{"token": "x"}]}}, {"message": None}, {"text": "eve@example.org"}),
)
_texts = st.lists(st.sampled_from(WORDS), max_size=5).map("".join)


def _cut(text: str, places: Sequence[int]) -> list[str]:
    marks = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    return [text[start:end] for start, end in pairwise(marks)]


@st.composite
def _delta(draw: st.DrawFn, field: str, text: str) -> Json:
    nulls = draw(st.lists(st.sampled_from(NULL_FIELDS), max_size=2))
    role = {"role": "assistant"} if draw(st.booleans()) else {}
    first: Json = dict.fromkeys(nulls)
    return {**first, **role, field: text} if draw(st.booleans()) else {field: text, **role, **(first | {field: text})}


def _arguments(at: int, text: str) -> Json:
    return {"tool_calls": [{"index": at, "function": {"arguments": text}}]}


@st.composite
def _event(draw: st.DrawFn, at: int, field: str, text: str) -> Json:
    delta = _arguments(at, text) if field == "arguments" else draw(_delta(field, text))
    choice = [*draw(st.sampled_from(OF_CHOICE)).items(), *draw(st.sampled_from(OF_CHOICE)).items()]
    choice += [("delta", delta), ("index", at)]
    event = [*LABELS.items(), ("choices", [dict(draw(st.permutations(choice)))]), *draw(st.sampled_from(MORE)).items()]
    return dict(draw(st.permutations(event)))


@st.composite
def _usual(draw: st.DrawFn, at: int, field: str, text: str) -> Json:
    """As most events of a stream are, so that many follow each other."""
    choice = {"index": at, "delta": {field: text}, "logprobs": None, "finish_reason": None}
    tier = draw(st.sampled_from(({}, {"service_tier": "default"}, {"service_tier": "flex"})))
    name = {"id": draw(st.sampled_from(("c1", "c2")))}  # which the events of an early end have from the last one
    return LABELS | name | tier | {"choices": [choice], "usage": None}


@st.composite
def _spelled(draw: st.DrawFn, event: Json) -> bytes:
    ascii_only, spaced = draw(st.booleans()), draw(st.sampled_from([False] * 3 + [True]))
    separators = (", ", ": ") if spaced else (",", ":")
    name = draw(st.sampled_from([b""] * 9 + [b"event: chunk\n"]))
    return name + b"data: " + json.dumps(event, ensure_ascii=ascii_only, separators=separators).encode() + b"\n\n"


@st.composite
def _streams(draw: st.DrawFn) -> list[bytes]:
    """Texts side by side in pieces, nearly all of them in usual events, one or the other event spoiled."""
    left = {}
    for at in range(draw(st.integers(1, 2))):
        field = draw(st.sampled_from(("content", "content", "content", "reasoning_content", "arguments", "new")))
        left[at] = field, _cut(draw(_texts), draw(st.lists(st.integers(0, 10**6), max_size=8)))
    events = []
    while any(told for _, told in left.values()):
        at = draw(st.sampled_from([at for at, (_, told) in left.items() if told]))
        field, told = left[at]
        kind = _usual if field != "arguments" and draw(st.integers(0, 5)) else _event
        raw = draw(_spelled(draw(kind(at, field, told.pop(0)))))
        events.append(draw(_spoiled(raw)) if draw(st.integers(0, 30)) == 0 else raw)
    return [*events, *map(unnamed, [chunk(at, {}, "stop") for at in left]), DONE]


@st.composite
def _spoiled(draw: st.DrawFn, raw: bytes) -> bytes:
    """With a piece of it told twice, in its place or elsewhere, or left out."""
    start, end, to = sorted(draw(st.tuples(*[st.integers(6, len(raw) - 2)] * 3)))
    return draw(
        st.sampled_from([raw[:start] + raw[end:], raw[:to] + raw[start:end] + raw[to:], raw[:end] + raw[start:]])
    )


def _repeated(raw: bytes) -> Iterator[bytes]:
    """The event with each of its members told again, before and behind another, or with another value."""
    members = [b'"index":1', b'"index":0', b'"delta":{"content":"x"}', b'"delta":{"reasoning":"x"}', b'"delta":{}']
    members += [b'"delta":null', b'"content":"eve@example.org"', b'"content":null', b'"finish_reason":"stop"']
    members += [b'"content_filter_results":{}', b'"content_filter_results":{"a":{"filtered":true}}', b'"text":"x"']
    members += [b'"content_filter_results":null', b'"service_tier":"flex"', b'"service_tier":null', b'"usage":null']
    members += [b'"choices":[]', b'"choices":[{"delta":{"content":"x"}}]', b'"choices":null', b'"reasoning":"x"']
    for member in members:
        for mark in (b"{", b'{"index"', b'{"content"', b',"finish_reason"', b'"}', b"}]", b"}\n"):
            for at in (raw.find(mark), raw.rfind(mark)):
                behind = at + (mark == b"{" or mark == b'"}')
                yield raw[:behind] + member + b"," + raw[behind:]
                yield raw[:behind] + b"," + member + raw[behind:]


class Seen:
    """One stream, and all that can be seen of what was made of it."""

    def __init__(self, project: Action | None = None) -> None:
        """`project`: what becomes of its name; None: nothing is taken out at all."""
        self.meter = ChatMeter()
        actions = {**POLICY.output, "PROJECT": project or Action.FLAG}
        guards = [OutputGuard(findings, Redactor(POLICY, actions))] if project else []
        self.texts = AnswerTexts(placeholders(), guards)
        self.stream = Stream(self.meter, False, CAP, registry.event_texts(Surface.CHAT, self.texts, False))
        self.told: list[Any] = []

    def feed(self, chunks: Sequence[bytes], is_over: bool = True) -> None:
        for number, one in enumerate(chunks, 1):
            self.told.append(self.stream.feed(one, is_over and number == len(chunks)))
            self.told.append(self.counts())

    def counts(self) -> Any:
        meter, texts = self.meter, self.texts
        of_meter = (meter.weight, meter.spoken, meter.tier, meter.stop, meter.tools, meter.failed, meter.finished)
        return of_meter, texts.restored, texts.unrestored, dict(texts.counts), texts.blocked, texts.open_channels()


def same(told: Callable[[Seen], None], project: Action | None = Action.MASK) -> None:
    """That one stream shows the same whether all of its events are parsed or not."""
    short, long = Seen(project), Seen(project)
    told(short)
    with parsing_all():
        told(long)
    assert short.told == long.told


@settings(max_examples=300)
@given(_streams(), st.booleans(), st.sampled_from((None, Action.MASK, Action.BLOCK)))
def test_the_short_way_comes_to_the_same(events: list[bytes], is_whole: bool, project: Action | None) -> None:
    same(lambda seen: seen.feed([b"".join(events)] if is_whole else events), project)


@settings(max_examples=40)
@given(_streams())
def test_so_it_does_byte_by_byte(events: list[bytes]) -> None:
    same(lambda seen: seen.feed([bytes([byte]) for byte in b"".join(events)]))


@settings(max_examples=100)
@given(
    _streams(),
    st.integers(0, 20),
    st.sampled_from(Reason),
    st.booleans(),
    st.booleans(),
    st.sampled_from((None, Action.MASK)),
)
def test_so_does_an_early_end(
    events: list[bytes], after: int, reason: Reason, tells_usage: bool, is_released: bool, project: Action | None
) -> None:
    def told(seen: Seen) -> None:
        seen.feed(events[:after], is_over=False)
        if is_released:
            seen.told.append(seen.stream.release())
        seen.told.append(seen.stream.ending(7, tells_usage, reason))

    same(told, project)


@pytest.mark.parametrize("project", [None, Action.MASK])
@pytest.mark.parametrize("first", [VLLM, b"event: chunk\n" + VLLM, b"event: chunk\n" + VLLM[:-2]])
def test_what_is_added_is_like_the_last_event(first: bytes, project: Action | None) -> None:
    """Whether that is what was held back, or what ends the answer."""

    def told(seen: Seen) -> None:
        seen.feed([first, VLLM.replace(b"chatcmpl-1", b"chatcmpl-2")], is_over=False)
        seen.told.append(seen.stream.ending(7, False, Reason.LENGTH))

    same(told, project)


@settings(max_examples=100)
@given(_streams())
def test_so_does_what_is_only_counted(events: list[bytes]) -> None:
    def counted() -> list[Any]:
        meter = ChatMeter()
        stream = Stream(meter, False, CAP)
        return [(stream.feed(event, False), meter.weight, meter.spoken, meter.tier, meter.tools) for event in events]

    short = counted()
    with parsing_all():
        assert counted() == short


@pytest.mark.parametrize("raw", [OPENAI, AZURE, VLLM, THINKING], ids=["OpenAI", "Azure", "vLLM", "thinking"])
def test_so_does_what_tells_something_twice(raw: bytes) -> None:
    known = [spoiled for spoiled in _repeated(raw) if pieces.chat(spoiled) is not None]
    assert known
    for spoiled in known:
        same(lambda seen, spoiled=spoiled: seen.feed([raw, raw, spoiled, raw, DONE]))  # type: ignore[misc]


def test_only_the_bytes_of_the_text_are_changed() -> None:
    seen = Seen(Action.MASK)
    seen.feed([OPENAI.replace(b" word", b"Hello there, ")], is_over=False)
    before, behind = OPENAI.split(b" word")
    seen.feed([before + b"<EMAIL_ADDRESS_1> and more " + behind], is_over=False)
    assert seen.told[-2] == before + b"there, bob@example.com and " + behind
