"""Answers that are changed while they stream: however they are cut, and whatever stands around the texts."""

import json
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.dialects import registry, sse
from extproc.dialects.answers import Stream
from extproc.dialects.endings import Reason
from extproc.model import Usage
from extproc.redaction.answer import AnswerTexts
from extproc.redaction.output import OutputGuard
from extproc.redaction.placeholders import Placeholders
from extproc.redaction.policy import Action, Mode, RedactionPolicy
from extproc.redaction.redactor import Redactor
from extproc.redaction.restore import Restorer
from extproc.surfaces import Surface
from tests.unit.dialects.telling import DONE, TELLINGS, Json, Telling, chunk, named, parsed, unnamed
from tests.unit.redaction.finding import findings

CAP = 100_000
BOB, CARD, KEY = "bob@example.com", "4111 1111 1111 1111", 'a"b\\c\nd'
EVE = "eve@example.org"
POLICY = RedactionPolicy(
    input=dict.fromkeys(("EMAIL_ADDRESS", "CREDIT_CARD", "API_KEY"), Action.PLACEHOLDER),
    output={"EMAIL_ADDRESS": Action.MASK, "PROJECT": Action.BLOCK, "CREDIT_CARD": Action.FLAG},
)
SHADOW = RedactionPolicy(mode=Mode.SHADOW, input=POLICY.input, output=POLICY.output)


def placeholders() -> Placeholders:
    made = Placeholders(POLICY.grammar)
    made.of("EMAIL_ADDRESS", BOB)
    made.of("CREDIT_CARD", CARD)
    made.of("API_KEY", KEY)
    return made


def guard(policy: RedactionPolicy = POLICY) -> OutputGuard:
    return OutputGuard(findings, Redactor(policy, policy.output))


def restoring() -> AnswerTexts:
    return AnswerTexts(placeholders())


def guarding(policy: RedactionPolicy = POLICY) -> AnswerTexts:
    return AnswerTexts(placeholders(), [guard(policy)])


def sent(surface: Surface, texts: AnswerTexts, chunks: Sequence[bytes], json_output: bool = False) -> bytes:
    """What the client gets for these chunks, the last of which ends the answer."""
    stream = Stream(registry.meter(surface, False), False, CAP, registry.event_texts(surface, texts, json_output))
    out = []
    for number, piece in enumerate(chunks, 1):
        changed = stream.feed(piece, number == len(chunks))
        out.append(piece if changed is None else changed)
    return b"".join(out)


def halves(raw: bytes) -> Iterable[list[bytes]]:
    return ([raw[:at], raw[at:]] for at in range(len(raw) + 1))


def cut(raw: bytes, places: Iterable[int]) -> list[bytes]:
    marks = [0, *sorted({place % (len(raw) + 1) for place in places}), len(raw)]
    return [raw[start:end] for start, end in pairwise(marks)]


# ---- every surface, every split -----------------------------------------------------------------------

# They tell a text again as a whole, in which a guard may find what it could not see in time.
REPEATED = [one for one in TELLINGS if one.surface in (Surface.RESPONSES, Surface.TRANSCRIPTIONS)]
UNREPEATED = [one for one in TELLINGS if one not in REPEATED]

FRAGMENTS = (
    *(
        "<EMAIL_ADDRESS_1>",
        "<CREDIT_CARD_1>",
        "<API_KEY_1>",
        "EMAIL_ADDRESS_1",
        "<Email Address 1>",
        "<EMAIL_ADDRESS_9>",
    ),
    *(
        "&lt;EMAIL_ADDRESS_1&gt;",
        "EMAIL\\_ADDRESS\\_1",
        "<",
        "EMAIL_",
        "<EMAIL_ADDRESS_",
        "1",
        ">",
        "_",
        " ",
        "\n",
        "\\",
    ),
    *("hello ", "world. ", EVE, "4111111111111111 ", "déjà ", "你好", "😀", '"', "{", "}", "]", "/"),
)
_texts = st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join)


@st.composite
def _pieces(draw: st.DrawFn) -> tuple[int, list[tuple[int, str]]]:
    """Texts side by side in random pieces."""
    wholes = draw(st.lists(_texts, min_size=1, max_size=3))
    left = dict(enumerate(wholes))
    pieces = []
    while any(left.values()):
        at = draw(st.sampled_from([at for at, rest in left.items() if rest]))
        size = draw(st.integers(1, 12))
        pieces.append((at, left[at][:size]))
        left[at] = left[at][size:]
    return len(wholes), pieces


def _expected(telling: Telling, raw: bytes, texts: AnswerTexts) -> dict[Hashable, str]:
    """The texts that were told, each changed as one."""
    channels = telling.told(raw)
    changed = {}
    for channel, text in channels.items():
        whole = texts.feed(channel, text, telling.json) + texts.finish(channel, telling.json)
        if whole:
            changed[channel] = whole
    return changed


@pytest.mark.parametrize("telling", TELLINGS, ids=lambda telling: telling.name)
@settings(max_examples=25)
@given(_pieces(), st.lists(st.integers(0, 10**6), max_size=6))
def test_what_was_replaced_comes_back_on_every_surface(
    telling: Telling, told: tuple[int, list[tuple[int, str]]], cuts: list[int]
) -> None:
    events = telling.made(*told)
    raw = b"".join(events)
    out = sent(telling.surface, restoring(), [raw])
    restorer = Restorer(placeholders())
    expected = {channel: restorer.text(text, telling.json) for channel, text in telling.told(raw).items()}
    assert telling.told(out) == expected
    assert sent(telling.surface, restoring(), cut(raw, cuts)) == out
    assert sent(telling.surface, restoring(), events) == out


@pytest.mark.parametrize("telling", UNREPEATED, ids=lambda telling: telling.name)
@settings(max_examples=25)
@given(_pieces(), st.lists(st.integers(0, 10**6), max_size=6))
def test_what_is_redacted_is_so_on_every_surface(
    telling: Telling, told: tuple[int, list[tuple[int, str]]], cuts: list[int]
) -> None:
    raw = b"".join(telling.made(*told))
    out = sent(telling.surface, guarding(), [raw])
    assert telling.told(out) == _expected(telling, raw, guarding())
    assert sent(telling.surface, guarding(), cut(raw, cuts)) == out


@pytest.mark.parametrize("telling", TELLINGS, ids=lambda telling: telling.name)
def test_every_split_gives_the_same(telling: Telling) -> None:
    pieces = [
        (0, "Mail <EM"),
        (1, "<CREDIT"),
        (0, f"AIL_ADDRESS_1> or {EVE} 😀"),
        (1, "_CARD_1> é <"),
        (0, " now then."),
    ]
    texts = 1 if telling in REPEATED else 2
    raw = b"".join(telling.made(texts, pieces if texts == 2 else pieces[::2]))
    for changing in (restoring, guarding):
        out = sent(telling.surface, changing(), [raw])
        assert BOB in str(telling.told(out))
        assert ("[EMAIL_ADDRESS]" in str(telling.told(out))) is (changing is guarding)
        for chunks in halves(raw):
            assert sent(telling.surface, changing(), chunks) == out
        assert sent(telling.surface, changing(), [raw[at : at + 1] for at in range(len(raw))]) == out


# ---- what is held back, and when it goes out ------------------------------------------------------------


def said(surface: Surface, texts: AnswerTexts, *events: bytes, json_output: bool = False) -> list[bytes]:
    """What goes out for each event, and at the end of the stream."""
    changing = registry.event_texts(surface, texts, json_output)
    return [*[changing.event(event) for event in events], changing.end()]


def content(*texts: str, **more: Any) -> bytes:
    choices = [
        {"index": at, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
        for at, text in enumerate(texts)
    ]
    return unnamed({"id": "chatcmpl-1", "model": "gpt-4o", "choices": choices} | more)


def said_of(event: bytes) -> list[str]:
    return [choice["delta"].get("content", "") for one in parsed(event) for choice in one["choices"]]


def test_what_is_safe_of_a_delta_goes_out_with_it() -> None:
    out = said(Surface.CHAT, restoring(), content("Mail <EMAIL"), content("_ADDRESS_1> or"), content(" not"))
    assert [said_of(event) for event in out] == [["Mail "], [f"{BOB} or"], [" not"], []]


def test_an_event_of_which_nothing_is_left_is_swallowed_unless_it_begins_something() -> None:
    out = said(Surface.CHAT, restoring(), content("<"), content("EMAIL"), content("_ADDRESS_1>"))
    assert [said_of(event) for event in out] == [[""], [], [BOB], []]
    assert out[1] == b""


@pytest.mark.parametrize(
    "event",
    [
        content("EMAIL", usage={"prompt_tokens": 1}),
        content("EMAIL", citations=["https://example.com"]),
        unnamed(chunk(0, {"role": "tool", "content": "EMAIL"})),
        unnamed({"choices": [{"index": 0, "delta": {"content": "EMAIL"}, "content_filter_results": {"a": "safe"}}]}),
        unnamed({"choices": [{"index": 0, "delta": {"content": "EMAIL"}}, "odd"]}),
    ],
)
def test_an_event_that_says_something_else_stays(event: bytes) -> None:
    _, second, _, _ = said(Surface.CHAT, restoring(), content("<"), event, content("_ADDRESS_1>"))
    (seen,) = parsed(second)
    (before,) = parsed(event)
    assert seen["choices"][0]["delta"].pop("content") == ""
    assert before["choices"][0]["delta"].pop("content") == "EMAIL"
    assert seen == before


def test_only_the_bytes_of_the_text_are_changed() -> None:
    raw = b'event: x\r\ndata:  { "a" : [ 1.50 , {"content":"no"} ],"choices" : [{"delta":{ "x":{},"content" : "\\u00e9 '
    raw += b'<EMAIL_ADDRESS_1> \\/" },"index":0}],"e":1e3 }\r\nid: 7\r\n\r\n'
    out, _ = said(Surface.CHAT, restoring(), raw)
    assert out == raw.replace(b"\\u00e9 <EMAIL_ADDRESS_1> \\/", "é bob@example.com /".encode())


def test_data_of_several_lines_are_told_again_as_lines() -> None:
    raw = b'id: 7\ndata: {"choices":[\r\ndata:{"delta":{"content":"<EMAIL_ADDRESS_1>"}}]}\n\n'
    out, _ = said(Surface.CHAT, restoring(), raw)
    assert out == b'id: 7\ndata: {"choices":[\ndata: {"delta":{"content":"bob@example.com"}}]}\n\n'


def test_a_choice_is_told_all_before_its_reason_to_finish() -> None:
    finish = unnamed(chunk(1, {}, "stop"))
    out = said(Surface.CHAT, restoring(), content("one <EMAIL", "two <CREDIT"), finish, DONE)
    first, last = out[1][: -len(finish)], out[1][-len(finish) :]
    assert last == finish
    (rest,) = parsed(first)
    assert rest["choices"] == [{"index": 1, "delta": {"content": "<CREDIT"}, "logprobs": None, "finish_reason": None}]
    assert rest["id"] == "chatcmpl-1"
    (rest,) = parsed(out[2])
    assert rest["choices"][0]["delta"] == {"content": "<EMAIL"}
    assert out[2].endswith(DONE)
    assert out[3] == b""


def test_a_text_that_ends_in_its_last_chunk_is_told_there() -> None:
    out = said(Surface.CHAT, guarding(), unnamed(chunk(0, {"content": f"mail {EVE}"}, "stop")))
    (event,) = parsed(out[0])
    assert event["choices"][0]["delta"]["content"] == "mail [EMAIL_ADDRESS]"


def test_a_stream_that_breaks_off_tells_what_is_held_back() -> None:
    out = sent(Surface.CHAT, restoring(), [content("a <EMAIL_ADDRESS"), b""])
    assert [text for event in parsed(out) for text in [event["choices"][0]["delta"]["content"]]] == [
        "a ",
        "<EMAIL_ADDRESS",
    ]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_what_is_held_back_is_told_apart_from_an_event_that_is_cut_off(end: bytes) -> None:
    cut_off = content("a <EMAIL").rstrip() + end
    assert said_of(b"".join(said(Surface.CHAT, restoring(), cut_off))) == ["a ", "<EMAIL"]
    for rest in (b": ping", b'data: {"cho', b"data: [DONE]"):
        out = said(Surface.CHAT, restoring(), content("a <EMAIL"), rest + end)
        assert said_of(b"".join(out)) == ["a ", "<EMAIL"]
        assert out[1].endswith(b"\n\n" + rest + end)


def test_what_is_held_back_is_told_before_an_error() -> None:
    error = unnamed({"error": {"message": "no"}})
    out = said(Surface.CHAT, restoring(), content("a <EMAIL"), error)
    assert said_of(out[1].removesuffix(error)) == ["<EMAIL"]


def test_an_answer_that_ends_for_what_it_says_tells_nothing_more() -> None:
    changing = registry.event_texts(Surface.CHAT, restoring(), False)
    changing.event(content("a <EMAIL"))
    assert "EMAIL" not in str(said_of(changing.ending(Usage(), False, Reason.CONTENT)))


def call(at: int, arguments: str, **more: Any) -> Json:
    return {"tool_calls": [{"index": at, **more, "function": {"arguments": arguments}}]}


def test_what_was_said_before_a_tool_call_is_told_before_it() -> None:
    """SDKs take a text, or the arguments of a call, for whole once another call begins."""
    events = [
        content("I write to <EMAIL"),
        unnamed(chunk(0, call(0, '{"a":"', id="call_0"))),
        unnamed(chunk(0, call(0, 'x"}'))),
        unnamed(chunk(0, call(1, '{"b":', id="call_1"))),
    ]
    out = said(Surface.CHAT, guarding(), *events)
    first, second = parsed(out[1])[0], parsed(out[3])[0]
    assert first["choices"][0]["delta"] == {"content": "to <EMAIL"}
    assert second["choices"][0]["delta"]["tool_calls"] == [{"index": 0, "function": {"arguments": '{"a":"x"}'}}]


def test_arguments_in_one_piece_are_not_held_back() -> None:
    whole = json.dumps({"to": EVE, "n": 1})
    out = said(Surface.CHAT, guarding(), unnamed(chunk(0, call(0, whole, id="call_0"))), DONE)
    arguments = parsed(out[0])[0]["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"to": "[EMAIL_ADDRESS]", "n": 1}
    assert out[1] == DONE


def test_values_are_escaped_where_a_text_is_json() -> None:
    raw = content('{"key":"<API_KEY_1>"}')
    for json_output, expected in (
        (True, json.dumps({"key": KEY}, separators=(",", ":"))),
        (False, f'{{"key":"{KEY}"}}'),
    ):
        assert said_of(b"".join(said(Surface.CHAT, restoring(), raw, json_output=json_output))) == [expected]
    event = unnamed(chunk(0, call(0, '{"key":"<API_KEY_1>"}')))
    out = parsed(b"".join(said(Surface.CHAT, restoring(), event)))
    assert json.loads(out[0]["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"]) == {"key": KEY}


@pytest.mark.parametrize(
    "delta",
    [
        {"audio": {"transcript": "<EMAIL_ADDRESS_1>"}},
        {"reasoning": "<EMAIL_ADDRESS_1>"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "<EMAIL_ADDRESS_1>", "index": 0}]},
        {"function_call": {"arguments": "<EMAIL_ADDRESS_1>"}},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "<EMAIL_ADDRESS_1>"}]}]},
        {"tool_calls": [{"index": 3, "function": {"name": "<EMAIL_ADDRESS_1>"}}]},
        {"annotations": [{"type": "url_citation", "url_citation": {"title": "<EMAIL_ADDRESS_1>"}}]},
        {"new": {"newer": ["<EMAIL_ADDRESS_1>"]}},
        {"deep": json.loads("[" * 40 + '"<EMAIL_ADDRESS_1>"' + "]" * 40)},
    ],
)
def test_every_text_of_a_delta_is_changed(delta: Json) -> None:
    raw = unnamed(chunk(0, delta))
    out = b"".join(said(Surface.CHAT, restoring(), raw, unnamed(chunk(0, {}, "stop"))))
    assert out == raw.replace(b"<EMAIL_ADDRESS_1>", BOB.encode()) + unnamed(chunk(0, {}, "stop"))
    held = b"".join(said(Surface.CHAT, restoring(), raw.replace(b"_1>", b"")))
    assert parsed(held)[-1]["choices"][0]["delta"].keys() == delta.keys()


def test_a_text_beside_a_delta_is_changed_on_its_own() -> None:
    raw = content("caf\u00e9 <EMAIL_ADDRESS", note=f"<EMAIL_ADDRESS_1> {EVE}", **{"<EMAIL_ADDRESS_1>": 5})
    texts = guarding()
    out = said(Surface.CHAT, texts, raw.replace(b"\xc3\xa9", b"\\u00e9"), content("_1>"))
    (first,) = parsed(out[0])
    assert first["note"] == f"{BOB} [EMAIL_ADDRESS]"
    assert first[BOB] == 5
    assert "".join(said_of(b"".join(out))) == f"caf\u00e9 {BOB}"
    assert (texts.restored, texts.counts["EMAIL_ADDRESS"]) == (3, 1)


def test_a_text_stands_where_it_stood_whatever_becomes_of_its_key() -> None:
    raw = unnamed(chunk(0, {"<EMAIL_ADDRESS_1>": "hi", "name": "f", "content": "<EMAIL_ADDRESS_1>"}))
    (event,) = parsed(said(Surface.CHAT, restoring(), raw)[0])
    assert event["choices"][0]["delta"] == {BOB: "hi", "name": "f", "content": BOB}


def test_a_text_that_did_not_change_keeps_its_bytes_beside_one_that_did() -> None:
    raw = b'data: {"choices":[{"delta":{"content":"caf\\u00e9"}}],"note":"<EMAIL_ADDRESS_1>"}\n\n'
    assert said(Surface.CHAT, restoring(), raw)[0] == raw.replace(b"<EMAIL_ADDRESS_1>", BOB.encode())


# ---- probabilities of tokens ----------------------------------------------------------------------------


def scored(text: str, *tokens: str) -> bytes:
    each = [{"token": token, "logprob": -0.5, "bytes": list(token.encode()), "top_logprobs": []} for token in tokens]
    choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": each, "refusal": None}}
    return unnamed({"choices": [choice | {"finish_reason": None}]})


def test_the_probabilities_of_a_changed_text_go() -> None:
    plain = scored("hello", "hel", "lo")
    out = said(Surface.CHAT, restoring(), plain, scored("<EMAIL_ADDRESS_1>", "<EMAIL", "_ADDRESS_1>"))
    assert out[0] == plain
    assert parsed(out[1])[0]["choices"][0] == {
        "index": 0,
        "delta": {"content": BOB},
        "logprobs": None,
        "finish_reason": None,
    }


def test_the_probabilities_of_what_is_held_back_go_even_if_what_goes_out_looks_the_same() -> None:
    out = said(Surface.CHAT, guarding(), *[scored("1111", "1111")] * 6)
    assert b'"token"' not in b"".join(out)
    assert "".join(said_of(b"".join(out))) == "1111" * 6


def test_the_probabilities_of_what_another_event_told_go() -> None:
    told = scored("", "eve@example.org")
    said_before, said_after, _ = said(Surface.CHAT, restoring(), content("hello"), told)
    assert said_before == content("hello")
    assert parsed(said_after)[0]["choices"][0]["logprobs"] is None


def test_odd_probabilities_go_with_a_change() -> None:
    raw = unnamed(chunk(0, {"name": "<EMAIL_ADDRESS_1>", "logprobs": {"text": "<EMAIL_ADDRESS_1>"}}))
    (event,) = parsed(said(Surface.CHAT, restoring(), raw)[0])
    assert event["choices"][0]["delta"] == {"name": BOB, "logprobs": None}


def test_the_probabilities_of_whole_texts_go_with_a_change() -> None:
    token = {"token": "<EMAIL_ADDRESS_1>", "logprob": -1, "bytes": [60], "top_logprobs": []}
    done = {"type": "response.output_text.done", "output_index": 0, "text": "<EMAIL_ADDRESS_1>", "logprobs": [token]}
    out, _ = said(Surface.RESPONSES, restoring(), named(done))
    assert parsed(out) == [done | {"text": BOB, "logprobs": []}]


# ---- numbers of events ----------------------------------------------------------------------------------


def test_numbers_rise_without_gaps_where_events_are_swallowed_and_added() -> None:
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    kind = "response.output_text"
    pieces = ["so <", "EMAIL", "_ADDRESS_1>", " and <EM"]
    values: list[Json] = [{"type": "response.created", "response": {"id": "resp_1"}}]
    values += [{"type": f"{kind}.delta", **at, "delta": piece, "logprobs": [], "obfuscation": "x"} for piece in pieces]
    values += [{"type": f"{kind}.done", **at, "text": "".join(pieces)}, {"type": "response.completed", "response": {}}]
    events = [named(value | {"sequence_number": number}) for number, value in enumerate(values, 5)]
    out = said(Surface.RESPONSES, restoring(), *events)
    assert [event["sequence_number"] for one in out for event in parsed(one)] == [5, 6, 7, 8, 9, 10, 11]
    assert out[2] == b""
    assert out[5].startswith(b"event: response.output_text.delta\ndata: ")
    (added, done) = parsed(out[5])
    assert added == {"type": f"{kind}.delta", **at, "delta": "<EM", "logprobs": [], "sequence_number": 9}
    assert done["text"] == f"so {BOB} and <EM"


def test_a_response_is_told_all_before_it_is_over() -> None:
    """Of a server that does not say that its texts are done."""
    delta = {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "so <EMAIL"}
    over = named({"type": "response.completed", "response": {}})
    out = said(Surface.RESPONSES, restoring(), unnamed(delta), over, named(delta))
    assert out[1].endswith(over)
    assert parsed(out[1])[0] == delta | {"delta": "<EMAIL"}
    assert parsed(out[3]) == [delta | {"delta": "<EMAIL"}]


def test_a_stream_may_end_where_nothing_can_be_written_of_it() -> None:
    deep = unnamed({"type": "response.created", "response": json.loads('{"a":' * 300 + "5" + "}" * 300)})
    changing = registry.event_texts(Surface.RESPONSES, restoring(), False)
    assert changing.event(deep) == deep
    changing.event(unnamed({"type": "response.output_text.delta", "delta": "so <EMAIL"}))
    rest = changing.ending(Usage(), False, Reason.LENGTH)
    assert [event["delta"] for event in parsed(rest)] == ["<EMAIL"]
    assert changing.finished


def test_an_event_is_added_whatever_else_the_last_one_held() -> None:
    deep = json.loads("[" * 300 + "]" * 300)
    event = {"id": deep, "model": "m", "choices": [{"index": 0, "type": deep, "delta": {"content": "<EMAIL"}}]}
    (added,) = parsed(said(Surface.CHAT, restoring(), unnamed(event))[1])
    assert added == {
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": "<EMAIL"}, "logprobs": None, "finish_reason": None}],
    }


def test_many_choices_in_one_event_are_changed() -> None:
    out = said(Surface.CHAT, restoring(), content(*["<EMAIL_ADDRESS_1>"] * 30))
    assert said_of(out[0]) == [BOB] * 30


# ---- what is no text ------------------------------------------------------------------------------------

UNTOUCHED = [
    b'\xef\xbb\xbfdata: {"x":5}\n\n',
    b"\xef\xbb\xbf: ping\n\n",
    b": ping\n\n",
    b"event: ping\n\n",
    b"\n",
    b"data: [DONE]\n\n",
    b"data:\n\n",
    b"data: 5\n\n",
    b"data: null\n\n",
    b"data: \xff\xfe\n\n",
    b'data: {"choices":[]}\n\n',
    b'data: {"choices":[{"index":[],"delta":{"tool_calls":[{"index":{}}]},"finish_reason":"x"}]}\n\n',
    b'data: {"choices":{"a":5}}\n\n',
    b'data: {"type":["x"],"delta":"hi","output_index":{}}\n\n',
    b'data: {"type":"response.audio.delta","delta":"RU1BSUw="}\n\n',
    b'data: {"type":"content_block_delta","index":[],"delta":{"text":"hi"}}\n\n',
    b'data: {"type":"content_block_delta","index":0,"delta":7}\n\n',
    b'data: {"type":"x.delta","output_index":[],"item_id":{},"content_index":"a","delta":["hi"]}\n\n',
    b'data: {"error":{"message":"no"}}\n\n',
]


@pytest.mark.parametrize("surface", [Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES, Surface.IMAGES])
@pytest.mark.parametrize("raw", UNTOUCHED)
def test_what_says_nothing_passes_as_it_is(surface: Surface, raw: bytes) -> None:
    assert b"".join(said(surface, restoring(), raw)) == raw


@pytest.mark.parametrize("surface", [Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES, Surface.IMAGES])
@pytest.mark.parametrize(
    "data",
    [
        '{"choices":[{"delta":{"content":"eve@example.org"',
        "eve@example.org",
        '"eve@example.org"',
        '["eve@example.org"]',
        '{"x":"eve@example.org"}',
        '{"choices":["eve@example.org"]}',
        '{"type":"message_stop","x":"eve@example.org"}',
        '{"type":"response.audio.delta","delta":"RU1BSUw=","x":"eve@example.org"}',
        '{"type":"response.new.delta","delta":5,"x":"eve@example.org"}',
        '{"type":"response.new.delta","delta":"hi","x":"eve@example.org"}',
        '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"eve@example.org"}}',
        '{"type":"content_block_delta","index":0,"x":"eve@example.org","delta":{"type":"text_delta","text":"hi"}}',
        '{"delta":{"content":"\\ud83d eve@example.org"}}',
    ],
)
def test_nothing_passes_a_guard_because_it_is_odd(surface: Surface, data: str) -> None:
    texts = guarding()
    out = b"".join(said(surface, texts, f"data: {data}\n\n".encode()))
    assert b"".join(sse.EventReader().feed(out)) == out
    assert out.count(b"[EMAIL_ADDRESS]") == 1
    assert EVE.encode() not in out
    assert texts.counts == {"EMAIL_ADDRESS": 1}


@pytest.mark.parametrize("surface", [Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES])
@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ('{"text":"eve\\u0040example.org"}', '{"text":"[EMAIL_ADDRESS]"}'),
        ('{"text":\n"eve\\u0040example.org"\n}\n\n', '{"text":\n"[EMAIL_ADDRESS]"\n}\n\n'),
        ('\ufeff{"text":"eve\\u0040example.org"', '\ufeff{"text":"[EMAIL_ADDRESS]"'),
        ("data : eve@example.org\n\n", "data : [EMAIL_ADDRESS]\n\n"),
        ("event: a\nnote: eve@example.org\n\n", "event: a\nnote: [EMAIL_ADDRESS]\n\n"),
        ("eve@example.org", "[EMAIL_ADDRESS]"),
    ],
)
def test_what_is_no_event_is_changed_as_a_text(surface: Surface, raw: str, expected: str) -> None:
    """Who takes the answer for something else than a stream reads it."""
    for chunks in halves(raw.encode()):
        assert sent(surface, guarding(), chunks).decode() == expected


def test_what_no_reader_of_events_sees_keeps_its_bytes() -> None:
    raw = b": ping\r\n\r\n:\n\nevent: ping\nid: 7\nretry\ndata\n\n\n\n"
    for chunks in halves(raw):
        assert sent(Surface.CHAT, guarding(), chunks) == raw


def test_a_mark_before_the_stream_hides_nothing() -> None:
    out, *_ = said(Surface.CHAT, guarding(), b"\xef\xbb\xbf" + content(f"{EVE} and"))
    assert out.startswith(b"\xef\xbb\xbfdata: ")
    assert EVE.encode() not in out


def test_what_a_response_tells_again_counts_once() -> None:
    """Also what it repeats of its request."""
    response = {"response": {"instructions": "<EMAIL_ADDRESS_1>", "output": [{"text": f"<EMAIL_ADDRESS_1> {EVE}"}]}}
    first = {"type": "response.created", "response": {"instructions": "<EMAIL_ADDRESS_1>"}}
    delta = {"type": "response.output_text.delta", "output_index": 0, "delta": f"<EMAIL_ADDRESS_1> {EVE}"}
    done = {"type": "response.output_text.done", "output_index": 0, "text": f"<EMAIL_ADDRESS_1> {EVE}"}
    other = {"type": "response.output_item.done", "output_index": 1, "item": {"queries": [EVE]}}
    last = {"type": "response.completed", **response}
    values: list[Json] = [first, first | {"type": "response.in_progress"}, delta, done, other, last]
    texts = guarding()
    said(Surface.RESPONSES, texts, *[named(value) for value in values])
    assert (texts.restored, texts.counts) == (2, {"EMAIL_ADDRESS": 2})


def test_what_is_nearly_json_gets_escaped_values() -> None:
    out, _ = said(Surface.CHAT, restoring(), b'data: {"x": NaN, "key": "<API_KEY_1>"}\n\n')
    assert json.loads(sse.data(out))["key"] == KEY


# ---- whatever comes -------------------------------------------------------------------------------------

NAMES = """
    type error choices delta message text content reasoning_content refusal tool_calls function name arguments index
    usage item_id output_index content_index summary_index part item output response logprobs sequence_number id
    finish_reason partial_json thinking content_block annotations
"""
WORDS = """
    response.completed response.output_text.delta response.output_text.done response.function_call_arguments.delta
    error content_block_start content_block_delta content_block_stop message_delta message_stop transcript.text.delta
    <EMAIL_ADDRESS_1> <EMAIL _ADDRESS_1> eve@example.org stop assistant {"a":1}
"""
_names, _words = st.sampled_from(NAMES.split()), st.sampled_from(WORDS.split())
_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False) | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=8,
)
_delta = st.dictionaries(_names, _json, max_size=4)
_choice = st.builds(lambda delta, rest: {**rest, "delta": delta}, _delta, _delta)
_event = st.one_of(
    _json,
    st.builds(lambda choices, rest: {**rest, "choices": choices}, st.lists(_choice, max_size=2), _delta),
    st.builds(lambda kind, delta, rest: {**rest, "type": kind, "delta": delta}, _words, _delta | _words, _delta),
)


@pytest.mark.parametrize("surface", [Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES, Surface.SPEECH])
@settings(max_examples=30)
@given(st.lists(_event, max_size=5), st.binary(max_size=9), st.lists(st.integers(0, 10**4), max_size=4))
def test_no_event_is_too_odd(surface: Surface, events: list[Any], junk: bytes, cuts: list[int]) -> None:
    raw = b"".join([unnamed(event) for event in events]) + b"event: x\ndata: " + junk
    for changing in (restoring, guarding):
        out = sent(surface, changing(), [raw])
        assert sent(surface, changing(), cut(raw, cuts)) == out
        ending = registry.event_texts(surface, changing(), True)
        whole = b"".join([ending.event(event) for event in sse.EventReader().feed(raw)])
        whole += ending.ending(Usage(), True, Reason.LENGTH)
        more = whole + b":"  # of another event: else a CR at the end might be half of what ends a line
        assert b"".join(sse.EventReader().feed(more)) == whole


@given(st.lists(_event, max_size=5))
def test_what_does_not_change_keeps_its_bytes(events: list[Any]) -> None:
    """But for probabilities of tokens beside no text: they may spell what another event told, and are taken out."""
    raw = b"".join(map(unnamed, events))
    if b"EMAIL" not in raw and b"_ADDRESS" not in raw and b"logprobs" not in raw:
        for surface in (Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES):
            assert sent(surface, restoring(), [raw]) == raw
