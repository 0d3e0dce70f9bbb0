"""From guardrails as people write them to the rules that calls are held to."""

from decimal import Decimal
from typing import Any

import pytest

from extproc.config import compile as compiled
from extproc.config import rules
from extproc.config.schema import Gateway
from extproc.config.services import EMBEDDING
from extproc.guardrails import policy
from extproc.guardrails.content import rule_of
from extproc.guardrails.policy import Action, Api, ContentRule, Guardrails, Images, Injection, Moderation, Structure
from extproc.redaction.detector import Detector
from extproc.redaction.policy import Mode, OnError

SERVICES = {
    "judge": {"api": "openai-moderation", "url": "https://api.openai.com"},
    "azure": {"api": "azure-content-safety", "url": "https://safe.cognitiveservices.azure.com"},
}


def _gateway(**policies: Any) -> Gateway:
    return Gateway.model_validate(
        {
            "backends": {"one": {"dialect": "openai", "url": "https://llm.example"}},
            "models": {"m": {"targets": [[{"backend": "one"}]]}},
            "services": SERVICES,
            "policies": {"guardrails": policies},
        }
    )


def _rules(given: dict[str, Any]) -> Guardrails:
    return compiled.catalogue(_gateway(some=given), {}).guardrails["some"]


def _said(detector: Detector | None, text: str) -> list[str | None]:
    assert detector is not None
    return [rule_of(finding.entity) for finding in detector.findings(text)]


def test_a_policy_that_says_nothing_looks_at_nothing() -> None:
    found = _rules({})
    assert (found.name, found.structure, found.injection, found.content) == ("some", None, None, ())
    assert (found.input_words, found.output_words, found.moderation, found.on_error) == (None, None, None, OnError.DENY)


def test_what_is_not_given_is_what_the_rules_themselves_have() -> None:
    found = _rules({"structure": {}, "injection": {}, "moderation": {"service": "judge"}})
    assert found.structure == Structure()
    assert found.injection == Injection()
    assert found.moderation == Moderation("judge", Api.OPENAI)


def test_every_field_reaches_its_rule() -> None:
    structure = {
        "mode": "shadow",
        "action": "flag",
        "max_messages": 1,
        "max_text": 2,
        "max_images": 0,
        "max_tools": 4,
        "image_hosts": ["*.Example.com"],
        "tools": ["get_*"],
        "hosted_tools": [],
        "mcp_hosts": ["mcp.example.com"],
        "files": False,
    }
    moderation = {
        "service": "judge",
        "model": "omni-moderation-latest",
        "thresholds": {"self-harm/intent": 0.5},
        "mode": "shadow",
        "action": "flag",
        "on_error": "allow",
        "timeout": "500ms",
        "price": "0.0005",
        "input": False,
        "output": True,
        "window": 300,
    }
    content = {"words": ["a b"], "patterns": ["c"], "mode": "shadow", "action": "flag", "input": False, "output": True}
    found = _rules(
        {
            "structure": structure,
            "injection": {"mode": "shadow", "action": "flag", "threshold": 0.5, "trusted": ["tool"]},
            "content": {"weapons": content},
            "moderation": moderation,
            "on_error": "allow",
        }
    )
    assert found.structure == Structure(
        Mode.SHADOW,
        Action.FLAG,
        1,
        2,
        0,
        4,
        Images.ANY,
        ("*.example.com",),
        ("get_*",),
        frozenset(),
        ("mcp.example.com",),
        files=False,
    )
    assert found.injection == Injection(Mode.SHADOW, Action.FLAG, 0.5, frozenset({"tool"}))
    rule = ContentRule("weapons", ("a b",), ("c",), Mode.SHADOW, Action.FLAG, input=False, output=True)
    assert found.content == (rule,)
    assert found.reach == len("a b")
    assert found.moderation == Moderation(
        "judge",
        Api.OPENAI,
        "omni-moderation-latest",
        {"self-harm/intent": 0.5},
        Mode.SHADOW,
        Action.FLAG,
        OnError.ALLOW,
        0.5,
        500_000,
        input=False,
        output=True,
        window=300,
    )
    assert found.on_error is OnError.ALLOW


def test_the_api_follows_from_the_service() -> None:
    found = _rules({"moderation": {"service": "azure", "thresholds": {"Hate": 6}}})
    assert found.moderation is not None
    assert (found.moderation.api, found.moderation.thresholds) == (Api.AZURE, {"Hate": 6.0})


def test_rules_look_where_they_say_and_one_that_is_off_nowhere() -> None:
    found = _rules(
        {
            "content": {
                "both": {"words": ["red"], "output": True},
                "asked": {"patterns": ["gre+n"]},
                "said": {"words": ["blue"], "input": False, "output": True},
                "never": {"words": ["white"], "mode": "off"},
            }
        }
    )
    text = "red greeen blue white"
    assert [rule.name for rule in found.content] == ["both", "asked", "said"]
    assert found.reach == len("blue")
    assert (_said(found.input_words, text), _said(found.output_words, text)) == (["both", "asked"], ["both", "said"])


def test_one_detector_serves_both_ways_where_the_rules_are_the_same() -> None:
    found = _rules({"content": {"both": {"words": ["red"], "output": True}}})
    assert found.input_words is found.output_words is not None


@pytest.mark.parametrize("part", ["structure", "injection", "moderation"])
def test_what_is_off_is_left_out(part: str) -> None:
    given = {"mode": "off"} | ({"service": "judge"} if part == "moderation" else {})
    assert getattr(_rules({part: given}), part) is None


def test_a_pattern_that_cannot_be_matched_is_told_with_its_rule() -> None:
    content = {"good": {"words": ["a"]}, "bad": {"patterns": [r"(a)\1"]}, "broken": {"patterns": ["("], "mode": "off"}}
    gateway = _gateway(some={"content": content})
    found = [(steps[3:], message.partition(":")[0]) for steps, message in rules.mistakes(gateway)]
    assert found == [
        (("content", "bad"), "pattern 'content rule bad"),
        (("content", "broken"), "pattern 'content rule broken"),
    ]


def test_a_price_is_exact() -> None:
    given = _gateway(some={"moderation": {"service": "judge", "price": "0.000000001"}})
    served = Gateway.model_validate_json(given.model_dump_json())
    assert served == given
    moderation = served.policies.guardrails["some"].moderation
    assert moderation is not None
    assert moderation.price == Decimal("0.000000001")
    found = compiled.catalogue(served, {}).guardrails["some"].moderation
    assert found is not None
    assert found.price == 1


def test_the_words_of_the_configuration_are_those_of_the_rules() -> None:
    """So that no rule can be thought of that no file can ask for."""
    schema = Gateway.model_json_schema()["$defs"]
    images = schema["Structure"]["properties"]["images"]["enum"]
    assert images == list(policy.Images)
    assert schema["Content"]["properties"]["action"]["enum"] == list(Action)
    assert schema["Content"]["properties"]["mode"]["enum"] == list(Mode)
    assert schema["Service"]["properties"]["api"]["enum"] == [*Api, "presidio", *EMBEDDING]
