"""The cache as it is written, what it comes to, and the versions of what answers come from.

What is refused with its line stands in tests/unit/config.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML
from typer.testing import CliRunner

from extproc.cache.policy import CachePolicy, CacheRules, Scope, Selector, Semantic
from extproc.call import Rules
from extproc.cli import app, settings
from extproc.config import compile as compiled
from extproc.config import versions
from extproc.config.doubts import doubts
from extproc.config.loader import json_schema, load
from extproc.config.schema import Gateway
from extproc.config.teams import TeamFile
from extproc.model import Catalogue
from extproc.redaction.policy import Mode
from extproc.stages.guard import policy_version
from tests.support.json_schema import mistakes

ROOT = Path(__file__).resolve().parents[2]
BACKENDS: dict[str, Any] = {
    "one": {"dialect": "openai", "url": "https://llm.example"},
    "two": {"dialect": "anthropic", "url": "https://b.example"},
}
MODELS: dict[str, Any] = {
    "gpt-4o": {"aliases": ["four"], "targets": [[{"backend": "one"}]]},
    "claude": {"targets": [[{"backend": "two"}]]},
}
SERVICES = {"vectors": {"api": "openai-embeddings", "url": "https://api.openai.com/v1"}}
KEY = {"env": "CACHE_KEY"}


def _gateway(cache: Mapping[str, Any], **more: Any) -> Gateway:
    return Gateway.model_validate({"backends": BACKENDS, "models": MODELS, "cache": cache} | more)


def _rules(cache: Mapping[str, Any], **more: Any) -> CacheRules:
    return compiled.without_policies(_gateway(cache, **more)).cache


# ---- what it comes to -----------------------------------------------------------------------------------


def test_without_a_word_nothing_is_kept() -> None:
    rules = _rules({})
    assert rules == CacheRules()
    assert not rules.on
    assert rules.policy("gpt-4o", "search", "k", "ci").mode is Mode.OFF


def test_every_field_reaches_the_policy() -> None:
    given = {
        "mode": "enforce",
        "ttl": "5m",
        "largest": "2KiB",
        "scope": "user",
        "max_temperature": 0,
        "side_effects": ["send_*"],
        "wait": "3s",
        "semantic": {
            "mode": "shadow",
            "threshold": 0.95,
            "service": "vectors",
            "service_model": "small",
            "price": "0.02",
            "timeout": "300ms",
        },
    }
    tier = Semantic(Mode.SHADOW, 0.95, None, "vectors", "small", 20_000_000, 0.3)
    policy = CachePolicy(Mode.ENFORCE, 300.0, 2048, Scope.USER, 0.0, ("send_*",), tier)
    assert _rules(given, services=SERVICES) == CacheRules(policy, (), 3.0)


def test_what_a_rule_leaves_out_is_as_it_stands_above() -> None:
    above = {"mode": "shadow", "ttl": 60, "side_effects": ["a"], "max_temperature": 0.5, "scope": "key"}
    own = {"mode": "enforce", "ttl": 5, "side_effects": [], "max_temperature": 0, "scope": "team", "largest": 1024}
    rules = _rules({**above, "rules": [{"teams": ["search"]}, {"keys": ["ci"], **own}]})
    assert [policy for _, policy in rules.rules] == [
        rules.default,
        CachePolicy(Mode.ENFORCE, 5.0, 1024, Scope.TEAM, 0.0, ()),
    ]


def test_the_first_rule_that_speaks_of_a_call_decides() -> None:
    cache = {
        "ttl": 1,
        "rules": [
            {"models": ["four"], "teams": ["search", "shop"], "ttl": 2},
            {"keys": ["ci", "0a1b", "shop/nightly"], "ttl": 3},
            {"models": ["gpt-4o", "claude"], "ttl": 4},
        ],
    }
    rules = _rules(cache)
    assert rules.rules[0][0] == Selector(models=frozenset({"gpt-4o"}), teams=frozenset({"search", "shop"}))
    for call, ttl in {
        ("gpt-4o", "search", "k", "ci"): 2,
        ("claude", "search", "k", "ci"): 3,
        ("other", None, "0a1b", "x"): 3,
        ("claude", "shop", "k", "nightly"): 3,
        ("claude", "search", "k", "nightly"): 4,
        ("claude", None, "k", "nightly"): 4,
        ("gpt-4o", None, "k", "x"): 4,
        ("other", "search", "k", "x"): 1,
    }.items():
        assert rules.policy(*call).ttl == ttl, call


@pytest.mark.parametrize(
    ("exact", "tier", "effective"),
    [
        ("off", "enforce", "off"),
        ("shadow", "enforce", "shadow"),
        ("enforce", "enforce", "enforce"),
        ("enforce", "shadow", "shadow"),
        ("shadow", "off", "off"),
    ],
)
def test_the_semantic_tier_goes_no_farther_than_the_cache(exact: str, tier: str, effective: str) -> None:
    rule = {"models": ["claude"], "mode": exact, "semantic": {"mode": tier}}
    rules = _rules({"mode": exact, "semantic": {"mode": tier, "model": "folder"}, "rules": [rule]})
    assert rules.default.semantic.mode.value == effective
    assert rules.policy("claude", None, "", "").semantic == rules.default.semantic


def test_a_rule_may_set_the_semantic_tier_for_its_calls() -> None:
    rule = {"teams": ["search"], "semantic": {"mode": "enforce", "threshold": 0.97}}
    rules = _rules({"mode": "enforce", "semantic": {"model": "folder"}, "rules": [rule]})
    assert rules.default.semantic == Semantic(Mode.OFF, model="folder")
    assert rules.policy("m", "search", "", "").semantic == Semantic(Mode.ENFORCE, 0.97, "folder")


@pytest.mark.parametrize(
    ("cache", "on"),
    [
        ({"mode": "shadow"}, True),
        ({"rules": [{"teams": ["a"], "mode": "shadow"}]}, True),
        ({"rules": [{"teams": ["a"], "mode": "off"}, {"keys": ["a"], "ttl": 5}]}, False),
        ({"mode": "enforce", "rules": [{"teams": ["a"], "mode": "off"}]}, True),
    ],
)
def test_it_is_on_where_any_call_may_be_answered(cache: dict[str, Any], on: bool) -> None:
    assert (_gateway(cache).cache.is_on, _rules(cache).on) == (on, on)


def test_a_call_waits_no_longer_than_a_decision_may_take() -> None:
    """And leaves time for what else there is to decide."""
    assert _rules({}).wait == 20
    assert _rules({}, timeouts={"policy_longest": "9s"}).wait == 6
    assert _rules({"wait": "5s"}, timeouts={"policy_longest": "9s"}).wait == 5
    with pytest.raises(ValidationError, match=r"cache\.wait: must be at most 6s, two thirds of"):
        _gateway({"wait": "7s"}, timeouts={"policy_longest": "9s"})


def test_a_call_waits_no_longer_than_a_silent_one_may_live() -> None:
    """Nothing flows on its stream, while that of the call that it waits for is lively."""
    assert _rules({}, timeouts={"idle": "9s"}).wait == 4.5
    assert _rules({"wait": "4s"}, timeouts={"idle": "9s"}).wait == 4
    with pytest.raises(ValidationError, match=r"cache\.wait: must be at most 4\.5s, .* half of `timeouts\.idle`"):
        _gateway({"wait": "5s"}, timeouts={"idle": "9s"})


NAMES = st.one_of(st.none(), st.frozensets(st.sampled_from("abc"), min_size=1))


@given(st.builds(Selector, NAMES, NAMES, NAMES), st.builds(Selector, NAMES, NAMES, NAMES), st.data())
def test_a_selector_that_covers_another_speaks_of_all_its_calls(one: Selector, other: Selector, data: Any) -> None:
    name = st.sampled_from("abc")
    call = (data.draw(name), data.draw(st.none() | name), data.draw(name), "c")
    if one.covers(other) and other.matches(*call):
        assert one.matches(*call)
    assert one.covers(one)


# ---- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        ({"largest": "65MiB"}, "must be 1KiB to 64MiB"),
        ({"rules": [{"teams": ["a"], "largest": 1023}]}, "must be 1KiB to 64MiB"),
        ({"largest": "2MiB", "size": "1MiB"}, "`size` must be at least `largest`"),
        ({"size": "1MiB", "rules": [{"teams": ["a"], "largest": "2MiB"}]}, "`size` must be at least `largest`"),
        ({"semantic": {"mode": "shadow"}}, "`semantic` needs something that makes vectors"),
        ({"rules": [{"teams": ["a"], "semantic": {"mode": "enforce"}}]}, "`semantic` needs something"),
        ({"semantic": {"model": "a", "service": "vectors", "service_model": "b"}}, "one of `model` and `service`"),
        ({"semantic": {"service": "vectors"}}, "give `service_model` with `service`"),
        ({"semantic": {"model": "a", "service_model": "b"}}, "give `service_model` with `service`"),
        ({"semantic": {"model": "a", "price": 1}}, "`price` is for a `service`"),
        ({"semantic": {"service": "vektors", "service_model": "b"}}, "there is no service 'vektors' under `services`"),
        ({"key": {"env": "A", "file": "b"}}, "exactly one of `file` and `env`"),
        ({"rules": [{"models": ["gpt-4"]}]}, "there is no model 'gpt-4' under `models`"),
    ],
)
def test_what_makes_no_sense_is_refused(cache: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _gateway(cache, services=SERVICES)
    assert words in str(caught.value)


@pytest.mark.parametrize("stores", [{"answers": "redis://host"}, {"counters": "redis://host"}])
@pytest.mark.parametrize("cache", [{"mode": "shadow"}, {"rules": [{"teams": ["a"], "mode": "enforce"}]}])
def test_in_redis_nothing_is_kept_without_a_key(stores: dict[str, str], cache: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="needs `key` where answers are kept in Redis"):
        _gateway(cache, stores=stores)
    assert _gateway({**cache, "key": KEY}, stores=stores)
    assert _gateway(cache, stores={**stores, "answers": "memory://"})
    assert _gateway({}, stores=stores)


def test_answers_are_kept_where_the_counters_are_unless_it_is_said() -> None:
    def at(**stores: str) -> str:
        return _gateway({}, stores=stores).stores.answers_at

    assert at() == "memory://"
    assert at(counters="redis://a") == "redis://a"
    assert at(counters="redis://a", answers="redis://b") == "redis://b"


@pytest.mark.parametrize("verb", ["check", "up", "serve"])
def test_a_key_that_is_missing_or_short_is_told_before_anything_is_served(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = json.dumps({"backends": BACKENDS, "models": MODELS, "cache": {"mode": "shadow", "key": KEY}})
    Path("gateway.yaml").write_text(text)
    for value, told in ((None, "CACHE_KEY is not set"), ("s3cret" * 5, "it must have at least 32 bytes")):
        run = CliRunner().invoke(app, [verb], env={"CACHE_KEY": value})
        assert run.exit_code == 1
        assert "gateway.yaml:1: cache.key: " in run.stderr
        assert told in run.stderr
        assert "s3cret" not in run.output


# ---- how it can be written ------------------------------------------------------------------------------


def test_variables_alone_set_all_of_it() -> None:
    gateway = load(
        None,
        {
            "SLUICE__BACKENDS__ONE__DIALECT": "openai",
            "SLUICE__BACKENDS__ONE__URL": "https://llm.example",
            "SLUICE__MODELS__GPT_4O__TARGETS": "[[{backend: one}]]",
            "SLUICE__STORES__ANSWERS": "redis://host",
            "SLUICE__CACHE__MODE": "enforce",
            "SLUICE__CACHE__TTL": "5m",
            "SLUICE__CACHE__KEY__ENV": "CACHE_KEY",
            "SLUICE__CACHE__MAX_TEMPERATURE": "0.5",
            "SLUICE__CACHE__SIDE_EFFECTS": '["send_*"]',
            "SLUICE__CACHE__SEMANTIC__MODEL": "folder",
            "SLUICE__CACHE__RULES": "[{teams: [search], mode: off}]",
        },
    )
    rules = compiled.without_policies(gateway).cache
    assert (rules.default.mode, rules.default.ttl, rules.default.max_temperature) == (Mode.ENFORCE, 300, 0.5)
    assert rules.default.side_effects == ("send_*",)
    assert rules.policy("gpt-4o", "search", "", "").mode is Mode.OFF
    assert gateway.cache.key is not None
    assert gateway.cache.key.env == "CACHE_KEY"


def test_the_schema_for_editors_knows_the_cache() -> None:
    cache: dict[str, Any] = {"mode": "enforce", "ttl": "5m", "key": KEY, "semantic": {"threshold": 0.9}}
    cache["rules"] = [{"models": ["gpt-4o"], "ttl": 60, "semantic": {"mode": "off"}}]
    tree = {"backends": BACKENDS, "models": MODELS}
    assert mistakes(json_schema(), {**tree, "cache": cache}) == []
    for wrong in ({"mode": "on"}, {"ttl": "soon"}, {"semantic": {"threshold": 0.5}}, {"rules": [{"size": 5}]}):
        assert mistakes(json_schema(), {**tree, "cache": wrong}), wrong


EXAMPLES: list[str] = [
    block
    for page in ("README.md", "docs/cache.md")
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    if "\ncache:" in f"\n{block}"
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_documentation_is_accepted(example: str, tmp_path: Path) -> None:
    given = YAML(typ="safe").load(example)
    names = [name for rule in given["cache"].get("rules", ()) for name in rule.get("models", ())]
    models = {name: {"targets": [[{"backend": "one"}]]} for name in ("gpt-4o", *names)}
    file = tmp_path / "gateway.yaml"
    with file.open("w") as written:
        YAML(typ="safe").dump({"backends": BACKENDS, "models": models, **given}, written)
    assert load(file, {}).cache.is_on


# ---- doubts -------------------------------------------------------------------------------------------


def _doubts(cache: dict[str, Any], teams: dict[str, TeamFile] | None = None, **more: Any) -> list[tuple[str, str]]:
    found = doubts(_gateway(cache, **more), 0, teams)
    return [(".".join(map(str, steps)), message) for steps, message in found]


def test_workers_that_keep_their_own_answers_are_doubted() -> None:
    told = "each of the 2 workers keeps its own answers: name a Redis in stores.answers"
    assert _doubts({"mode": "shadow"}, workers=2) == [("cache", told)]
    assert _doubts({"mode": "shadow"}) == []
    assert _doubts({}, workers=2) == []
    assert _doubts({"mode": "shadow", "key": KEY}, workers=2, stores={"answers": "redis://host"}) == []


def test_a_rule_that_an_earlier_one_takes_every_call_of_is_doubted() -> None:
    rules = [
        {"models": ["four"], "mode": "enforce"},
        {"teams": ["a", "b"], "ttl": 5},
        {"models": ["gpt-4o"], "teams": ["c"], "ttl": 5},
        {"models": ["claude"], "keys": ["k"], "teams": ["b"]},
        {"models": ["claude", "gpt-4o"], "ttl": 5},
    ]
    assert _doubts({"mode": "shadow", "rules": rules}) == [
        ("cache.rules.2", "is never reached: cache.rules[0] decides all such calls"),
        ("cache.rules.3", "is never reached: cache.rules[1] decides all such calls"),
    ]


def test_a_tier_above_a_cache_that_is_off_is_doubted() -> None:
    semantic = {"mode": "enforce", "model": "folder"}
    assert _doubts({"semantic": semantic}) == [("cache.semantic.mode", "changes nothing while `cache.mode` is off")]
    assert _doubts({"semantic": semantic, "rules": [{"teams": ["a"], "mode": "shadow"}]}) == []


def test_a_team_without_a_file_is_doubted() -> None:
    teams = {"search": TeamFile.model_validate({"owner": "ann@example.com", "area": "a"})}
    cache = {"mode": "shadow", "rules": [{"teams": ["serch"], "ttl": 5}, {"teams": ["search"], "ttl": 5}]}
    assert _doubts(cache, teams) == [("cache.rules.0.teams", "serch has no team file (did you mean search?)")]
    assert _doubts(cache, {}) == _doubts(cache, None) == []


def test_a_key_of_a_team_without_a_file_is_doubted() -> None:
    teams = {"search": TeamFile.model_validate({"owner": "ann@example.com", "area": "a"})}
    keys = ["search/nightly", "serch/nightly", "nightly", "key_1"]
    cache = {"mode": "shadow", "rules": [{"keys": keys, "mode": "off"}]}
    assert _doubts(cache, teams) == [("cache.rules.0.keys", "serch has no team file (did you mean search?)")]
    assert _doubts(cache, {}) == _doubts(cache, None) == []


# ---- versions of what answers come from -------------------------------------------------------------------


def _catalogue(**changes: Any) -> Catalogue:
    return compiled.catalogue(_gateway({}, **changes), {"HASH": "h" * 32})


def _model(backends: dict[str, Any] | None = None, **changes: Any) -> str:
    models = {**MODELS, "gpt-4o": {**MODELS["gpt-4o"], **changes}}
    return _catalogue(models=models, backends={**BACKENDS, **(backends or {})}).models["gpt-4o"].version


def test_a_model_and_its_aliases_are_one_and_others_are_not() -> None:
    models = _catalogue().models
    assert models["four"].version == models["gpt-4o"].version == _model()
    assert len({models["gpt-4o"].version, models["claude"].version, ""}) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": [[{"backend": "one", "model": "gpt-4o-mini"}]]},
        {"targets": [[{"backend": "two"}]]},
        {"targets": [[{"backend": "one"}], [{"backend": "two"}]]},
        {"max_output": 100},
        {"context": 1000},
        {"hidden_output": True},
        {"modality": "chat"},
        {"fallback": {"content_filter": "claude"}},
        {"backends": {"one": {"dialect": "azure-openai", "url": "https://llm.example"}}},
        {"backends": {"one": {"dialect": "openai", "url": "https://llm.example/other/v1"}}},
        {"backends": {"one": {"dialect": "openai", "url": "https://llm.example", "headers": {"x-beta": "1"}}}},
        {"backends": {"one": {"dialect": "openai", "url": "https://llm.example", "surfaces": ["chat"]}}},
    ],
)
def test_a_model_that_something_else_serves_has_another_version(changes: dict[str, Any]) -> None:
    assert _model(**changes) != _model()


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": [[{"backend": "one", "weight": 7, "price": {"input": 1, "output": 2}}, {"backend": "one"}]]},
        {"price": {"input": 1, "output": 2}},
        {"aliases": [], "tiers": ["gold"], "first_byte": 5, "stall": 5, "affinity": "team", "order": "least_busy"},
        {"shadow": {"backend": "two", "share": 0.5}},
        {
            "backends": {
                "one": {
                    **BACKENDS["one"],
                    "credential": {"env": "K"},
                    "region": "eu",
                    "cooling": {"failures": 3},
                }
            }
        },
    ],
)
def test_what_changes_no_answer_changes_no_version(changes: dict[str, Any]) -> None:
    assert _model(**changes) == _model()


def test_the_order_of_targets_is_none_of_the_version() -> None:
    one, two = {"backend": "one"}, {"backend": "two", "model": "c"}
    assert _model(targets=[[one], [two]]) == _model(targets=[[two, one]])


def test_a_model_that_stands_in_is_part_of_the_version() -> None:
    def version(deployed: str) -> str:
        models = {
            "gpt-4o": {"targets": [[{"backend": "one"}]], "fallback": {"content_filter": "sonnet"}},
            "claude": {
                "aliases": ["sonnet"],
                "targets": [[{"backend": "two", "model": deployed}]],
                "fallback": {"content_filter": "gpt-4o"},
            },
        }
        return _catalogue(models=models).models["gpt-4o"].version

    assert version("a") == version("a") != version("b")


def test_what_a_model_stands_in_for_is_part_of_the_version() -> None:
    assert _model(fallback={"content_filter": "claude"}) != _model(fallback={"context_window": "claude"})


def test_models_that_teams_bring_are_theirs() -> None:
    own = {"backends": {"mine": BACKENDS["one"]}, "models": {"gpt-4o": {"targets": [[{"backend": "mine"}]]}}}
    catalogue = _catalogue(team_backends={"a": own, "b": own})
    found = {catalogue.owned[team]["gpt-4o"].version for team in ("a", "b")} | {catalogue.models["gpt-4o"].version}
    assert len(found) == 3


# ---- versions of policies -------------------------------------------------------------------------------


REDACTION: dict[str, Any] = {
    "entities": ["US_SSN"],  # few, since all of them take a while to compile
    "output": {"US_SSN": "hash"},
    "hash_key": {"env": "HASH"},
    "recognizers": ["own.yaml"],
    "allow": ["info@example.com"],
}
GUARDRAILS: dict[str, Any] = {
    "content": {"rivals": {"words": ["acme"], "output": True}},
    "moderation": {"service": "judge", "output": True},
}
RECOGNIZER = "recognizers: [{name: a, supported_entity: BADGE, deny_list: [%s]}]"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of recognizers that the policy names."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own.yaml"
    file.write_text(RECOGNIZER % "B-1")
    return file


def _policy(
    redaction: dict[str, Any] | None = None,
    guardrails: dict[str, Any] | None = None,
    key: str = "h" * 32,
    judge: str = "https://api.openai.com",
) -> str:
    gateway = _gateway(
        {},
        services={"judge": {"api": "openai-moderation", "url": judge, "credential": {"env": "K"}}},
        policies={
            "redaction": {"default": {**REDACTION, **(redaction or {})}},
            "guardrails": {"default": {**GUARDRAILS, **(guardrails or {})}},
        },
    )
    catalogue = compiled.catalogue(gateway, {"HASH": key})
    return policy_version(Rules(catalogue.redaction["default"], catalogue.guardrails["default"], "search"))


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    "changes",
    [
        {"redaction": {"mode": "shadow"}},
        {"redaction": {"entities": {"EMAIL_ADDRESS": "mask"}}},
        {"redaction": {"output": {}}},
        {"redaction": {"allow": []}},
        {"redaction": {"allow_patterns": ["a+"]}},
        {"redaction": {"deny": {"PROJECT": ["falcon"]}}},
        {"redaction": {"floors": {"US_SSN": 0.9}}},
        {"redaction": {"on_error": "allow"}},
        {"redaction": {"recognizers": []}},
        {"key": "i" * 32},
        {"guardrails": {"content": {"rivals": {"words": ["acme", "b"], "output": True}}}},
        {"guardrails": {"moderation": None}},
        {"guardrails": {"injection": {}}},
        {"judge": "https://eu.api.openai.com"},
    ],
)
def test_a_policy_that_says_something_else_has_another_version(changes: dict[str, Any]) -> None:
    assert _policy(**changes) != _policy()


def test_another_file_of_recognizers_is_another_version_and_its_name_is_not(own: Path) -> None:
    first = _policy()
    own.rename("other.yaml")
    assert _policy({"recognizers": ["other.yaml"]}) == first
    Path("other.yaml").write_text(RECOGNIZER % "B-2")
    assert _policy({"recognizers": ["other.yaml"]}) != first


@pytest.mark.usefixtures("own")
def test_a_version_is_the_same_after_a_restart_and_tells_no_key() -> None:
    first = _policy()
    assert _policy() == first
    assert _policy({"hash_key": {"file": str(_file("h" * 32))}}) == first
    assert "h" * 8 not in first


def _file(text: str) -> Path:
    path = Path("key")
    path.write_text(text)
    return path


def test_other_code_that_looks_at_texts_is_another_version(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _policy()
    monkeypatch.setattr(versions, "_code", lambda: "other")
    both = [part != before for part, before in zip(_policy().split("."), first.split("."), strict=True)]
    assert both == [True, True]


def test_no_policy_is_one_like_another() -> None:
    off = compiled.catalogue(_gateway({}, policies={"redaction": {"default": {"mode": "off"}}}))
    nothing = policy_version(None)
    assert policy_version(Rules(None, None, "search")) == nothing
    assert policy_version(Rules(off.redaction["default"], None, "search")) == nothing
    assert _catalogue(policies={"guardrails": {"default": {}}}).guardrails["default"].version != ""


@pytest.mark.usefixtures("own")
def test_policies_do_not_stand_in_for_each_other() -> None:
    catalogue = _catalogue(policies={"redaction": {"default": {}}, "guardrails": {"default": {}}})
    redaction, guardrails = catalogue.redaction["default"], catalogue.guardrails["default"]
    chosen = [(None, None), (redaction, None), (None, guardrails), (redaction, guardrails)]
    assert len({policy_version(Rules(one, other, "search")) for one, other in chosen}) == 4


# ---- the model that makes vectors -------------------------------------------------------------------------


def _told(verb: str) -> str:
    text = json.dumps({"backends": BACKENDS, "models": MODELS, "cache": {"semantic": {"model": "folder"}}})
    Path("gateway.yaml").write_text(text)
    run = CliRunner().invoke(app, [verb])
    assert run.exit_code == 1
    return run.stderr


@pytest.fixture
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_folder")
@pytest.mark.parametrize("verb", ["check", "up", "serve"])
def test_a_model_that_is_not_there_is_told_before_anything_is_served(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: name)
    assert _told(verb) == "gateway.yaml:1: cache.semantic.model: there is no folder folder\n"
    monkeypatch.setattr(settings, "find_spec", lambda name: None if name == "numpy" else name)
    told = "needs the extra `semantic` (numpy, tokenizers)"
    assert _told(verb) == f"gateway.yaml:1: cache.semantic.model: {told}\n"


@pytest.mark.usefixtures("_folder")
def test_a_model_that_cannot_be_loaded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: name)
    Path("folder").mkdir()
    assert _told("check").startswith("gateway.yaml:1: cache.semantic.model: ")
