"""The unmodified SDKs at the gateway's doors, driven in one way whether they are synchronous or not."""

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import anthropic
import openai
import pytest

AZURE_API_VERSION = "2024-10-21"


@dataclass(frozen=True, slots=True)
class Door:
    """A client class with the base URL that a user would give it; `open` takes the gateway's URL, key and options.

    `family` is the spelling of paths that the client uses: openai, azure-legacy, azure-v1 or anthropic.
    """

    name: str
    family: str
    open: Callable[..., Any]


def _azure(kind: Any) -> Callable[..., Any]:
    def make(url: str, key: str, **options: Any) -> Any:
        return kind(azure_endpoint=url, api_version=AZURE_API_VERSION, api_key=key, **options)

    return make


def _under(kind: Any, path: str) -> Callable[..., Any]:
    def make(url: str, key: str, **options: Any) -> Any:
        return kind(base_url=url + path, api_key=key, **options)

    return make


OPENAI_DOORS = (
    Door("openai", "openai", _under(openai.OpenAI, "/v1")),
    Door("openai-async", "openai", _under(openai.AsyncOpenAI, "/v1")),
    Door("azure-legacy", "azure-legacy", _azure(openai.AzureOpenAI)),
    Door("azure-legacy-async", "azure-legacy", _azure(openai.AsyncAzureOpenAI)),
    Door("azure-v1", "azure-v1", _under(openai.OpenAI, "/openai/v1")),
    Door("azure-v1-async", "azure-v1", _under(openai.AsyncOpenAI, "/openai/v1")),
)
ANTHROPIC_DOORS = (
    Door("anthropic", "anthropic", _under(anthropic.Anthropic, "/anthropic")),
    Door("anthropic-async", "anthropic", _under(anthropic.AsyncAnthropic, "/anthropic")),
    Door("anthropic-root", "anthropic", _under(anthropic.Anthropic, "")),
    Door("anthropic-root-async", "anthropic", _under(anthropic.AsyncAnthropic, "")),
)
DOORS = {door.name: door for door in OPENAI_DOORS + ANTHROPIC_DOORS}


@dataclass(frozen=True, slots=True)
class Answer:
    """What an SDK made of an answer: the parsed value, of a stream the list of its events."""

    value: Any
    headers: Mapping[str, str]

    @property
    def request_id(self) -> str:
        """The id under which the gateway's records know the call."""
        return self.headers["x-request-id"]


async def settled(value: Any) -> Any:
    """The value, awaited where it has to be."""
    return await value if inspect.isawaitable(value) else value


@asynccontextmanager
async def client_at(door: Door, url: str, key: str, **options: Any) -> AsyncIterator[Any]:
    """A client that retries nothing unless asked to, closed at the end."""
    client = door.open(url, key, **{"max_retries": 0, **options})
    try:
        yield client
    finally:
        await settled(client.close())


async def ask(client: Any, operation: str, **fields: Any) -> Answer:
    """Call an operation by its dotted name in the SDK and read the answer, a stream to its end."""
    resource, _, method = operation.rpartition(".")
    raw = await settled(getattr(attrgetter(resource)(client).with_raw_response, method)(**fields))
    value = await settled(raw.parse())
    if isinstance(value, openai.Stream | anthropic.Stream):
        value = list(value)
    elif isinstance(value, openai.AsyncStream | anthropic.AsyncStream):
        value = [event async for event in value]
    return Answer(value, raw.headers)


async def refusal(client: Any, operation: str, **fields: Any) -> Any:
    """The error that an SDK raises for a call: an `APIStatusError` of one of the two. No error fails the test."""
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught:
        await ask(client, operation, **fields)
    return caught.value
