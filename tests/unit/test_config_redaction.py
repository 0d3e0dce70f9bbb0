"""From policies of redaction to what finds values, and what is told of those that cannot be carried out."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from extproc.config import compile as compiled
from extproc.config import profiles
from extproc.config.loader import json_schema
from extproc.config.profiles import Unusable
from extproc.config.redaction import Redaction
from extproc.config.schema import Gateway
from extproc.redaction import entities
from extproc.redaction.output import RUN
from extproc.redaction.policy import Action, Mode, NameTier, OnError, RedactionPolicy, Stateful
from extproc.redaction.profile import Profile
from tests.support.json_schema import mistakes

KEY = {"HASH_KEY": "k" * 32}
MAIL = "ann@example.com"
RECOGNIZERS = """\
recognizers:
  - name: badges
    supported_entity: BADGE
    patterns: [{name: badge, regex: "\\\\bB-[0-9]{4}\\\\b", score: 0.9}]
  - name: sites
    supported_entity: SITE
    deny_list: [Harbour, "North Gate"]
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recognizers.yaml").write_text(RECOGNIZERS)


def _profile(given: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Profile:
    return profiles.profiles({"some": Redaction.model_validate(given)}, environ or {})["some"]


def _policy(given: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> RedactionPolicy:
    return _profile(given, environ).policy


def _mistakes(given: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """The way to the setting within the policy, and what is said of it."""
    found = profiles.mistakes({"some": Redaction.model_validate(given)}, environ or {})
    return [(".".join(map(str, steps[3:])), message) for steps, message in found]


def _found(profile: Profile, text: str) -> list[tuple[str, str]]:
    assert profile.input is not None
    return [(finding.entity, text[finding.start : finding.end]) for finding in profile.input.findings(text)]


# ---- what is found, and what becomes of it ----------------------------------------------------------


def test_a_policy_that_says_nothing_takes_the_usual_entities_out_and_looks_at_no_answer() -> None:
    profile = _profile({})
    assert profile.policy == RedactionPolicy(
        input=dict.fromkeys(entities.expanded(entities.DEFAULT), Action.PLACEHOLDER), name="some"
    )
    assert _found(profile, f"Write to {MAIL}.") == [("EMAIL_ADDRESS", MAIL)]
    assert (profile.output, profile.reach) == (None, 0)


def test_every_field_reaches_the_policy() -> None:
    given = {
        "mode": "shadow",
        "entities": ["US_SSN"],
        "output": {"US_SSN": "hash"},
        "on_error": "allow",
        "max_text": "2KiB",
        "stateful": "refuse",
        "hash_key": {"env": "HASH_KEY"},
        "names": {
            "service": "names",
            "entities": ["PERSON"],
            "language": "de",
            "floor": 0.6,
            "max_text": 500,
            "timeout": 1.5,
        },
    }
    tier = NameTier(frozenset({"PERSON"}), None, "names", "de", 0.6, 500, 1.5)
    assert _policy(given, KEY) == RedactionPolicy(
        Mode.SHADOW,
        {"PERSON": Action.PLACEHOLDER, "US_SSN": Action.PLACEHOLDER},
        {"US_SSN": Action.HASH},
        OnError.ALLOW,
        2048,
        Stateful.REFUSE,
        b"k" * 32,
        tier,
        "some",
    )


def test_a_list_of_entities_is_of_placeholders() -> None:
    assert _policy({"entities": ["US_SSN", "URL"]}).input == dict.fromkeys(("US_SSN", "URL"), Action.PLACEHOLDER)


def test_the_smaller_group_speaks_over_the_larger_and_an_entity_over_both() -> None:
    given = {"JWT": "flag", "SECRET": "block", "DEFAULT": "mask", "IP_ADDRESS": "off", "UK_NHS": "drop"}
    actions = _policy({"entities": given}).input
    assert {entity: action for entity, action in actions.items() if entity not in entities.SECRETS} == {
        **dict.fromkeys(set(entities.PERSONAL) - {"IP_ADDRESS"}, Action.MASK),
        "UK_NHS": Action.DROP,
    }
    secrets = {entity: actions[entity] for entity in entities.SECRETS}
    assert secrets == dict.fromkeys(entities.SECRETS, Action.BLOCK) | {"JWT": Action.FLAG}


def test_the_national_ones_are_a_group() -> None:
    assert set(_policy({"entities": {"NATIONAL": "mask"}}).input) == set(entities.NATIONAL)


def test_groups_are_taken_apart_for_answers_floors_and_context_too() -> None:
    given = {"output": {"SECRET": "mask"}, "floors": {"SECRET": 0.9, "JWT": 0.2}, "context": {"NATIONAL": ["passport"]}}
    profile = _profile(given)
    assert set(profile.policy.output) == set(entities.SECRETS)
    assert profile.output is not None
    assert profile.output.findings(MAIL) == []


def test_custom_recognizers_and_lists_are_on_without_being_named() -> None:
    given = {"recognizers": ["recognizers.yaml"], "deny": {"PROJECT": ["Aurora"]}, "entities": ["US_SSN"]}
    profile = _profile(given)
    assert profile.policy.input == dict.fromkeys(("US_SSN", "BADGE", "SITE", "PROJECT"), Action.PLACEHOLDER)
    assert _found(profile, "AURORA at Harbour: B-1234") == [
        ("PROJECT", "AURORA"),
        ("SITE", "Harbour"),
        ("BADGE", "B-1234"),
    ]


def test_they_can_have_another_action_or_none() -> None:
    given = {"recognizers": ["recognizers.yaml"], "entities": {"BADGE": "block", "SITE": "off"}}
    profile = _profile(given)
    assert profile.policy.input == {"BADGE": Action.BLOCK}
    assert _found(profile, "Harbour B-1234") == [("BADGE", "B-1234")]


def test_a_recognizer_of_a_known_entity_adds_to_what_is_known_of_it() -> None:
    profile = _profile({"deny": {"EMAIL_ADDRESS": ["postmaster"]}, "entities": ["US_SSN"]})
    assert _found(profile, f"postmaster, {MAIL}") == [("EMAIL_ADDRESS", "postmaster"), ("EMAIL_ADDRESS", MAIL)]


def test_what_is_allowed_stays() -> None:
    given = {"allow": ["Support@Example.com"], "allow_patterns": [r".*@example\.org"], "entities": ["EMAIL_ADDRESS"]}
    text = f"support@example.com a@example.org {MAIL}"
    assert _found(_profile(given), text) == [("EMAIL_ADDRESS", MAIL)]


def test_floors_context_and_regions_decide_what_is_one() -> None:
    number = "reference 536904399"
    assert _found(_profile({"entities": ["US_SSN"]}), number) == []
    assert _found(_profile({"entities": ["US_SSN"], "context": {"US_SSN": ["reference"]}}), number) != []
    assert _found(_profile({"entities": ["EMAIL_ADDRESS"]}), MAIL) != []
    phone = "call 044 668 18 00 today"
    swiss = {"entities": ["PHONE_NUMBER"], "regions": ["CH"]}
    assert (_found(_profile(swiss), phone), _found(_profile(swiss | {"regions": ["US"]}), phone)) == (
        [("PHONE_NUMBER", "044 668 18 00")],
        [],
    )


def test_nothing_to_look_for_takes_no_detector() -> None:
    assert _profile({"entities": {}}).input is None


def test_names_that_are_off_are_not_asked_for() -> None:
    names = {"service": "names", "entities": ["PERSON", "LOCATION"]}
    policy = _policy({"entities": {"PERSON": "mask", "LOCATION": "off"}, "names": names})
    assert policy.names is not None
    assert (policy.names.entities, policy.input) == (frozenset({"PERSON"}), {"PERSON": Action.MASK})
    assert _policy({"entities": {"PERSON": "off", "LOCATION": "off"}, "names": names}).names is None


@pytest.mark.parametrize(
    ("given", "reach"),
    [
        ({"output": {"SECRET": "mask"}}, 0),
        ({"deny": {"PROJECT": ["Aurora", "Project Zeus"]}, "output": {"PROJECT": "mask"}}, len("Project Zeus")),
        ({"deny": {"PROJECT": ["Project Zeus"]}, "output": {"SECRET": "mask"}}, 0),
        ({"recognizers": ["recognizers.yaml"], "output": {"BADGE": "mask"}}, len("B-1234")),
        ({"deny": {"PROJECT": ["x " * RUN]}, "output": {"PROJECT": "mask"}}, RUN),
    ],
)
def test_the_reach_is_that_of_the_longest_phrase_of_an_answer(given: dict[str, Any], reach: int) -> None:
    assert _profile(given).reach == reach


def test_a_policy_that_is_off_is_there_and_reads_nothing() -> None:
    given = {"mode": "off", "recognizers": ["nowhere.yaml"], "hash_key": {"env": "NOWHERE"}}
    profile = _profile(given)
    assert (profile.policy, profile.input, profile.output) == (RedactionPolicy(Mode.OFF, name="some"), None, None)


def test_equal_settings_share_a_detector() -> None:
    base = {"recognizers": ["recognizers.yaml"], "floors": {"US_SSN": 0.5}, "context": {"US_SSN": ["number"]}}
    policies = {
        "one": base,
        "other": base | {"entities": {"DEFAULT": "mask", "BADGE": "mask", "SITE": "mask"}, "mode": "shadow"},
        "further": base | {"floors": {"US_SSN": 0.6}},
        "last": base | {"allow": ["x"]},
    }
    made = profiles.profiles({name: Redaction.model_validate(given) for name, given in policies.items()}, {})
    assert made["one"].input is made["other"].input
    assert len({id(profile.input) for profile in made.values()}) == 3


# ---- the key of hashes ------------------------------------------------------------------------------


def test_the_key_comes_from_a_file_or_a_variable() -> None:
    Path("key").write_bytes(b"\xff" * 32 + b"\r\n")
    given = {"entities": {"US_SSN": "hash"}}
    assert _policy(given | {"hash_key": {"file": "key"}}).hash_key == b"\xff" * 32
    assert _policy(given | {"hash_key": {"env": "HASH_KEY"}}, KEY).hash_key == b"k" * 32


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"file": "nowhere"}, "the file nowhere cannot be read (No such file or directory)"),
        ({"env": "NOWHERE"}, "the environment variable NOWHERE is not set"),
        ({"env": "SHORT"}, "it must have at least 32 bytes, such as `openssl rand -hex 32` makes"),
    ],
)
def test_a_key_that_cannot_be_used_is_told_without_it(source: dict[str, str], told: str) -> None:
    given = {"entities": {"US_SSN": "hash"}, "hash_key": source}
    assert _mistakes(given, {"SHORT": "s3cret"}) == [("hash_key", told)]


# ---- what cannot be carried out ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"entities": ["EMAIL_ADRESS"]}, ("entities.EMAIL_ADRESS", "(did you mean EMAIL_ADDRESS?)")),
        ({"entities": {"LITERAL": "mask"}}, ("entities.LITERAL", "there is no entity 'LITERAL'")),
        ({"entities": ["PERSON"]}, ("entities.PERSON", "needs `names`: without it names are not found")),
        ({"output": {"US_SSM": "mask"}}, ("output.US_SSM", "(did you mean US_SSN?)")),
        ({"output": {"PERSON": "mask"}}, ("output.PERSON", "names are not looked for in answers")),
        (
            {"output": {"TITLE": "mask"}, "names": {"service": "n", "entities": ["TITLE"]}},
            ("output.TITLE", "names are not looked for in answers"),
        ),
        ({"floors": {"SSN": 0.5}}, ("floors.SSN", "there is no entity 'SSN'")),
        ({"context": {"SSN": ["a"]}}, ("context.SSN", "there is no entity 'SSN'")),
        ({"deny": {"SECRET": ["a"]}}, ("deny.SECRET", "stands for other entities: choose another name")),
        ({"allow_patterns": ["("]}, ("", "allowed: (")),
        ({"regions": ["XX"]}, ("", "XX")),
        ({"deny": {"PROJECT": [" "]}}, ("", "deny.PROJECT")),
    ],
)
def test_a_setting_that_no_schema_can_check_is_told(given: dict[str, Any], told: tuple[str, str]) -> None:
    ((field, message),) = _mistakes(given)
    assert field == told[0]
    assert told[1] in message
    with pytest.raises(Unusable):
        _profile(given)


def test_all_unknown_entities_are_told_together() -> None:
    given = {"entities": ["A", "US_SSN", "B"], "output": {"C": "mask"}}
    assert [field for field, _ in _mistakes(given)] == ["entities.A", "entities.B", "output.C"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"\xff", "custom.yaml is not UTF-8 text"),
        (b"a: [\n", "custom.yaml:2: not valid YAML: "),
        (b"a: \x01\n", "custom.yaml: not valid YAML"),
        (b"recognizers: 7\n", "custom.yaml: a list of recognizers is expected, under `recognizers`"),
        (
            b"- {name: x, supported_entity: X, patterns: [{regex: a, score: 7}]}\n",
            "custom.yaml: recognizer 'x': a score",
        ),
        (b"- {name: x, supported_entity: SECRET, deny_list: [a]}\n", "'SECRET' cannot be the name of an entity"),
        (b"- {name: x, supported_entity: 'a b', deny_list: [a]}\n", "'a b' cannot be the name of an entity"),
    ],
)
def test_a_file_of_recognizers_that_is_none_is_told_with_its_name(text: bytes, told: str) -> None:
    Path("custom.yaml").write_bytes(text)
    ((field, message),) = _mistakes({"recognizers": ["recognizers.yaml", "custom.yaml"]})
    assert field == "recognizers.1"
    assert told in message


def test_a_file_that_is_not_there_is_told() -> None:
    told = "the file nowhere.yaml cannot be read (No such file or directory)"
    assert _mistakes({"recognizers": ["nowhere.yaml"]}) == [("recognizers.0", told)]


def test_a_pattern_that_cannot_be_matched_in_linear_time_is_told_with_its_recognizer() -> None:
    Path("custom.yaml").write_text('- {name: twice, supported_entity: X, patterns: [{name: p, regex: "(a)\\\\1"}]}\n')
    ((field, message),) = _mistakes({"recognizers": ["custom.yaml"]})
    assert (field, message.startswith("pattern 'twice: p'")) == ("", True)


def test_what_is_off_is_checked_but_for_its_key() -> None:
    given = {"mode": "off", "entities": {"SSN": "hash"}, "hash_key": {"env": "NOWHERE"}}
    assert [field for field, _ in _mistakes(given)] == ["entities.SSN"]


# ---- models of names --------------------------------------------------------------------------------


def test_a_model_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"spacy": True}
    monkeypatch.setattr(profiles, "find_spec", lambda name: here.get(name) or None)
    names = {"names": {"model": "en_core_web_sm"}}
    told = "there is no model en_core_web_sm, neither an installed package nor a folder"
    assert _mistakes(names) == [("names.model", told)]
    Path("en_core_web_sm").mkdir()
    assert _mistakes(names) == []
    Path("en_core_web_sm").rmdir()
    here["en_core_web_sm"] = True
    assert _mistakes(names) == []
    here.clear()
    assert _mistakes(names) == [("names.model", "needs the extra `names` (spaCy)")]


def test_a_model_is_looked_for_without_loading_anything() -> None:
    assert find_spec("extproc") is not None
    assert _mistakes({"names": {"model": "../x.y"}})[0][0] == "names.model"


# ---- in the catalogue -------------------------------------------------------------------------------


def test_the_catalogue_has_the_policies_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASH_KEY", KEY["HASH_KEY"])
    gateway = Gateway.model_validate(
        {
            "backends": {"one": {"dialect": "openai", "url": "https://llm.example"}},
            "models": {"m": {"targets": [[{"backend": "one"}]]}},
            "policies": {
                "redaction": {
                    "default": {"entities": {"US_SSN": "hash"}, "hash_key": {"env": "HASH_KEY"}},
                    "open": {"mode": "off"},
                }
            },
        }
    )
    served = Gateway.model_validate_json(gateway.model_dump_json())  # as a worker gets it
    assert served == gateway
    redaction = compiled.catalogue(served).redaction
    assert {name: profile.policy.mode for name, profile in redaction.items()} == {
        "default": Mode.ENFORCE,
        "open": Mode.OFF,
    }
    assert compiled.without_policies(served).redaction == {}
    with pytest.raises(Unusable, match="HASH_KEY is not set"):
        compiled.catalogue(served, {})


# ---- the published schema ---------------------------------------------------------------------------

EXAMPLE = Path(__file__).parents[2] / "examples" / "redaction" / "gateway.yaml"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("SECRET: block", "SECRET: block", []),
        ("entities: {DEFAULT: mask, NATIONAL: block}", "entities: [US_SSN, URL]", []),
        ("stateful: refuse", "stateful: refused", ["$.policies.redaction.strict.stateful: enum ['mask', 'refuse']"]),
        ("allow: [", "allowed: [", ["$.policies.redaction.default: no allowed"]),
        ("action: flag", "action: drop", ["$.policies.guardrails.default.injection.action: enum ['block', 'flag']"]),
    ],
)
def test_an_editor_knows_policies(before: str, after: str, told: list[str]) -> None:
    text = EXAMPLE.read_text()
    assert before in text
    assert mistakes(json_schema(), YAML(typ="safe").load(text.replace(before, after))) == told


def test_a_tier_of_names_can_be_remembered_by() -> None:
    """What finds something is known by its hash; a set in it has none."""
    given = Redaction.model_validate({"names": {"service": "analyzer"}, "entities": ["EMAIL_ADDRESS", "PERSON"]})
    tier = profiles.profiles({"default": given}, {})["default"].policy.names
    assert hash(tier) == hash(tier)
