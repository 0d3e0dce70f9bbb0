"""The list of models: only the caller's, answered by the gateway, in the shape of the API that asked."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import ROOT, RunningGateway, until
from tests.support.sdk import DOORS, ask, client_at, refusal

Json = dict[str, Any]

MODELS = ["gpt-4o", "claude-sonnet-5-5", "org/phi-4:latest"]
ALIAS = "my-gpt"
LISTS = {
    "/v1/models": {},
    "/openai/v1/models": {},
    "/openai/models?api-version=2024-10-21": {},
    "/v1/models?limit=1000": {"anthropic-version": "2023-06-01"},
    "/anthropic/v1/models": {},
}
"""Where lists of models are asked for, with the header that tells an Anthropic client from an OpenAI one."""


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("one") as started:
        yield started


@pytest.fixture(scope="module")
def running(provider: FakeProvider) -> Iterator[RunningGateway]:
    settings: Json = {
        "backends": {"one": {"dialect": "openai", "url": provider.url("one")}},
        "models": {name: {"targets": [[{"backend": "one"}]]} for name in MODELS},
    }
    settings["models"]["gpt-4o"]["aliases"] = [ALIAS]
    with RunningGateway(settings) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def narrow(running: RunningGateway) -> str:
    """A key that may use two models only, in force."""
    command = [
        sys.executable,
        "-m",
        "extproc.cli",
        "keys",
        "create",
        "narrow",
        "--json",
        "--config",
        str(running.config),
    ]
    command += ["--model", "org/phi-4:latest", "--model", "gpt-4o"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    key: str = json.loads(made.stdout)["key"]
    until(lambda: get(running, "/v1/models", key=key).status_code == 200, what="the key to be in force")
    return key


def get(running: RunningGateway, path: str, headers: Json | None = None, key: str | None = None) -> httpx.Response:
    credential = {"authorization": f"Bearer {key or running.key}"}
    return httpx.get(running.url + path, headers={**credential, **(headers or {})}, trust_env=False)


@pytest.mark.parametrize("path", LISTS)
def test_a_list_has_the_callers_models_once_in_the_order_of_the_configuration(
    path: str, running: RunningGateway, narrow: str, provider: FakeProvider
) -> None:
    for key, allowed in ((running.key, MODELS), (narrow, ["gpt-4o", "org/phi-4:latest"])):
        listed = get(running, path, LISTS[path], key).json()
        assert [model["id"] for model in listed["data"]] == allowed
        if "anthropic-version" in LISTS[path] or path.startswith("/anthropic"):
            assert (listed["first_id"], listed["last_id"], listed["has_more"]) == (allowed[0], allowed[-1], False)
            assert {model["type"] for model in listed["data"]} == {"model"}
            assert all(model["display_name"] for model in listed["data"])
        else:
            assert listed["object"] == "list"
            assert {model["object"] for model in listed["data"]} == {"model"}
            assert all(isinstance(model["created"], int) and model["owned_by"] for model in listed["data"])
    assert provider.calls("one") == []


@pytest.mark.parametrize("door", DOORS)
async def test_the_sdks_read_the_list(door: str, running: RunningGateway, narrow: str) -> None:
    async with client_at(DOORS[door], running.url, narrow) as client:
        answer = await ask(client, "models.list")
    assert [model.id for model in answer.value.data] == ["gpt-4o", "org/phi-4:latest"]
    record = running.record(answer.request_id)
    assert (record["surface"], record["key"], record["status"], record["ending"]) == (
        "models",
        "narrow",
        200,
        "answered",
    )
    assert "usage" not in record


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", ["gpt-4o", "claude-sonnet-5-5", ALIAS])
async def test_a_model_can_be_asked_for_by_any_of_its_names(name: str, door: str, running: RunningGateway) -> None:
    async with client_at(DOORS[door], running.url, running.key) as client:
        field = "model_id" if DOORS[door].family == "anthropic" else "model"
        answer = await ask(client, "models.retrieve", **{field: name})
    assert answer.value.id in (name, "gpt-4o")


def test_a_name_with_a_slash_is_served_as_it_is_and_refused_escaped(running: RunningGateway) -> None:
    """An escaped slash means one path to one server and another to the next, so Envoy refuses it everywhere."""
    assert get(running, "/v1/models/org/phi-4:latest").json()["id"] == "org/phi-4:latest"
    assert get(running, "/v1/models/org%2Fphi-4:latest").status_code == 400


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", ["claude-sonnet-5-5", "nobody"])
async def test_a_model_that_the_key_may_not_use_is_not_told_apart_from_none(
    name: str, door: str, running: RunningGateway, narrow: str
) -> None:
    async with client_at(DOORS[door], running.url, narrow) as client:
        field = "model_id" if DOORS[door].family == "anthropic" else "model"
        error = await refusal(client, "models.retrieve", **{field: name})
    assert (error.status_code, error.response.json()["error"]["code"]) == (404, "model_not_found")
    assert name not in error.response.text


@pytest.mark.parametrize("surface", ["chat.completions.create", "responses.create"])
async def test_a_model_that_the_key_may_not_use_cannot_be_called(
    surface: str, running: RunningGateway, narrow: str, provider: FakeProvider
) -> None:
    asks: Json = (
        {"input": "hi"} if surface.startswith("responses") else {"messages": [{"role": "user", "content": "hi"}]}
    )
    async with client_at(DOORS["openai"], running.url, narrow) as client:
        error = await refusal(client, surface, model="claude-sonnet-5-5", **asks)
        assert (error.status_code, error.code) == (404, "model_not_found")
        assert provider.calls("one") == []
        answer = await ask(client, surface, model=ALIAS, **asks)  # an alias is as good as the name
    assert running.record(answer.request_id)["model"] == "gpt-4o"
    provider.reset()


@pytest.mark.parametrize("path", LISTS)
def test_a_list_is_for_callers_only(path: str, running: RunningGateway) -> None:
    answer = httpx.get(running.url + path, headers=LISTS[path], trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "missing_api_key")


@pytest.mark.parametrize("path", LISTS)
def test_a_list_is_read_only(path: str, running: RunningGateway) -> None:
    headers = {"authorization": f"Bearer {running.key}", **LISTS[path]}
    answer = httpx.post(running.url + path, headers=headers, json={}, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
