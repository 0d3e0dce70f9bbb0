"""Gateways that keep answers, for tests: how they are asked, and what their answers and records tell of it."""

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until

Json = dict[str, Any]

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
EMBEDDINGS, MESSAGES = "/v1/embeddings", "/v1/messages"
HEADER = "x-sluice-cache"
ONLY = {"cache-control": "only-if-cached"}
PRICE = {"input": 2.5, "output": 10}
_PATIENCE = 60.0

_numbers = itertools.count(1)


def fresh() -> str:
    """A question that nobody has asked yet."""
    return f"What is the square of {next(_numbers)}?"


def chat(text: str, model: str = "gpt-4o", **fields: Any) -> Json:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def result(answer: httpx.Response) -> str:
    """What the header says of it: `hit`, `miss`, `bypass; why`; empty where there is no cache for the call."""
    assert answer.status_code == 200, answer.text
    return str(answer.headers.get(HEADER, ""))


@dataclass
class Site:
    """A gateway with its fake providers, talked to over kept connections."""

    gateway: RunningGateway
    fake: FakeProvider
    backends: tuple[str, ...] = ("openai",)
    keys: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._client = httpx.Client(base_url=self.gateway.url, trust_env=False, timeout=_PATIENCE)

    def close(self) -> None:
        self._client.close()

    def headers(self, key: str = "", more: Mapping[str, str] | None = None) -> Mapping[str, str]:
        """Those of a call with one of the keys; without a name, the quickstart key."""
        secret = self.keys[key] if key else self.gateway.key
        return {"authorization": f"Bearer {secret}", **(more or {})}

    def post(self, path: str, body: Json, key: str = "", headers: Mapping[str, str] | None = None) -> httpx.Response:
        version = {"anthropic-version": "2023-06-01"} if path.startswith(MESSAGES) else {}
        return self._client.post(path, json=body, headers=self.headers(key, {**version, **(headers or {})}))

    def chat(
        self, text: str, model: str = "gpt-4o", key: str = "", headers: Mapping[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        """Say a text; `x_fake` among the fields tells the provider what to do."""
        return self.post(CHAT, chat(text, model, **fields), key, headers)

    def record(self, answer: httpx.Response) -> Json:
        """What the gateway's record tells of a call."""
        return self.gateway.record(answer.headers["x-request-id"])

    def told(self, answer: httpx.Response) -> Json:
        """What its record tells of the cache."""
        told: Json = self.record(answer)["cache"]
        return told

    def asked(self) -> int:
        """How many calls reached a provider since the last reset."""
        return sum(int(self.fake.totals(name)["calls"]) for name in self.backends)

    def until_kept(self, body: Json, path: str = CHAT, key: str = "") -> httpx.Response:
        """Wait until the answer to a call is kept; what `only-if-cached` gives of it."""

        def kept() -> httpx.Response | None:
            answer = self.post(path, body, key, ONLY)
            return answer if answer.status_code == 200 else None

        found: httpx.Response = until(kept, what="the answer to be kept")
        return found


@dataclass
class Crowd:
    """Callers that ask at the same time, and go on while a test does something else."""

    site: Site
    _client: httpx.AsyncClient = field(init=False)
    _tasks: list[asyncio.Task[httpx.Response]] = field(default_factory=list)

    async def __aenter__(self) -> "Crowd":
        limits = httpx.Limits(max_connections=None)
        self._client = httpx.AsyncClient(
            base_url=self.site.gateway.url, trust_env=False, timeout=_PATIENCE, limits=limits
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    def ask(self, body: Json, count: int = 1, key: str = "", path: str = CHAT) -> list[asyncio.Task[httpx.Response]]:
        """Start so many calls."""
        headers = self.site.headers(key)
        tasks = [asyncio.ensure_future(self._client.post(path, json=body, headers=headers)) for _ in range(count)]
        self._tasks += tasks
        return tasks

    async def at_the_gateway(self, count: int) -> None:
        """Wait until so many calls are in Envoy's hands."""
        await eventually(lambda: active(self.site.gateway) >= count, f"{count} calls under way")

    async def at_the_provider(self, count: int) -> None:
        """Wait until a provider has got so many calls."""
        await eventually(lambda: self.site.asked() >= count, f"{count} calls at the provider")


def active(gateway: RunningGateway) -> int:
    """How many calls Envoy has under way from callers."""
    return gateway.envoy_stat(r"http\.gateway\.downstream_rq_active")


async def eventually(condition: Any, what: str) -> None:
    """Wait without holding up the loop of the test."""
    await asyncio.to_thread(until, condition, _PATIENCE, what)
