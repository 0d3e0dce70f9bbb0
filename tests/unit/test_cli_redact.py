"""`sluice redact`: a policy tried on a text, without a gateway."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from extproc.call import Inspection, Rules
from extproc.cli import app
from extproc.config import profiles
from extproc.config.redaction import InputAction, Redaction
from extproc.config.teams import TeamFile
from extproc.dialects import json_spans
from extproc.model import Prompt
from extproc.redaction import entities
from extproc.redaction.detector import Finding
from extproc.redaction.policy import NameTier
from extproc.screening import ner
from extproc.screening.ner import NamesFailed
from extproc.stages import guard

MAIL = "ann@example.com"
NUMBER = "536-90-4399"
HEAD = """\
backends: {one: {dialect: openai, url: "https://llm.example"}}
models: {m: {targets: [[{backend: one}]]}}
services: {names: {api: presidio, url: "http://127.0.0.1:5002"}}
policies:
  redaction:
"""
KEY = "k" * 32


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _policies(text: str) -> None:
    Path("gateway.yaml").write_text(HEAD + "".join(f"    {line}\n" for line in text.splitlines()))


def _run(text: str | bytes, *options: str, code: int = 0) -> Result:
    run = CliRunner().invoke(app, ["redact", *options], input=text, env={"TERM": "dumb", "HASH_KEY": KEY})
    assert run.exit_code == code, run.output
    return run


def _facts(text: str, *options: str, code: int = 0) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(_run(text, *options, "--json", code=code).stdout)
    return facts


# ---- what comes out ---------------------------------------------------------------------------------


def test_a_text_is_redacted_with_the_usual_entities_where_there_is_no_configuration() -> None:
    run = _run(f"Mail {MAIL} or bob@example.com;\nthen {MAIL} <EMAIL_ADDRESS_1>")
    assert run.stdout == ("Mail <EMAIL_ADDRESS_1> or <EMAIL_ADDRESS_2>;\nthen <EMAIL_ADDRESS_1> <LITERAL_1>")
    assert run.stderr == ""


def test_a_text_without_anything_comes_out_as_it_is() -> None:
    run = _run("Grüße,\r\n\tnothing here 🎉", "--explain")
    assert (run.stdout_bytes.decode(), run.stderr) == ("Grüße,\r\n\tnothing here 🎉", "Nothing was found.\n")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet='ab c-_<>{}[]"\\é\u200b漢', max_size=80))
def test_what_has_nothing_in_it_comes_out_byte_for_byte(text: str) -> None:
    assert _run(text).stdout_bytes == text.encode()


def test_a_body_is_redacted_in_its_texts_only() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": f'my "{MAIL}"'}], "metadata": {"ssn": "536904399"}}
    text = json.dumps(body, indent=1)
    run = _run(text, "--body")
    assert run.stdout == text.replace(MAIL, "<EMAIL_ADDRESS_1>").replace("536904399", "<US_SSN_1>")


def test_what_stands_for_a_name_has_no_brackets_as_in_the_gateway() -> None:
    body = {"metadata": {MAIL: "x"}, "messages": [{"role": "user", "name": MAIL, "content": MAIL}]}
    facts = _facts(json.dumps(body), "--body")
    given, profile = Prompt(json.dumps(body).encode(), None, None), profiles.profiles({"a": Redaction()}, {})["a"]
    seen, rules = Inspection(), Rules(profile, None, "")
    texts = guard.read(given, rules)
    values = [profile.input.findings(text.text) if profile.input else () for text in texts]
    clean, _ = guard.redact(given, texts, values, rules, seen)
    assert facts["text"].encode() == json_spans.splice(given.body, list(clean.edits))
    assert [row["replacement"] for row in facts["findings"]] == [
        *("EMAIL_ADDRESS_1", "<EMAIL_ADDRESS_1>", "EMAIL_ADDRESS_1")
    ]


def test_the_explanation_has_places_and_no_values() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": f"my number is {NUMBER}, {MAIL}"}], "user": MAIL})
    run = _run(body, "--body", "--explain")
    rows = [line.split() for line in run.stderr.splitlines()]
    assert rows == [
        ["PLACE", "ENTITY", "SCORE", "ACTION", "REPLACED", "BY"],
        ["messages[0].content", "13-24", "US_SSN", "0.50", "placeholder", "<US_SSN_1>"],
        ["messages[0].content", "26-41", "EMAIL_ADDRESS", "1.00", "placeholder", "<EMAIL_ADDRESS_1>"],
        ["user", "0-15", "EMAIL_ADDRESS", "1.00", "placeholder", "<EMAIL_ADDRESS_1>"],
    ]


def test_the_words_of_a_key_speak_for_its_value_and_are_not_told() -> None:
    (row,) = _facts(json.dumps({"messages": [{"role": "user", "ssn": "536904399"}]}), "--body")["findings"]
    assert (row["start"], row["end"], row["entity"]) == (0, 9, "US_SSN")


def test_json_has_the_text_and_the_findings() -> None:
    assert _facts(f"Mail {MAIL}") == {
        "policy": "default",
        "mode": "enforce",
        "refused": False,
        "text": "Mail <EMAIL_ADDRESS_1>",
        "findings": [
            {
                "place": "",
                "start": 5,
                "end": 20,
                "entity": "EMAIL_ADDRESS",
                "score": 1.0,
                "action": "placeholder",
                "replacement": "<EMAIL_ADDRESS_1>",
            }
        ],
    }


# ---- policies ---------------------------------------------------------------------------------------

SEVERAL = """\
default: {entities: {EMAIL_ADDRESS: mask}}
strict: {entities: {US_SSN: block, EMAIL_ADDRESS: flag}}
hashed: {entities: {EMAIL_ADDRESS: hash}, hash_key: {env: HASH_KEY}}
shadow: {mode: shadow, entities: {US_SSN: block, EMAIL_ADDRESS: mask}}
open: {mode: off}
none: {entities: {}}
"""


def test_the_default_policy_of_the_configuration_here_is_taken() -> None:
    _policies(SEVERAL)
    assert _run(f"{MAIL} {NUMBER}").stdout == f"[EMAIL_ADDRESS] {NUMBER}"


def test_settings_in_the_environment_are_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE__BACKENDS", '{one: {dialect: openai, url: "https://llm.example"}}')
    monkeypatch.setenv("SLUICE__MODELS", "{m: {targets: [[{backend: one}]]}}")
    assert _run(MAIL, code=1).stderr == (
        "This configuration has no policy `default` under `policies.redaction`: of a caller whose team names none, "
        "the gateway looks at nothing. Try the usual entities without it: SLUICE_CONFIG= sluice redact, in a folder "
        "without gateway.yaml.\n"
    )
    monkeypatch.setenv("SLUICE__POLICIES__REDACTION__DEFAULT__ENTITIES", "{EMAIL_ADDRESS: mask}")
    assert _run(MAIL).stdout == "[EMAIL_ADDRESS]"


def test_a_configuration_without_the_default_policy_has_its_policies_told() -> None:
    _policies("strict: {}\nopen: {mode: off}\n")
    told = _run(MAIL, code=1).stderr
    assert "Name one with --policy (open, strict), or try the usual entities without it:" in told
    assert _run(MAIL, "--policy", "default", code=1).stderr == (
        "There is no policy 'default' under `policies.redaction`.\n"
    )


def test_what_is_blocked_is_told_without_its_text_and_with_a_code_of_its_own() -> None:
    _policies(SEVERAL)
    run = _run(f"my number: {NUMBER}, {NUMBER}", "--policy", "strict", code=3)
    assert (run.stdout, run.stderr) == ("", "The call would be refused, because of 2 × US_SSN.\n")
    facts = _facts(f"my number: {NUMBER} {MAIL}", "--policy", "strict", code=3)
    assert (facts["refused"], facts["text"]) == (True, None)
    assert [(row["entity"], row["replacement"]) for row in facts["findings"]] == [
        ("US_SSN", "…"),
        ("EMAIL_ADDRESS", None),
    ]


def test_in_shadow_nothing_is_changed_and_all_is_told() -> None:
    _policies(SEVERAL)
    facts = _facts(f"my number: {NUMBER} {MAIL}", "--policy", "shadow")
    assert (facts["mode"], facts["refused"], facts["text"]) == ("shadow", False, f"my number: {NUMBER} {MAIL}")
    assert [(row["action"], row["replacement"]) for row in facts["findings"]] == [("block", None), ("mask", None)]
    run = _run(MAIL, "--policy", "shadow", "--explain")
    assert run.stderr.splitlines()[-1] == "The policy shadow is in shadow: nothing is changed or refused."


@pytest.mark.parametrize(
    ("policy", "told"), [("open", "The policy open is off: nothing is looked for.\n"), ("none", "")]
)
def test_a_policy_that_looks_for_nothing(policy: str, told: str) -> None:
    _policies(SEVERAL)
    run = _run(MAIL, "--policy", policy)
    assert (run.stdout, run.stderr) == (MAIL, told)


def test_the_policy_of_a_team_is_that_of_its_file_and_hashes_are_its_own() -> None:
    _policies(SEVERAL)
    Path("teams").mkdir()
    for name in ("search", "sales"):
        Path(f"teams/{name}.yaml").write_text("{area: retail, owner: ann@example.com, redaction: hashed}\n")
    one, again, other = (_run(MAIL, "--team", team).stdout for team in ("search", "search", "sales"))
    assert one == again != other
    assert one.startswith("[EMAIL_ADDRESS#")


def test_text_that_is_too_long_is_told_as_the_policy_has_it() -> None:
    _policies("default: {max_text: 1KiB}\nopen: {max_text: 1KiB, on_error: allow}\n")
    text = "x" * 1025
    told = "There is more text than `max_text` (1024 bytes), so that nothing was looked for: the call would"
    assert _run("x" * 1024).stdout == "x" * 1024
    assert _run(text, code=3).stderr == f"{told} be refused.\n"
    run = _run(text, "--policy", "open")
    assert (run.stdout, run.stderr) == (text, f"{told} pass as it is.\n")


# ---- names ------------------------------------------------------------------------------------------


class Model:
    """In place of one in a process of its own."""

    fails = False
    closed = 0

    def __init__(self, model: str) -> None:
        assert model == "some_model"

    async def load(self) -> None:
        if self.fails:
            raise NamesFailed("it is not installed")

    async def findings(self, tier: NameTier, texts: list[str]) -> list[list[Finding]]:
        assert tier.entities == {"PERSON"}
        return [[Finding(text.find("Ann"), text.find("Ann") + 3, "PERSON", 0.85)] for text in texts]

    async def close(self) -> None:
        Model.closed += 1


@pytest.fixture
def _model(monkeypatch: pytest.MonkeyPatch) -> None:
    _policies("default: {names: {model: some_model, entities: [PERSON]}}\n")
    monkeypatch.setattr(ner, "LocalModel", Model)
    monkeypatch.setattr(Model, "closed", 0)


@pytest.mark.usefixtures("_model")
def test_names_are_found_by_a_model_on_this_machine() -> None:
    assert _run(f"Ann has {MAIL}").stdout == "<PERSON_1> has <EMAIL_ADDRESS_1>"
    assert Model.closed == 1


@pytest.mark.usefixtures("_model")
def test_a_model_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "fails", True)
    assert _run("Ann", code=1).stderr == "Names cannot be looked for: it is not installed.\n"
    assert Model.closed == 1


def test_a_folder_that_holds_no_model_is_told_once() -> None:
    Path("folder").mkdir()
    Path("folder/damage").write_text("no config.cfg")
    _policies("default: {names: {model: folder, entities: [PERSON]}}\n")
    path = f"{ROOT}/tests/support/stand_in:{ROOT}"
    run = subprocess.run(  # as in a process of its own, where nobody has set up the log
        [sys.executable, "-m", "extproc.cli", "redact"],
        env={"PYTHONPATH": path, "PATH": os.environ["PATH"]},
        input="Ann",
        capture_output=True,
        text=True,
        check=False,
    )
    told = "Names cannot be looked for: the model 'folder' cannot be loaded: OSError: no config.cfg. "
    assert (run.returncode, run.stdout, run.stderr.startswith(told)) == (1, "", True)
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.usefixtures("_model")
@pytest.mark.parametrize(
    ("person", "mail", "expected"),
    [
        ("block", "flag", 3),
        ("flag", "block", 3),
        ("flag", "flag", 0),
    ],
)
def test_a_name_that_is_blocked_is_not_lost_to_a_value_that_is_counted(person: str, mail: str, expected: int) -> None:
    entities = f"{{PERSON: {person}, EMAIL_ADDRESS: {mail}}}"
    _policies(f"default: {{entities: {entities}, names: {{model: some_model, entities: [PERSON]}}}}\n")
    _run("Ann@example.com", code=expected)


def test_a_service_is_not_asked_and_that_is_told() -> None:
    _policies("default: {names: {service: names}}\n")
    run = _run(f"Ann has {MAIL}")
    assert run.stdout == "Ann has <EMAIL_ADDRESS_1>"
    assert run.stderr == "Names are not looked for: the service names is asked by the gateway only.\n"


# ---- what cannot be done ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--policy", "strct"), "There is no policy 'strct' under `policies.redaction` (did you mean strict?)."),
        (("--team", "serch"), "There is no team file teams/serch.yaml (did you mean search?)."),
        (("--policy", "bad"), "policies.redaction.bad.entities.SSN: there is no entity 'SSN' (did you mean US_SSN?)"),
        (("--body",), "Standard input is no JSON. Leave --body out for plain text."),
        (("--config", "nowhere.yaml"), "nowhere.yaml: cannot be read (No such file or directory)"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(options: tuple[str, ...], told: str) -> None:
    _policies(f"{SEVERAL}bad: {{entities: [SSN]}}\n")
    Path("teams").mkdir()
    Path("teams/search.yaml").write_text("{area: retail, owner: ann@example.com}\n")
    run = _run("some text", *options, code=1)
    assert (run.stdout, run.stderr) == ("", f"{told}\n")


def test_a_folder_of_teams_with_a_mistake_is_told() -> None:
    _policies(SEVERAL)
    Path("teams").mkdir()
    Path("teams/search.yaml").write_text("{area: retail, owner: ann@example.com, redaction: strct}\n")
    assert "did you mean strict?" in _run("some text", "--team", "search", code=1).stderr


def test_a_text_that_is_none_is_told() -> None:
    assert _run(b"\xff", code=1).stderr == "Standard input is not UTF-8 text.\n"
    assert _run(b'{"a": "\xff"}', "--body", code=1).stderr.startswith("Standard input is no JSON.")


def test_a_body_with_too_many_texts_is_told() -> None:
    assert _run(json.dumps(["a"] * 100_001), "--body", code=1).stderr.startswith("The body has more texts than")


def test_a_policy_and_a_team_are_one_too_many() -> None:
    run = _run("", "--policy", "a", "--team", "b", code=2)
    assert "a team has its own policy" in run.stderr


def test_a_policy_needs_a_configuration() -> None:
    assert "name a file with --config" in _run("", "--policy", "strict", code=1).stderr


# ---- the page and the example -----------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "redaction.md").read_text()


def test_the_page_shows_what_the_command_prints() -> None:
    command, *shown = PAGE.split("```console\n")[1].split("```")[0].splitlines()
    text = command.split('"')[1]
    run = _run(f"{text}\n", "--explain")
    assert command == f'$ echo "{text}" | sluice redact --explain'
    assert [line.rstrip() for line in (run.stdout + run.stderr).splitlines()] == shown


def test_every_action_and_every_entity_by_itself_is_on_the_page() -> None:
    cells = [line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("| `")]
    for action in get_args(InputAction):
        assert cells.count(f"`{action}`") == 1
    loose = set(entities.OPTIONAL) - set(entities.NATIONAL)
    assert [name for name in (*entities.PERSONAL, *profiles.GROUPS, *loose) if f"`{name}`" not in PAGE] == []


def test_the_policies_on_the_page_are_ones() -> None:
    blocks = [YAML(typ="safe").load(block.split("```")[0]) for block in PAGE.split("```yaml\n")[1:]]
    for block in (one for one in blocks if "policies" in one):
        policies = {name: Redaction.model_validate(given) for name, given in block["policies"]["redaction"].items()}
        assert list(profiles.mistakes(policies, {})) == []
    (team,) = (block for block in blocks if "owner" in block)
    assert TeamFile.model_validate(team).redaction == "strict"


def test_the_example_finds_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    example = ("--config", "examples/redaction/gateway.yaml")
    text = f"staff 123456, EMP-123456 at Harbour Office for Project Zeus: {MAIL} support@example.com 8.8.8.8"
    assert _run(text, *example).stdout == (
        "staff <EMPLOYEE_ID_1>, <EMPLOYEE_ID_2> at <SITE_1> for <PROJECT_1>: <EMAIL_ADDRESS_1> support@example.com "
        "8.8.8.8"
    )
    assert _run("room 654321", *example).stdout == "room 654321"
    assert _run(text, *example, "--team", "ledger").stdout == (
        text.replace(MAIL, "[EMAIL_ADDRESS]")
        .replace("support@example.com", "[EMAIL_ADDRESS]")
        .replace("8.8.8.8", "[IP_ADDRESS]")
    )
    assert _run(text, *example, "--team", "search").stdout == text
