"""What `sluice check` and a start say of alerts and of what is meant for development."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from extproc.cli import app
from extproc.cli.processes import state_of, workers
from extproc.config.loader import load
from extproc.config.revision import Revision

HEAD = 'backends: {one: {dialect: openai, url: "https://llm.example"}}\nmodels: {m: {targets: [[{backend: one}]]}}\n'
OPEN = "is http: messages could be read on their way, and the URL with them. Use https"
URL = "telemetry.alerts.webhooks.people.url"
HOOK = "telemetry: {alerts: {webhooks: {people: {url: {env: PEOPLE_URL}%s}}}}\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def check(text: str, code: int, **environ: str) -> Result:
    Path("gateway.yaml").write_text(HEAD + text)
    run = CliRunner().invoke(app, ["check"], env={"TERM": "dumb", **environ})
    assert run.exit_code == code, run.output
    return run


@pytest.mark.parametrize(
    ("url", "more", "why"),
    [
        (
            "http://hooks.example/secret",
            "",
            "is http: messages could be read on their way, and the URL with them. Use https",
        ),
        ("secret", "", "is not an https URL"),
        ("https://a:secret@hooks.example/", ", format: json", "has a user in it, which is not supported"),
    ],
)
def test_a_url_that_nothing_may_be_posted_to_is_told_without_it(url: str, more: str, why: str) -> None:
    run = check(HOOK % more, 1, PEOPLE_URL=url)
    assert run.stderr == f"gateway.yaml:3: {URL}: what is in PEOPLE_URL {why}\n"


def test_one_that_is_not_there_is_told() -> None:
    run = check(HOOK % "", 1)
    assert run.stderr == f"gateway.yaml:3: {URL}: PEOPLE_URL is not there, or cannot be read\n"
    run = check("telemetry: {alerts: {webhooks: {people: {url: {file: nowhere}}}}}\n", 1)
    assert "nowhere is not there" in run.stderr


@pytest.mark.parametrize(
    ("url", "more"),
    [("https://hooks.example/x", ""), ("http://127.0.0.1:9/x", ""), ("http://hooks.internal/x", ", plain_http: true")],
)
def test_others_are_taken(url: str, more: str) -> None:
    assert check(HOOK % more, 0, PEOPLE_URL=url).stderr == ""


@pytest.mark.parametrize("share", ["0", "1.5", "-1"])
def test_a_share_is_one(share: str) -> None:
    assert (
        "telemetry.alerts.errors.share" in check(f"telemetry: {{alerts: {{errors: {{share: {share}}}}}}}\n", 1).stderr
    )


def test_no_worker_has_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("gateway.yaml").write_text(HEAD + HOOK % "")
    gateway = load(Path("gateway.yaml"), {})
    (worker,) = workers(Revision.of(gateway), state_of(gateway), as_json=True)
    assert not worker.may_have("PEOPLE_URL")
    assert worker.may_have("PATH")


def test_times_of_stages_for_everybody_are_doubted_and_on_this_machine_not() -> None:
    text = "telemetry: {server_timing: true}\nlistener: {address: %s}\n"
    assert check(text % "127.0.0.1", 0).stderr == ""
    assert "gateway.yaml:3: telemetry.server_timing: tells every caller of 0.0.0.0" in check(text % "0.0.0.0", 0).stderr


def test_rules_without_a_webhook_are_doubted() -> None:
    told = check("telemetry: {alerts: {ledger_lag: 5m}}\n", 0).stderr
    assert "gateway.yaml:3: telemetry.alerts: has no `webhooks`: nobody is told anything" in told
    assert check("telemetry: {alerts: {ledger_lag: 2m}}\n", 0).stderr == ""
