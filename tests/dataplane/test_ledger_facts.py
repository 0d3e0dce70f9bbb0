"""What the ledger has of a call beside its tokens: the real SDKs through the real Envoy, row by row."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import anthropic
import openai
import pytest
from typer.testing import CliRunner

from extproc.cli import app
from extproc.stores import sql
from extproc.stores.ledger import CallRow
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until

PATIENCE = 30.0
UUID = "0198a0c2-1111-4222-8333-444455556666"
HI: Any = {"role": "user", "content": "hi"}
LOOK = {"name": "look", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeProvider]:
    with FakeProvider("one", "ant") as running:
        yield running


@pytest.fixture(scope="module")
def gateway(fake: FakeProvider) -> Iterator[RunningGateway]:
    price = {"input": 2.5, "output": 10}
    targets = {"gpt": ("one", "gpt-4o-eu"), "claude": ("ant", "claude-x")}
    settings: Json = {
        "backends": {
            "one": {"dialect": "openai", "url": fake.url("one")},
            "ant": {"dialect": "anthropic", "url": fake.url("ant")},
        },
        "models": {
            name: {"targets": [[{"backend": backend, "model": model}]], "price": {**price, "version": f"of {name}"}}
            for name, (backend, model) in targets.items()
        },
        "policies": {
            "limits": {
                "spend": {"money": "5", "per": "month", "scope": ["key"]},
                "few": {"requests": 2, "per": "day", "only": {"models": ["claude"]}, "mode": "shadow"},
            }
        },
        "ledger": {"tags": ["repository", "pull_request"]},
    }
    with RunningGateway(settings) as running:
        yield running


@pytest.fixture
def gpt(gateway: RunningGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(gateway: RunningGateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0) as client:
        yield client


def row_of(gateway: RunningGateway, raw: Any) -> CallRow:
    """The one row of a call that an SDK made."""
    name = raw.headers["x-request-id"]
    with closing(sql.open_stores(gateway.settings["stores"]["database"])) as stores:
        found: list[tuple[CallRow, Any]] = until(
            lambda: stores.ledger.call(name), PATIENCE, f"the row of a call; log:\n{gateway.log()}"
        )
    ((row, _),) = found
    return row


def record_of(gateway: RunningGateway, raw: Any) -> Json:
    """What the row is made from, which is there sooner."""
    return gateway.record(raw.headers["x-request-id"])


def drained(raw: Any) -> Any:
    """A streamed answer, read to its end."""
    for _ in raw.parse():
        pass
    return raw


def test_a_chat_with_all_that_is_told(gateway: RunningGateway, gpt: openai.OpenAI) -> None:
    headers = {"x-session-id": "run-7", "x-sluice-tag-pull-request": "17"}
    said: Any = [HI, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "more"}]
    raw = gpt.chat.completions.with_raw_response.create(
        model="gpt", messages=said, max_tokens=40, metadata={"repository": "shop/web"}, extra_headers=headers
    )
    row = row_of(gateway, raw)
    assert (row.session_id, row.turn, json.loads(row.tags or "")) == (
        *("run-7", 2),
        {"repository": "shop/web", "pull_request": "17"},
    )
    assert (row.deployed, row.price_version) == ("gpt-4o-eu", "of gpt")
    assert (row.stop_reason, row.tool_calls) == ("stop", 0)
    assert row.answer_bytes == len(raw.content)
    assert (row.first_token_ms, row.stream_ms) == (None, None)
    (budget,) = json.loads(row.budgets or "")
    assert (budget["limit"], budget["measure"], budget["amount"]) == ("spend", "money", 5 * 10**9)
    assert budget["used"] == row.cost
    assert budget["wanted"] == row.held_money
    assert budget["until"] > row.ended_at.timestamp()


def test_what_one_call_used_is_what_the_next_one_finds(gateway: RunningGateway, gpt: openai.OpenAI) -> None:
    def stood() -> Json:
        raw = gpt.chat.completions.with_raw_response.create(model="gpt", messages=[HI], max_tokens=40)
        (budget,) = json.loads(row_of(gateway, raw).budgets or "")
        return dict(budget)

    one = stood()
    two = stood()
    assert two["before"] == one["before"] + one["used"]


def test_a_stream_tells_when_its_output_came(gateway: RunningGateway, gpt: openai.OpenAI) -> None:
    row = row_of(
        gateway,
        drained(gpt.chat.completions.with_raw_response.create(model="gpt", messages=[HI], max_tokens=4, stream=True)),
    )
    assert (row.stop_reason, row.tool_calls, row.stream) == ("length", 0, True)
    assert row.first_byte_ms is not None
    assert row.first_token_ms is not None
    assert row.duration_ms is not None
    assert row.stream_ms is not None
    assert row.first_byte_ms <= row.first_token_ms <= row.duration_ms
    assert row.stream_ms <= row.duration_ms
    assert row.answer_bytes


@pytest.mark.parametrize("stream", [False, True])
def test_calls_of_tools_are_counted(
    gateway: RunningGateway, gpt: openai.OpenAI, claude: anthropic.Anthropic, stream: bool
) -> None:
    tools: Any = [{"type": "function", "function": LOOK}, {"type": "function", "function": {**LOOK, "name": "see"}}]
    alone: Any = {"type": "function", **LOOK, "strict": False}
    chat: Any = gpt.chat.completions.with_raw_response.create(model="gpt", messages=[HI], tools=tools, stream=stream)
    response: Any = gpt.responses.with_raw_response.create(model="gpt", input="hi", tools=[alone], stream=stream)
    given: Any = [{"name": "look", "input_schema": LOOK["parameters"]}]
    message: Any = claude.messages.with_raw_response.create(
        model="claude", max_tokens=100, messages=[HI], tools=given, stream=stream
    )
    for raw, count in ((chat, 2), (response, 1), (message, 1)):
        record = record_of(gateway, drained(raw) if stream else raw)
        assert (record["stop_reason"], record["tool_calls"]) == ("tool_calls", count)


def test_agents_name_their_sessions_each_in_its_way(
    gateway: RunningGateway, gpt: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    codex = gpt.responses.with_raw_response.create(
        model="gpt", input=[HI], extra_headers={"session-id": UUID}, prompt_cache_key="other"
    )
    cached = gpt.responses.with_raw_response.create(model="gpt", input="hi", prompt_cache_key=UUID)
    code = claude.messages.with_raw_response.create(
        model="claude", max_tokens=9, messages=[HI], metadata={"user_id": f'{{"device_id":"d","session_id":"{UUID}"}}'}
    )
    head = claude.messages.with_raw_response.create(
        model="claude", max_tokens=9, messages=[HI], extra_headers={"x-claude-code-session-id": UUID}
    )
    assert [record_of(gateway, raw)["session"] for raw in (codex, cached, code, head)] == [UUID] * 4


def test_turns_of_a_talk_without_a_name_are_one_session(gateway: RunningGateway, claude: anthropic.Anthropic) -> None:
    more = [HI, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "go on"}]
    talks: Any = ([HI], more, [{"role": "user", "content": "another"}])
    records = [
        record_of(gateway, claude.messages.with_raw_response.create(model="claude", max_tokens=9, messages=messages))
        for messages in talks
    ]
    assert [record["turn"] for record in records] == [1, 2, 1]
    assert records[0]["session"] == records[1]["session"] != records[2]["session"]
    assert records[0]["session"].startswith("auto_")


def test_a_person_is_no_session_in_clear(gateway: RunningGateway, gpt: openai.OpenAI) -> None:
    raw = gpt.embeddings.with_raw_response.create(model="gpt", input="x", user="ann@example.com")
    assert record_of(gateway, raw)["session"].startswith("hash_")


def test_headers_of_tags_never_reach_a_provider(
    gateway: RunningGateway, gpt: openai.OpenAI, fake: FakeProvider
) -> None:
    headers = {"x-sluice-tag-repository": "canary", "x-sluice-tag-other": "canary", "x-sluice-tags": "canary"}
    raw = gpt.embeddings.with_raw_response.create(model="gpt", input="x", extra_headers=headers)
    assert record_of(gateway, raw)["caller_tags"] == {"repository": "canary"}
    assert "canary" not in json.dumps(fake.calls("one")[-1]["headers"])


def test_a_refused_call_has_them_too(gateway: RunningGateway, gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        gpt.chat.completions.create(
            model="none", messages=[HI], extra_headers={"x-session-id": "run-8", "x-sluice-tag-repository": "web"}
        )
    row = row_of(gateway, refused.value.response)
    assert (row.session_id, row.turn, row.tags, row.budgets) == ("run-8", 1, '{"repository":"web"}', None)
    assert (row.deployed, row.stop_reason, row.tool_calls, row.answer_bytes) == (None, None, None, None)


def test_usage_by_tags_and_one_call_in_words(gateway: RunningGateway, gpt: openai.OpenAI) -> None:
    headers = {"x-sluice-tag-repository": "shop/by-tags", "x-sluice-tag-pull-request": "18"}
    raw = gpt.chat.completions.with_raw_response.create(
        model="gpt", messages=[HI], max_tokens=40, extra_headers=headers
    )
    row = row_of(gateway, raw)
    words = ("usage", "--by", "tag:pull_request", "--tag", "repository=shop/by-tags", "--json")
    (found,) = json.loads(sluice(gateway, *words))
    assert (found["tag:pull_request"], found["calls"], found["input"]) == ("18", 1, row.input)
    told = sluice(gateway, "explain", row.request_id)
    for part in ("repository shop/by-tags, pull_request 18", "by prices of gpt", "spend: ", "stop reason stop"):
        assert part in told


def sluice(gateway: RunningGateway, *words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--config", str(gateway.config)])
    assert result.exit_code == 0, result.output
    return result.stdout
