"""The gateway tells people by itself: of budgets nearly and wholly used, and of a backend that fails."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from extproc.cli import app
from extproc.stores import sql
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.webhook import FakeWebhook, status

Json = dict[str, Any]

SECRET = "Zanzibar"
PATIENCE = 40.0


@dataclass(frozen=True)
class Site:
    gateway: RunningGateway
    fake: FakeProvider
    people: FakeWebhook
    machines: FakeWebhook

    def chat(self, model: str) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": f"Tell me of {SECRET}."}]}
        with self.gateway.client() as client:
            return client.post("/v1/chat/completions", json=body)

    def facts(self, kind: str, alerts: int) -> list[Json]:
        """Of the messages of a kind to the machines, once they are so many."""

        def found() -> list[Json]:
            return [message.body["facts"] for message in self.machines.got if message.body["kind"] == kind]

        until(lambda: len(found()) >= alerts, PATIENCE, f"{alerts} of {kind}; log:\n{self.gateway.log()}")
        return found()


def settings(fake: FakeProvider) -> Json:
    return {
        "backends": {name: {"dialect": "openai", "url": fake.url(name)} for name in ("one", "two")},
        "models": {
            "few": {"targets": [[{"backend": "one"}]]},
            "many": {"targets": [[{"backend": "one"}]]},
            "chain": {"targets": [[{"backend": "two"}], [{"backend": "one"}]]},
        },
        "policies": {
            "limits": {
                "daily": {"requests": 4, "per": "day", "warn_at": [50], "only": {"models": ["few"]}},
                "speed": {"requests": 2, "per": "hour", "warn_at": [50], "only": {"models": ["many"]}},
            }
        },
        "telemetry": {
            "alerts": {
                "webhooks": {
                    "people": {"url": {"env": "PEOPLE_URL"}, "alerts": ["budgets"]},
                    "machines": {"url": {"env": "MACHINES_URL"}, "format": "json"},
                },
                "backends": {"share": 0.5, "least": 3, "within": "10s"},
            }
        },
    }


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        fake = stack.enter_context(FakeProvider("one", "two"))
        people, machines = stack.enter_context(FakeWebhook()), stack.enter_context(FakeWebhook())
        people.script = [status(500)]  # it is not well at first
        environ = {"PEOPLE_URL": people.url, "MACHINES_URL": machines.url}
        running = RunningGateway(settings(fake), environ)
        yield Site(stack.enter_context(running), fake, people, machines)


def test_a_budget_is_told_of_as_it_is_passed_and_as_it_is_spent_once_each(site: Site) -> None:
    assert [site.chat("few").status_code for _ in range(6)] == [200] * 4 + [429] * 2
    passed, spent = sorted(site.facts("budgets", 2), key=lambda facts: facts["percent"])
    known = {"limit": "daily", "measure": "requests", "amount": 4}
    assert {name: passed[name] for name in known} == {name: spent[name] for name in known} == known
    assert (passed["percent"], passed["used"], passed["spent"]) == (50, 2, False)
    assert (spent["percent"], spent["used"], spent["spent"]) == (100, 4, True)
    assert passed["until"] == spent["until"]


def test_of_a_speed_nothing_is_said(site: Site) -> None:
    answers = [site.chat("many") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 2 + [429] * 2
    with closing(sql.open_stores(site.gateway.settings["stores"]["database"])) as stores:
        until(lambda: stores.ledger.call(answers[-1].headers["x-request-id"]), PATIENCE, "the row of the last call")
        kinds = [(row.kind, row.subject) for row in stores.alerts.recent(100) if row.webhook == "machines"]
    assert kinds == [("budgets", "daily")] * 2


def test_a_backend_that_fails_is_told_once_although_calls_are_served(site: Site) -> None:
    for _ in range(4):
        site.fake.script("two", [{"status": 503}])
        assert site.chat("chain").status_code == 200
    (facts,) = site.facts("backends", 1)
    assert facts["bad"] >= 3
    assert [message.body["subject"] for message in site.machines.got if message.body["kind"] == "backends"] == ["two"]


def test_people_get_it_although_their_webhook_was_not_well_and_only_what_they_want(site: Site) -> None:
    """Once taken, each is over; until then the same came again, under the same id."""
    ids = {message.body["id"] for message in site.machines.got if message.body["kind"] == "budgets"}
    found = site.people.wait(3, PATIENCE)  # two, and the one that was not taken at first
    assert {message.headers["x-sluice-alert"] for message in found} == ids
    assert all(text.startswith("Budget daily ") for text in site.people.texts())


def test_no_message_has_text_of_a_call_or_a_key(site: Site) -> None:
    told = json.dumps([message.body for message in (*site.people.got, *site.machines.got)])
    assert SECRET not in told
    assert site.gateway.key not in told
    assert "services/T0" not in site.gateway.told()  # of the URLs, which are secrets


def test_the_commands_show_them_and_try_the_webhooks(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEOPLE_URL", site.people.url)
    monkeypatch.setenv("MACHINES_URL", site.machines.url)

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["alerts", *words, "--config", str(site.gateway.config)])
        assert result.exit_code == 0, result.output
        return result.stdout

    listed = json.loads(run("list", "--json"))
    assert {(one["kind"], one["webhook"]) for one in listed} >= {("budgets", "people"), ("budgets", "machines")}
    assert "Budget daily is used up" in run("list")
    assert run("test") == "people: taken (status_200)\nmachines: taken (status_200)\n"
    assert site.people.texts()[-1] == "This is a test of the webhook people: alerts arrive."
    site.people.script = [status(404)]
    result = CliRunner().invoke(app, ["alerts", "test", "--webhook", "people", "--config", str(site.gateway.config)])
    assert (result.exit_code, result.stdout) == (1, "people: NOT taken (status_404)\n")
