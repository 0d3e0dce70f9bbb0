"""What makes two calls the same: all that matters is in the form, and nothing else is."""

import json
import os
import random
from collections.abc import Collection, Hashable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import surfaces
from extproc.cache.policy import CachePolicy, Semantic
from extproc.cache.question import LONGEST, SURFACES, Bypass, Partition, Question, digest, read
from extproc.redaction.policy import Mode
from extproc.surfaces import Surface
from tests.support import cassettes
from tests.unit.cache.probes import TOLD, Probe, changed, probe, written

Body = dict[str, Any]

PROBES = int(os.environ.get("SLUICE_CACHE_PROBES", "5000"))
KEY = b"k" * 32
POLICY = CachePolicy(semantic=Semantic(mode=Mode.ENFORCE))
PARTITION = Partition("team a", "p", "m", "chat")

CHAT: Body = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}
MESSAGES: Body = {"max_tokens": 9, "system": "Be brief.", "messages": [{"role": "user", "content": "Hi"}]}
RESPONSES: Body = {"store": False, "instructions": "Be brief.", "input": "Hi"}
EMBEDDINGS: Body = {"input": "Hi"}
COMPLETIONS: Body = {"prompt": "Hi"}
PLAIN = {
    Surface.CHAT: CHAT,
    Surface.COMPLETIONS: COMPLETIONS,
    Surface.EMBEDDINGS: EMBEDDINGS,
    Surface.MESSAGES: MESSAGES,
    Surface.RESPONSES: RESPONSES,
}


def asked(body: Body | str, surface: Surface = Surface.CHAT, policy: CachePolicy = POLICY) -> Question:
    return read(surface, (body if isinstance(body, str) else json.dumps(body)).encode(), policy)


def why(body: Body | str, surface: Surface = Surface.CHAT) -> str:
    with pytest.raises(Bypass) as told:
        asked(body, surface)
    return str(told.value.args[0])


def with_value(written_: str) -> str:
    return f'{{"messages": [], "x": {written_}}}'


# ---- the law ----------------------------------------------------------------------------------------


def test_two_calls_share_a_digest_if_and_only_if_they_say_the_same() -> None:
    """And the parts of a question have the same law: both together are all of it."""
    dice = random.Random(7)
    meant: dict[str, Hashable] = {}
    digests: dict[Hashable, str] = {}
    whole: dict[tuple[bytes, str | None], bytes] = {}
    passed = shared = 0
    while passed < PROBES:
        one = probe(dice)
        for _ in range(dice.randrange(1, 6)):
            try:
                question = read(one.surface, written(dice, one), POLICY)
            except Bypass:
                break
            name, told = digest(KEY, one.partition, question.exact), one.told()
            shared += name in meant
            assert meant.setdefault(name, told) == told
            assert digests.setdefault(told, name) == name
            if question.rest is not None:
                assert whole.setdefault((question.rest, question.text), question.exact) == question.exact
            passed += 1
            one = one if dice.random() < 0.2 else changed(dice, one)
    assert shared > PROBES / 20
    assert len(meant) > PROBES / 3
    assert len(whole) > PROBES / 20


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "system", "content": "Be brief!"}, {"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi "}]},
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            ]
        },
        {"temperature": 0},
        {"temperature": 0.0},
        {"temperature": None},
        {"seed": 1},
        {"seed": "1"},
        {"seed": True},
        {"seed": 1.0},
        {"tools": []},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "description": "F"}}]},
        {"tool_choice": "none"},
        {"response_format": {"type": "json_object"}},
        {"logit_bias": {"50256": -100}},
        {"logprobs": True},
        {"stream": True},
        {"stream": False},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"prediction": {"type": "content", "content": "Hi"}},
        {"chat_template_kwargs": {"persona": "pirate"}},
        {"service_tier": "flex"},
        {"User": "ann"},
    ],
    ids=json.dumps,
)
def test_what_may_change_an_answer_makes_another_question(change: Body) -> None:
    asked_for = [asked(CHAT | other).exact for other in ({}, change)]
    assert asked_for[0] != asked_for[1]


def recorded() -> Iterator[Any]:
    for folder in filter(None, (cassettes.OWN, cassettes.shared())):
        for exchange in cassettes.load(folder):
            place = surfaces.locate(exchange.path.partition("?")[0])
            if place is not None and place.surface in SURFACES:
                once = {"n": 1} if "n" in exchange.fields else {}
                alone = {"store": False} if place.surface is Surface.RESPONSES else {}
                yield pytest.param(
                    place.surface, {**exchange.fields, **once, **alone}, id=f"{folder.parent.name}-{exchange.name}"
                )


@pytest.mark.parametrize(("surface", "body"), list(recorded()))
def test_whatever_is_changed_in_a_recorded_request_makes_another_question(surface: Surface, body: Body) -> None:
    """One value after the other, and one missing after the other. What then goes by unread shares nothing either."""
    forms, warm = [], CachePolicy(max_temperature=3)
    for variant in variants(body, TOLD[surface]):
        with suppress(Bypass):
            forms.append(asked(variant, surface, warm).exact)
    assert len(set(forms)) == len(forms)
    assert len(forms) > 1


def variants(body: Body, told: Collection[str]) -> Iterator[Body]:
    yield body
    for path in paths(body):
        if path[0] in told:
            continue
        for change in ("another", None):
            variant = json.loads(json.dumps(body))
            holder = reduce(lambda value, step: value[step], path[:-1], variant)
            if change is None:
                del holder[path[-1]]
            else:
                holder[path[-1]] = change
            yield variant


def paths(value: Any) -> Iterator[tuple[Any, ...]]:
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value))[:20]:
        yield (key,)
        if isinstance(inner, dict | list):
            yield from ((key, *rest) for rest in paths(inner))


@pytest.mark.parametrize("surface", sorted(SURFACES))
def test_who_asks_is_left_out_where_answers_do_not_tell_it(surface: Surface) -> None:
    plain = PLAIN[surface]
    for name in ("model", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "metadata"):
        if name == "metadata" and surface not in (Surface.MESSAGES, Surface.RESPONSES):
            continue
        same = asked(plain | {name: {"user_id": "x"}}, surface).exact == asked(plain, surface).exact
        assert same == (name in TOLD[surface]), name


def test_left_out_are_fields_of_the_request_and_not_of_what_is_in_it() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"model": "a", "user": "b"}}}]
    others = [{"type": "function", "function": {"name": "f", "parameters": {"model": "c", "user": "d"}}}]
    assert asked(CHAT | {"tools": tools}).exact != asked(CHAT | {"tools": others}).exact


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "1.0"),
        ("1", "1e0"),
        ("1", "true"),
        ("1", '"1"'),
        ("0", "-0"),
        ("0.0", "-0.0"),
        ("0.1", "0.10"),
        ("0.1", "0.1000000000000000055511151231257827"),
        ("1e2", "1E2"),
        ("9007199254740992", "9007199254740993"),
        ("18446744073709551614", "18446744073709551615"),
        ("[]", "{}"),
        ("null", "false"),
        ("[[1],2]", "[1,[2]]"),
        ('"\\u00e9"', '"e\\u0301"'),
        ('"a"', '"A"'),
        ('"a"', '"a\\u0000"'),
    ],
)
def test_values_that_a_reader_may_take_differently_are_different(one: str, other: str) -> None:
    forms = [asked(with_value(value)).exact for value in (one, other)]
    assert forms[0] != forms[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('"\\u00e9"', '"\u00e9"'),
        ('"\\/"', '"/"'),
        ('"\\ud83d\\udc4b"', '"\U0001f44b"'),
        ('{"a": 1, "b": 2}', '{ "b":2,"a" :1}'),
        ('{"\\u0061": 1}', '{"a": 1}'),
        ("[1, 2]", "[1,\r\n\t2]"),
    ],
)
def test_ways_to_write_the_same_are_the_same(one: str, other: str) -> None:
    forms = [asked(with_value(value)).exact for value in (one, other)]
    assert forms[0] == forms[1]


# ---- what cannot be read the same way by everybody -----------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        '{"a": 1, "a": 1}',
        '{"a": 1, "\\u0061": 2}',
        '[{"deep": {"a": 1, "b": 2, "a": 1}}]',
        '{"top_p": 1, "Top_P": 0}',
        '{"k": 1, "\u212a": 0}',
        '{"s": 1, "\u017f": 0}',
    ],
)
def test_a_key_that_stands_twice_is_read_by_nobody(value: str) -> None:
    assert why(with_value(value)) == "duplicate_keys"


def test_a_field_that_stands_twice_is_read_by_nobody() -> None:
    assert why('{"messages": [], "seed": 1, "seed": 1}') == "duplicate_keys"
    assert why('{"messages": [], "user": 1, "User": 1}') == "duplicate_keys"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        '{"messages": []} {}',
        '{"messages": [], "x": NaN}',
        '{"messages": [], "x": Infinity}',
        '{"messages": [], "x": -Infinity}',
        '{"messages": [], "x": 1e999}',
        '{"messages": [], "x": 18446744073709551616}',
        '{"messages": [], "x": -9223372036854775809}',
        '{"messages": [], "x": %s}' % ("9" * 5000),
        '{"messages": [], "x": "-0", "y": %s}' % ("9" * 5000),
        '{"messages": [], "x": 01}',
        '{"messages": [], "x": "\\ud800"}',
        '{"messages": [], "x": "\n"}',
        '{"messages": [], "x": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"messages": [], "temperature": "0"}',
        '{"messages": [], "temperature": true}',
        '{"messages": [], "temperature": [0]}',
        '{"messages": [], "Temperature": 2}',
        '{"messages": [], "N": 2}',
        '{"messages": [], "\u017ftore": true}',
    ],
)
def test_what_cannot_be_read_is_no_question(body: str) -> None:
    assert why(body) == "unreadable"


@pytest.mark.parametrize(
    "body", [b'{"x": "\xff"}', b"\xef\xbb\xbf{}", '{"messages": []}'.encode("utf-16"), bytes(range(256))]
)
def test_bytes_that_are_no_text_are_no_question(body: bytes) -> None:
    with pytest.raises(Bypass, match="unreadable"):
        read(Surface.CHAT, body, POLICY)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_anything_is_a_question_or_is_passed_by(body: bytes) -> None:
    for surface in SURFACES:
        try:
            told = read(surface, body, POLICY).exact.decode()
        except Bypass as passed:
            told = str(passed.args[0])
        assert told in ("unreadable", "duplicate_keys", "stored") or told.startswith("{")


@pytest.mark.parametrize("surface", sorted(set(Surface) - SURFACES))
def test_other_surfaces_have_no_questions(surface: Surface) -> None:
    assert why(CHAT, surface) == "surface"


# ---- how many results -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "results"),
    [("Hi", 1), (["Hi"], 1), (["Hi", "Ho", "Hi"], 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2), ([], 1)],
    ids=str,
)
def test_each_input_has_a_result(given_: object, results: int) -> None:
    assert asked({"input": given_}, Surface.EMBEDDINGS).results == results
    assert asked({"prompt": given_}, Surface.COMPLETIONS).results == results


def test_a_talk_has_one_result() -> None:
    assert asked({"store": False, "input": [{"role": "user", "content": "Hi"}] * 2}, Surface.RESPONSES).results == 1


# ---- the last words of the user ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("surface", "body", "text"),
    [
        (Surface.CHAT, CHAT, "Hi"),
        (Surface.CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}, "Hi"),
        (Surface.CHAT, {"messages": [{"role": "user", "content": "x" * LONGEST}]}, "x" * LONGEST),
        (Surface.MESSAGES, MESSAGES, "Hi"),
        (Surface.RESPONSES, RESPONSES, "Hi"),
        (Surface.RESPONSES, {"store": False, "input": [{"role": "user", "content": "Hi"}]}, "Hi"),
        (
            Surface.RESPONSES,
            {
                "store": False,
                "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
            },
            "Hi",
        ),
    ],
)
def test_the_last_words_are_told_from_the_rest(surface: Surface, body: Body, text: str) -> None:
    question = asked(body, surface)
    assert question.text == text
    assert question.rest is not None
    other = json.dumps(body).replace(text, "Hello there")
    assert asked(other, surface).rest == question.rest
    assert asked(other, surface).text == "Hello there"
    assert asked(body | {"seed": 1}, surface).rest != question.rest
    assert asked(body, surface, CachePolicy()) == replace(question, rest=None, text=None)


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0KGgoA" * 20}}


@pytest.mark.parametrize(
    ("surface", "body"),
    [
        (Surface.EMBEDDINGS, EMBEDDINGS),
        (Surface.COMPLETIONS, COMPLETIONS),
        (Surface.CHAT, {"messages": []}),
        (Surface.CHAT, {"messages": ["Hi"]}),
        (Surface.CHAT, {"messages": "Hi there", "x": "Hi"} | {"messages": {}}),
        (Surface.CHAT, {"messages": [{"role": "user", "content": ""}]}),
        (Surface.CHAT, {"messages": [{"role": "user", "content": " \n"}]}),
        (Surface.CHAT, {"messages": [{"role": "user", "content": None}]}),
        (Surface.CHAT, {"messages": [{"role": "user", "content": "x" * (LONGEST + 1)}]}),
        (Surface.CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}] * 2}]}),
        (Surface.CHAT, {"messages": [{"role": "user", "content": [IMAGE]}]}),
        (Surface.CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, IMAGE]}]}),
        (Surface.CHAT, {"messages": [{"role": "user", "content": ["Hi"]}]}),
        (Surface.CHAT, {"messages": [{"role": "user", "content": []}]}),
        (Surface.CHAT, {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}),
        (Surface.CHAT, {"messages": [{"role": "user", "content": "Hi"}, {"role": "tool", "content": "1"}]}),
        (Surface.CHAT, CHAT | {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        (Surface.CHAT, CHAT | {"functions": [{"name": "f"}]}),
        (Surface.MESSAGES, MESSAGES | {"tools": [{"name": "f", "input_schema": {}}]}),
        (
            Surface.RESPONSES,
            {"store": False, "input": [{"type": "function_call_output", "role": "user", "content": "Hi"}]},
        ),
        (Surface.RESPONSES, {"store": False}),
    ],
)
def test_other_requests_are_only_answered_word_for_word(surface: Surface, body: Body) -> None:
    question = asked(body, surface)
    assert (question.rest, question.text) == (None, None)


def test_no_words_stand_for_the_words_that_are_missing() -> None:
    """However a request writes them down, the rest tells where they were."""
    bare = asked({"messages": [{"role": "user", "content": "Hi"}]})
    part = asked({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]})
    before = asked({"messages": [{"role": "user"}, {"role": "user", "content": "Hi"}]})
    after = {"messages": [{"role": "user", "content": "Hi"}, {"role": "user"}]}
    assert asked(after).rest is None
    assert len({bare.rest, part.rest, before.rest}) == 3
    assert bare.rest is not None
    assert asked({"messages": [{"role": "user", "content": bare.rest.decode()}]}).rest == bare.rest


# ---- the digest -------------------------------------------------------------------------------------


def test_a_digest_is_64_hex_digits_and_the_same_in_every_process() -> None:
    """What a worker keeps another one finds, also after a restart: the value is part of the format."""
    assert digest(KEY, PARTITION, b"{}") == "f33dd09ae8698c7c17e11eb12c5afe58b6532e71b2a4a605a30b98ac2ea0da97"


@pytest.mark.parametrize(
    "other",
    [
        PARTITION._replace(tenant="team b"),
        PARTITION._replace(policy="q"),
        PARTITION._replace(model="n"),
        PARTITION._replace(surface="messages"),
        PARTITION._replace(asked=(("api-version", "1"),)),
        PARTITION._replace(tenant="team ap", policy=""),
        PARTITION._replace(policy="pm", model=""),
        PARTITION._replace(tenant="", policy="team a"),
    ],
)
def test_another_partition_has_other_digests(other: Partition) -> None:
    assert digest(KEY, other, b"{}") != digest(KEY, PARTITION, b"{}")


def test_another_tier_another_key_another_form_have_other_digests() -> None:
    digests = [
        digest(KEY, PARTITION, b"{}"),
        digest(KEY, PARTITION, b"{}", "semantic"),
        digest(b"l" * 32, PARTITION, b"{}"),
        digest(KEY, PARTITION, b"{} "),
        digest(KEY, PARTITION, b""),
    ]
    assert len(set(digests)) == len(digests)


FACTS = st.builds(
    Partition,
    *(st.text("ab", max_size=2) for _ in range(4)),
    st.lists(st.tuples(st.text("ab", max_size=2), st.text("ab", max_size=2)), max_size=2).map(tuple),
)


@given(FACTS, FACTS, st.binary(max_size=2), st.binary(max_size=2), st.text("ab", max_size=2), st.text("ab", max_size=2))
def test_facts_never_run_over_into_each_other(
    one: Partition, other: Partition, form: bytes, form_: bytes, tier: str, tier_: str
) -> None:
    same = (one, form, tier) == (other, form_, tier_)
    assert (digest(KEY, one, form, tier) == digest(KEY, other, form_, tier_)) == same


@given(st.text())
def test_any_text_can_be_a_fact(text: str) -> None:
    assert len(digest(KEY, Partition(text, text, text, text, ((text, text),)), b"")) == 64


def test_what_a_probe_is_does_not_depend_on_how_it_is_written() -> None:
    one = Probe(PARTITION, Surface.CHAT, {"a": 1, "b": [1.0, {"c": None}], "user": "x"})
    other = Probe(PARTITION, Surface.CHAT, {"b": [1.0, {"c": None}], "a": 1, "model": "m"})
    assert one.told() == other.told()
    assert one.told() != replace(one, body={"a": 1.0, "b": [1.0, {"c": None}]}).told()
