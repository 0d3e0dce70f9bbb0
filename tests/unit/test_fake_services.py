"""The fakes of services answer in the shapes of the real ones, and say of a text what stands in it."""

import json
import math
from collections import deque
from operator import mul
from typing import Any

import pytest

from loadtest.fake_llm.faults import Faults
from loadtest.fake_llm.instance import Instance
from loadtest.fake_llm.provider import Request
from loadtest.fake_llm.recorder import Recorder
from loadtest.fake_services import AZURE_LONGEST, NAMES, answer

AZURE, OPENAI, PRESIDIO = "/contentsafety/text:analyze", "/v1/moderations", "/analyze"
EMBEDDINGS = "/v1/embeddings"


def told(path: str, question: object, query: str = "", script: tuple[Faults, ...] = ()) -> tuple[int, Any]:
    instance = Instance("a", Recorder(), script=deque(script))
    body = question if isinstance(question, bytes) else json.dumps(question).encode()
    given, _ = answer(Request("POST", path, query, {}, body), instance)
    return given.status, json.loads(given.body)


def product(one: list[float], other: list[float]) -> float:
    return float(sum(map(mul, one, other)))


def test_openai_judges_each_text_by_its_marks() -> None:
    status, judged = told(OPENAI, {"input": ["fine", "[violence 0.7] [hate 0.2]"], "model": "m"})
    assert (status, judged["model"]) == (200, "m")
    fine, bad = judged["results"]
    assert (fine["flagged"], bad["flagged"]) == (False, True)
    assert (bad["category_scores"]["violence"], bad["category_scores"]["hate"]) == (0.7, 0.2)
    assert [name for name, is_so in bad["categories"].items() if is_so] == ["violence"]
    assert len(bad["categories"]) == 13
    assert told(OPENAI, {"input": [{"type": "text", "text": "[sexual/minors 0.5]"}]})[1]["results"][0]["flagged"]
    assert not told(OPENAI, {"input": "one text"})[1]["results"][0]["flagged"]


def test_openai_gives_texts_that_share_words_vectors_that_are_near() -> None:
    texts = ["where is the town", "Where is the town?", "where is the city", "something else"]
    status, given = told(EMBEDDINGS, {"input": texts, "model": "small"})
    assert (status, given["model"], [one["index"] for one in given["data"]]) == (200, "small", [0, 1, 2, 3])
    first, same, near, far = [one["embedding"] for one in given["data"]]
    assert same == first
    assert math.hypot(*near) == pytest.approx(1, abs=1e-3)
    assert 0.9 > product(first, near) > 0.6 > 0.2 > product(first, far)
    assert told(EMBEDDINGS, {"input": "where is the town", "model": "small"})[1]["data"][0]["embedding"] == first
    assert told(EMBEDDINGS, {"input": "", "model": "small"})[0] == 400
    assert told(EMBEDDINGS, {"input": "x"})[0] == 400


def test_azure_tells_severities_of_the_categories_that_are_asked_for() -> None:
    status, judged = told(AZURE, {"text": "[Violence 4] [SelfHarm 2]"}, "api-version=2024-09-01")
    assert status == 200
    assert [(one["category"], one["severity"]) for one in judged["categoriesAnalysis"]] == [
        *(("Hate", 0), ("SelfHarm", 2), ("Sexual", 0), ("Violence", 4)),
    ]
    _, judged = told(AZURE, {"text": "[Violence 4]", "categories": ["Violence"]}, "api-version=2024-09-01")
    assert judged["categoriesAnalysis"] == [{"category": "Violence", "severity": 4}]


def test_presidio_finds_the_names_it_knows_in_code_points() -> None:
    text = "🙂 Ada Lovelace went to Reykjavík."
    status, found = told(PRESIDIO, {"text": text, "language": "en"})
    assert status == 200
    assert [text[one["start"] : one["end"]] for one in found] == ["Ada Lovelace", "Reykjavík"]
    assert [one["entity_type"] for one in found] == ["PERSON", "LOCATION"]
    assert told(PRESIDIO, {"text": text, "language": "en", "score_threshold": 0.9})[1] == []
    (only,) = told(PRESIDIO, {"text": text, "language": "en", "entities": ["LOCATION"]})[1]
    assert only["entity_type"] == "LOCATION"
    assert told(PRESIDIO, {"text": " ".join(NAMES), "language": "en"})[1]


@pytest.mark.parametrize(
    ("path", "question", "query", "status"),
    [
        (OPENAI, {}, "", 400),
        (OPENAI, b"{", "", 400),
        (AZURE, {"text": "a"}, "", 400),
        (AZURE, {"text": "a" * (AZURE_LONGEST + 1)}, "api-version=1", 400),
        (PRESIDIO, {"text": "a"}, "", 400),
        (PRESIDIO, {"text": "", "language": "en"}, "", 400),
        ("/other", {}, "", 404),
    ],
)
def test_what_the_real_ones_refuse_is_refused(path: str, question: object, query: str, status: int) -> None:
    given, body = told(path, question, query)
    assert (given, body["error"]["code"]) == (status, str(status))


def test_a_script_of_faults_comes_first() -> None:
    script = (Faults(status=429), Faults(error_body='"garbage"'))
    assert told(OPENAI, {"input": "a"}, script=script)[0] == 429
    assert told(OPENAI, {"input": "a"}, script=script[1:]) == (200, "garbage")
