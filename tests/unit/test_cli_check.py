"""`sluice check`, and what no verb serves: what is told of a configuration that is valid and yet not right."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from extproc.cli import app
from extproc.config.doubts import doubts
from extproc.config.loader import load

HEAD = (
    'backends: {one: {dialect: openai, url: "https://llm.example"}, two: {dialect: openai, url: "https://b.example"}}\n'
)
WORDS: dict[str, object] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"hello": 0, "?": 1}, "unk_token": "?"},
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _run(verb: str, text: str, code: int) -> Result:
    Path("gateway.yaml").write_text(HEAD + text)
    run = CliRunner().invoke(app, [verb], env={"TERM": "dumb"})
    assert run.exit_code == code, run.output
    return run


# ---- tokenizer files ----


@pytest.mark.parametrize("verb", ["check", "up", "serve"])
def test_a_tokenizer_file_that_is_missing_or_is_none_is_told_with_its_line(verb: str) -> None:
    Path("empty.json").write_text("{}")
    model = "  {}: {{targets: [[{{backend: one}}]],\n    tokenizer: {}}}\n"
    run = _run(verb, "models:\n" + model.format("a", "nowhere.json") + model.format("b", "empty.json"), 1)
    assert run.stderr.splitlines() == [
        "gateway.yaml:4: models.a.tokenizer: there is no file nowhere.json",
        "gateway.yaml:6: models.b.tokenizer: empty.json is no tokenizer.json",
    ]


def test_a_tokenizer_file_without_its_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    Path("words.json").write_text(json.dumps(WORDS))
    run = _run("check", "models: {m: {targets: [[{backend: one}]], tokenizer: words.json}}\n", 1)
    assert run.stderr == "gateway.yaml:2: models.m.tokenizer: a tokenizer file needs the extra `tokenizers`\n"


def test_a_tokenizer_file_that_counts_is_accepted() -> None:
    Path("words.json").write_text(json.dumps(WORDS))
    run = _run("check", "models: {m: {targets: [[{backend: one}]], tokenizer: words.json}}\n", 0)
    assert (run.stderr, run.stdout.startswith("OK: ")) == ("", True)


# ---- doubts ----


def test_a_doubt_is_a_warning_with_its_line_and_no_error() -> None:
    run = _run(
        "check", "models: {m: {targets: [[{backend: one}]]}}\npolicies: {limits: {all: {money: 5, per: hour}}}\n", 0
    )
    assert run.stderr == (
        "warning: gateway.yaml:2: models.m: has a target without a price, so that its calls under the limit all are "
        "refused\n"
    )
    assert run.stdout.startswith("OK: ")


def _doubts(text: str, now: float = 0) -> list[str]:
    Path("gateway.yaml").write_text(HEAD + text)
    return [".".join(map(str, steps)) for steps, _ in doubts(load(Path("gateway.yaml"), {}), now)]


MODELS = """\
models:
  paid: {targets: [[{backend: one}]], price: {input: 1, output: 2}}
  free: {targets: [[{backend: one}]], price: {request: 0}, aliases: [gratis]}
  own: {targets: [[{backend: one, price: {request: 1}}]]}
  bare: {targets: [[{backend: one}]], aliases: [naked]}
  half: {targets: [[{backend: one, price: {request: 1}}, {backend: two}]]}
"""


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        ("{money: 5, per: hour}", ["models.bare", "models.half"]),
        ("{money: 5, per: hour, only: {models: [naked, paid]}}", ["models.bare"]),
        ("{money: 5, per: hour, only: {models: [paid, gratis, own]}}", []),
        ("{money: 5, per: hour, only: {backends: [two]}}", ["models.half"]),
        ("{money: 5, per: hour, mode: shadow}", []),
        ("{tokens: 5, per: hour}", []),
        (
            "{money: 5, per: hour, fallback: naked}",
            ["models.bare", "models.half", "policies.limits.some.fallback"],
        ),
        ("{money: 5, per: hour, only: {models: [paid]}, fallback: naked}", []),  # under which no money is counted
        ("{money: 5, per: hour, only: {models: [paid]}, fallback: gratis}", []),
    ],
)
def test_a_model_whose_cost_nobody_knows_under_a_budget(limit: str, found: list[str]) -> None:
    assert _doubts(f"{MODELS}policies: {{limits: {{some: {limit}}}}}\n") == found


@pytest.mark.parametrize("limit", ["{money: 5, per: hour}", "{tokens: 5, per: hour}"])
def test_where_nothing_unpriced_serves_it_is_named_whatever_the_limits(limit: str) -> None:
    text = f"{MODELS}policies: {{unpriced: refuse, limits: {{some: {limit}}}}}\n"
    assert _doubts(text) == ["models.bare", "models.half"]


@pytest.mark.parametrize("policies", ["limits: {some: {money: 5, per: month}}", "unpriced: refuse"])
@pytest.mark.parametrize(("now", "found"), [(1_774_915_199, ["models.soon"]), (1_774_915_200, [])])
def test_a_price_that_is_not_in_force_yet(policies: str, now: float, found: list[str]) -> None:
    price = "[{from: 2026-03-31, request: 1}, {from: 2026-04-30, request: 2}]"
    text = f"models: {{soon: {{targets: [[{{backend: one}}]], price: {price}}}}}\n"
    redis = 'stores: {counters: "redis://h"}\n'
    assert _doubts(f"{text}policies: {{{policies}}}\n{redis}", now) == found


def test_a_fallback_of_one_limit_that_another_refuses() -> None:
    calls = "    calls: {requests: 5, per: day, only: {models: [paid]}, fallback: bare}"
    text = f"{MODELS}policies:\n  limits:\n{calls}\n"
    assert _doubts(text) == []
    found = _doubts(f"{text}    money: {{money: 5, per: hour, only: {{models: [bare]}}}}\n")
    assert found == ["models.bare", "policies.limits.calls.fallback"]


@pytest.mark.parametrize(("now", "found"), [(1_774_907_999, False), (1_774_908_000, True)])  # midnight in Zurich
def test_a_raise_that_is_over(now: float, found: bool) -> None:
    limit = "{money: 5, per: month, zone: Europe/Zurich, raise: {to: 6, until: 2026-03-31}, only: {models: [paid]}}"
    text = f'{MODELS}policies: {{limits: {{some: {limit}}}}}\nstores: {{counters: "redis://h"}}\n'
    assert _doubts(text, now) == (["policies.limits.some.raise.until"] if found else [])


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        ("money: 5, per: month", True),
        ("money: 5, per: day, mode: shadow", True),
        ("money: 5, per: 2h", True),
        ("money: 5, per: hour", False),
        ('money: 5, per: month, mode: "off"', False),
        ("requests: 5, per: month", False),
    ],
)
def test_a_budget_that_a_restart_forgets(limit: str, found: bool) -> None:
    text = f"{MODELS}policies: {{limits: {{some: {{{limit}, only: {{models: [paid]}}}}}}}}\n"
    assert _doubts(text) == (["policies.limits.some"] if found else [])
    assert _doubts(text + 'stores: {counters: "redis://h"}\n') == []


def test_budgets_of_team_files_that_a_restart_forgets() -> None:
    Path("teams").mkdir()
    limits = ", ".join(f"m{number}: {{money: 5, per: month}}" for number in range(3))
    keys = "[{name: app, user: ann@example.com, limits: {own: {money: 1, per: day}, calls: {requests: 9, per: day}}}]"
    Path("teams/search.yaml").write_text(
        f"{{area: shop, owner: ann@example.com, limits: {{{limits}}}, keys: {keys}}}\n"
    )
    Path("teams/web.yaml").write_text("{area: shop, owner: ann@example.com, limits: {rate: {money: 1, per: hour}}}\n")
    text = "models: {m: {targets: [[{backend: one}]], price: {request: 0}}}\n"
    (told,) = [line for line in _run("check", text, 0).stderr.splitlines() if "forgets" in line]
    assert "stores.counters" in told
    assert "(search/m0, search/m1, search/m2 and 1 more)" in told
    assert "forgets" not in _run("check", text + 'stores: {counters: "redis://h"}\n', 0).stderr


# ---- policies ----

POLICIES = """\
models: {m: {targets: [[{backend: one}]]}}
policies:
  redaction: {default: {}, strict: {mode: off}, spare: {mode: off}}
  guardrails: {default: {}, open: {injection: {}}}
"""


def test_a_policy_that_no_team_names_is_a_warning_where_the_team_files_are_at_hand() -> None:
    Path("teams").mkdir()
    Path("teams/checkout.yaml").write_text("{area: retail, owner: ann@example.com, redaction: strict}\n")
    run = _run("check", POLICIES, 0)
    assert run.stderr.splitlines() == [
        "warning: gateway.yaml:5: policies.guardrails.default: has no rule: it looks at nothing",
        "warning: gateway.yaml:4: policies.redaction.spare: is named by no team file: `redaction: spare` there puts it "
        "in force",
        "warning: gateway.yaml:5: policies.guardrails.open: is named by no team file: `guardrails: open` there puts it "
        "in force",
    ]


def test_policies_without_one_for_everybody_are_a_warning() -> None:
    text = "models: {m: {targets: [[{backend: one}]]}}\npolicies: {redaction: {defualt: {}}}\n"
    (warning,) = _run("check", text, 0).stderr.splitlines()
    assert warning.startswith("warning: gateway.yaml:3: policies.redaction: none is called `default`: callers whose")
    assert warning.endswith("(is `defualt` meant to be it?)")


@pytest.mark.parametrize("broken", [False, True])
def test_without_team_files_nobody_knows_what_they_name(broken: bool) -> None:
    if broken:
        Path("teams").mkdir()
        Path("teams/checkout.yaml").write_text("{area: retail}\n")
    assert _run("check", POLICIES, 0).stderr.count("warning") == 1


@pytest.mark.parametrize("verb", ["check", "up", "serve"])
def test_a_policy_that_cannot_be_carried_out_is_told_with_its_line(verb: str) -> None:
    policies = """\
models: {m: {targets: [[{backend: one}]]}}
policies:
  redaction:
    default: {entities: [PERSON]}
    strict: {recognizers: [nowhere.yaml]}
  guardrails: {default: {content: {some: {patterns: ["("]}}}}
"""
    run = _run(verb, policies, 1)
    told = run.stderr.splitlines()
    assert told[:2] == [
        "gateway.yaml:5: policies.redaction.default.entities.PERSON: needs `names`: without it names are not found",
        "gateway.yaml:6: policies.redaction.strict.recognizers[0]: the file nowhere.yaml cannot be read (No such file "
        "or directory)",
    ]
    assert told[2].startswith("gateway.yaml:7: policies.guardrails.default.content.some: pattern")


def test_a_category_that_nobody_knows_is_a_warning() -> None:
    """The service may have got a new one."""
    text = """\
services: {judge: {api: openai-moderation, url: "https://api.openai.com"}}
models: {m: {targets: [[{backend: one}]]}}
policies: {guardrails: {default: {moderation: {service: judge, thresholds: {hates: 0.5, violence: 0.5}}}}}
"""
    assert _run("check", text, 0).stderr == (
        "warning: gateway.yaml:4: policies.guardrails.default.moderation.thresholds.hates: is no category that is "
        "known here (did you mean hate?)\n"
    )


# ---- models of names ----


def test_a_model_of_names_that_cannot_be_loaded_is_told_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    stand_in = root / "tests" / "support" / "stand_in"
    monkeypatch.setenv("PYTHONPATH", f"{stand_in}:{root}")
    monkeypatch.syspath_prepend(stand_in)
    for name, pipeline in (("empty", ""), ("whole", "ner")):
        Path(name).mkdir()
        Path(name, "pipeline").write_text(pipeline)
    text = """models: {m: {targets: [[{backend: one}]]}}
policies:
  redaction:
    default: {names: {model: whole}}
    one: {names: {model: empty}}
    other: {mode: shadow, names: {model: empty}}
    quiet: {mode: off, names: {model: empty}}
"""
    run = _run("check", text, 1)
    assert run.stderr.splitlines() == [
        "gateway.yaml:6: policies.redaction.one.names.model: the model 'empty' has nothing that finds names",
        "gateway.yaml:7: policies.redaction.other.names.model: the model 'empty' has nothing that finds names",
    ]


def test_what_a_team_file_brings_and_this_gateway_would_leave_out_is_a_warning() -> None:
    Path("teams").mkdir()
    brought = 'backends: {ours: {dialect: openai, url: "https://10.1.2.3"}}\n'
    Path("teams/search.yaml").write_text("area: any\nowner: ann\nmodels: [{name: none}]\n" + brought)
    models = "models: {m: {targets: [[{backend: one}]]}}\n"
    (warning,) = _run("check", models, 0).stderr.splitlines()
    assert (
        warning == "warning: teams/search.yaml:4: backends: the gateway allows no backends of teams: it has no `byob`"
    )
    (warning,) = _run("check", models + "byob: {hosts: ['*.example']}\n", 0).stderr.splitlines()
    assert warning.startswith("warning: teams/search.yaml:4: backends.ours.url: the host 10.1.2.3 is not among")
