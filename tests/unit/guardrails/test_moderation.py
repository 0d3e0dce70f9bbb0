"""Questions to services that judge texts, and their answers, as the services document them."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.guardrails import moderation
from extproc.guardrails.moderation import Request, Text, TooMuch
from extproc.guardrails.policy import Action, Api, Moderation
from extproc.redaction.policy import Mode
from extproc.redaction.positions import Path

OPENAI = Moderation("judge", Api.OPENAI)
AZURE = Moderation("judge", Api.AZURE)
TRUSTED = frozenset(("system", "developer", "assistant"))

# After OpenAI's and Azure's references.
RESULT = {
    "flagged": True,
    "categories": {"sexual": False, "violence": True, "violence/graphic": False},
    "category_scores": {"sexual": 2.34135824776394e-7, "violence": 0.8599265510337075, "violence/graphic": 0.37701736},
    "category_applied_input_types": {"sexual": ["text"], "violence": ["text"]},
}
CLEAN = {"flagged": False, "categories": {"violence": False}, "category_scores": {"violence": 0.01}}
SEVERITIES = {
    "blocklistsMatch": [],
    "categoriesAnalysis": [{"category": "Hate", "severity": 2}, {"category": "Violence", "severity": 4}],
}


def openai_answer(*results: Any) -> bytes:
    return orjson.dumps({"id": "modr-1", "model": "omni-moderation-latest", "results": list(results)})


def asked(rules: Moderation, *texts: str) -> list[Request]:
    return moderation.requests(rules, [Text(f"messages[{n}].content", text) for n, text in enumerate(texts)])


def said(rules: Moderation, request: Request, answer: bytes) -> list[tuple[str, int, tuple[str, ...], float | None]]:
    return [(one.rule, one.count, one.places, one.score) for one in moderation.verdicts(rules, request, answer)]


# ---- which texts ----


def turns(*spoken: tuple[str, str]) -> list[tuple[Path, str, str]]:
    return [(("messages", n, "content"), role, text) for n, (role, text) in enumerate(spoken)]


@pytest.mark.parametrize(
    ("spoken", "newest"),
    [
        ([("system", "s"), ("user", "a")], "a"),
        ([("user", "a"), ("assistant", "b"), ("user", "c"), ("user", "d")], "cd"),
        ([("user", "a"), ("assistant", "b"), ("tool", "c"), ("tool", "d")], "cd"),
        ([("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "begun")], "c"),
        ([("user", "a"), ("assistant", "begun")], "a"),
        ([("user", "a"), ("assistant", "b"), ("system", "s")], ""),
        ([("assistant", "a")], ""),
        ([("user", "  \n")], ""),
        ([], ""),
    ],
)
def test_what_was_said_since_the_model_spoke_last_is_judged(spoken: list[tuple[str, str]], newest: str) -> None:
    assert "".join(text for _, text in moderation.newest(turns(*spoken), TRUSTED)) == newest


def test_what_belongs_to_no_turn_is_always_judged_and_what_no_model_reads_never() -> None:
    given_texts: list[tuple[Path, str, str]] = [
        (("prompt",), "user", "a"),
        (("tools", 0, "description"), "tools", "b"),
        (("metadata", "note"), "aside", "c"),
        (("input", 0, "content"), "user", "old"),
        (("input", 1, "name"), "assistant", "call"),
        (("input", 2, "output"), "tool", "d"),
    ]
    found = moderation.newest(given_texts, TRUSTED)
    assert found == [Text("prompt", "a"), Text("tools[0].description", "b"), Text("input[2].output", "d")]


# ---- questions ----


def test_openai_is_asked_about_a_list() -> None:
    (request,) = asked(OPENAI, "one", "two")
    assert request.path == "/v1/moderations"
    assert orjson.loads(request.body) == {"input": ["one", "two"]}
    assert request.places == (("messages[0].content",), ("messages[1].content",))
    (named,) = asked(Moderation("judge", Api.OPENAI, model="omni-moderation-2024-09-26"), "one")
    assert orjson.loads(named.body)["model"] == "omni-moderation-2024-09-26"


def test_azure_is_asked_about_one_text() -> None:
    (request,) = asked(AZURE, "one", "two")
    assert request.path == "/contentsafety/text:analyze?api-version=2024-09-01"
    assert orjson.loads(request.body) == {"text": "one\ntwo", "outputType": "FourSeverityLevels"}
    assert request.places == (("messages[0].content", "messages[1].content"),)


@pytest.mark.parametrize("rules", [OPENAI, AZURE])
def test_without_texts_nothing_is_asked(rules: Moderation) -> None:
    assert asked(rules) == []


@pytest.mark.parametrize("rules", [OPENAI, AZURE])
def test_too_much_text_is_an_error_and_not_a_gap(rules: Moderation) -> None:
    per_request = 10_000 if rules is AZURE else 20_000
    most = per_request * moderation.MOST_REQUESTS
    assert len(asked(rules, "x" * most)) == moderation.MOST_REQUESTS
    with pytest.raises(TooMuch):
        asked(rules, "x" * (most + 1))


def texts_of(request: Request) -> list[str]:
    body = orjson.loads(request.body)
    return [body["text"]] if "text" in body else list(body["input"])


LONG = st.lists(st.text(alphabet="ab \U0001f642ü", max_size=40).map(lambda text: text * 400), max_size=12)


@given(LONG, st.sampled_from([OPENAI, AZURE]))
def test_everything_is_asked_about_within_the_services_bounds(texts: list[str], rules: Moderation) -> None:
    try:
        made = asked(rules, *texts)
    except TooMuch:
        assert sum(len(text) for text in texts) > 10_000
        return
    pieces = [piece for request in made for piece in texts_of(request)]
    assert "".join(pieces).replace("\n", "") == "".join(texts)
    for request in made:
        inputs = texts_of(request)
        assert len(inputs) == len(request.places) <= 32
        assert all(len(text.encode("utf-16-le")) // 2 <= 10_000 for text in inputs)
        assert sum(len(text.encode("utf-16-le")) // 2 for text in inputs) <= 20_000


def test_a_long_text_is_cut_between_words() -> None:
    first, second = texts_of(asked(OPENAI, "word " * 2_500)[0])
    assert (len(first), first[-1], second[:4]) == (10_000, " ", "word")
    assert len(texts_of(asked(OPENAI, "x" * 10_001)[0])) == 2


def test_a_character_that_is_none_is_asked_about_as_a_question_mark() -> None:
    assert texts_of(asked(OPENAI, "a\ud800b")[0]) == ["a?b"]


# ---- answers ----


def test_openai_says_what_it_flags() -> None:
    (request,) = asked(OPENAI, "one", "two")
    found = said(OPENAI, request, openai_answer(CLEAN, RESULT))
    assert found == [("violence", 1, ("messages[1].content",), 0.8599265510337075)]
    assert said(OPENAI, request, openai_answer(CLEAN, CLEAN)) == []


def test_thresholds_count_instead_of_flags() -> None:
    rules = Moderation("judge", Api.OPENAI, thresholds={"violence/graphic": 0.3, "sexual": 0.3})
    (request,) = asked(rules, "one")
    assert said(rules, request, openai_answer(RESULT)) == [
        ("violence/graphic", 1, ("messages[0].content",), 0.37701736)
    ]


def test_one_category_in_several_texts_is_one_verdict() -> None:
    (request,) = asked(OPENAI, "one", "two")
    assert said(OPENAI, request, openai_answer(RESULT, RESULT))[0][1:3] == (2, request.places[0] + request.places[1])


def test_a_flag_without_a_category_and_a_new_category_are_other() -> None:
    (request,) = asked(OPENAI, "one")
    bare = {"flagged": True, "categories": {}, "category_scores": {}}
    new = {"flagged": True, "categories": {"hunter2": True}, "category_scores": {"hunter2": 0.7}}
    assert said(OPENAI, request, openai_answer(bare)) == [("other", 1, ("messages[0].content",), 1.0)]
    assert said(OPENAI, request, openai_answer(new)) == [("other", 1, ("messages[0].content",), 0.7)]


def test_azure_says_severities() -> None:
    (request,) = asked(AZURE, "one", "two")
    answer = orjson.dumps(SEVERITIES)
    assert said(AZURE, request, answer) == [("Violence", 1, request.places[0], 4.0)]
    strict = Moderation("judge", Api.AZURE, thresholds={"Hate": 2})
    assert said(strict, request, answer) == [("Hate", 1, request.places[0], 2.0)]


def test_rules_say_what_follows() -> None:
    shadow = Moderation("judge", Api.OPENAI, mode=Mode.SHADOW)
    flag = Moderation("judge", Api.OPENAI, action=Action.FLAG)
    off = Moderation("judge", Api.OPENAI, mode=Mode.OFF)
    (request,) = asked(OPENAI, "one")
    for rules, blocks in ((OPENAI, [True]), (shadow, [False]), (flag, [False]), (off, [])):
        assert [one.blocks for one in moderation.verdicts(rules, request, openai_answer(RESULT))] == blocks


NOT_OPENAI: list[bytes] = [
    b"",
    b"not JSON",
    b"[]",
    b"null",
    b"{}",
    b'{"error": {"message": "quota"}}',
    b'{"results": {}}',
    b'{"results": []}',
    b'{"results": [null]}',
    openai_answer(CLEAN, CLEAN),
    openai_answer({"flagged": False}),
    openai_answer({"categories": {}, "category_scores": {}}),
    openai_answer({"flagged": "no", "categories": {}, "category_scores": {}}),
    openai_answer({"flagged": False, "categories": [], "category_scores": {}}),
    openai_answer({"flagged": False, "categories": {}, "category_scores": {"violence": "low"}}),
    openai_answer({"flagged": False, "categories": {}, "category_scores": {"violence": True}}),
]


@pytest.mark.parametrize("answer", NOT_OPENAI)
def test_an_answer_of_openai_that_is_not_understood_is_an_error(answer: bytes) -> None:
    (request,) = asked(OPENAI, "one")
    with pytest.raises(ValueError):  # noqa: PT011 - which one is no matter
        moderation.verdicts(OPENAI, request, answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"{}",
        b'{"categoriesAnalysis": []}',
        b'{"categoriesAnalysis": [{"category": "Hate"}]}',
        b'{"categoriesAnalysis": [{"category": "Hate", "severity": null}]}',
        b'{"error": {"code": "InvalidRequestBody"}}',
    ],
)
def test_an_answer_of_azure_that_is_not_understood_is_an_error(answer: bytes) -> None:
    (request,) = asked(AZURE, "one")
    with pytest.raises(ValueError):  # noqa: PT011
        moderation.verdicts(AZURE, request, answer)


def test_a_category_with_a_threshold_that_is_missing_is_an_error() -> None:
    rules = Moderation("judge", Api.OPENAI, thresholds={"violense": 0.5})
    (request,) = asked(rules, "one")
    with pytest.raises(ValueError, match="is missing"):
        moderation.verdicts(rules, request, openai_answer(RESULT))
