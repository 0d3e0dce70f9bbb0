"""A crowd that spends a budget at one time: calls of every surface, what became of them, what the provider counted."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import httpx
import orjson

from extproc.identity.keys import QUICKSTART_KEY

_PATIENCE_S = 60.0
_TEXT = "Say in a few words what a gateway does for the calls that pass it, and why. "
_HEADERS = {
    "authorization": f"Bearer {QUICKSTART_KEY}",
    "x-api-key": QUICKSTART_KEY,
    "anthropic-version": "2023-06-01",
    "content-type": "application/json",
}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Surface:
    """How one API spells a call: its path, the field of its cap, and that of the text."""

    path: str
    cap: str
    text: str
    ending: str  # in the last event of a stream

    def body(self, model: str, words: int, cap: int | None, stream: bool, fake: Mapping[str, Any]) -> Json:
        """A call with a text of about so many words. `fake` is what the provider shall do."""
        text: Any = (_TEXT * (words // 16 + 1))[: words * 5]
        if self.text == "messages":
            text = [{"role": "user", "content": text}]
        body = {"model": model, self.text: text, "stream": stream, "x_fake": fake}
        return body if cap is None else body | {self.cap: cap}


SURFACES = {
    "chat": Surface("/v1/chat/completions", "max_completion_tokens", "messages", "[DONE]"),
    "completions": Surface("/v1/completions", "max_tokens", "prompt", "[DONE]"),
    "responses": Surface("/v1/responses", "max_output_tokens", "input", '"response":{"id"'),
    "messages": Surface("/v1/messages", "max_tokens", "messages", "message_stop"),
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One call. `model` is the public name."""

    surface: str
    model: str
    words: int = 20
    cap: int | None = 50
    stream: bool = False
    fake: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return SURFACES[self.surface].path

    def content(self) -> bytes:
        return orjson.dumps(SURFACES[self.surface].body(self.model, self.words, self.cap, self.stream, self.fake))


@dataclass(frozen=True, slots=True)
class Told:
    """What a caller was told. `status` 0: the connection broke, or the answer ended before its end."""

    ask: Ask
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, Any] = field(default_factory=dict)

    @property
    def admitted(self) -> bool:
        return self.status == 200

    @property
    def refused(self) -> bool:
        return self.status == 429

    @property
    def refused_by(self) -> str:
        """The limit that refused it, "" where none did."""
        return self.headers.get("x-sluice-limit", "")

    @property
    def request_id(self) -> str:
        return self.headers.get("x-request-id", "")


@dataclass(frozen=True, slots=True)
class Spent:
    """What the provider counted: calls that it answered, and their tokens."""

    calls: int = 0
    input: int = 0
    output: int = 0

    @property
    def tokens(self) -> int:
        return self.input + self.output


# ---- who asks for what ---------------------------------------------------------------------------


def alike(count: int, model: str, cap: int = 50, **fake: Any) -> list[Ask]:
    """Calls of one size, every other a stream."""
    return [Ask("chat", model, cap=cap, stream=number % 2 == 1, fake=fake) for number in range(count)]


def unruly(count: int, models: Mapping[str, Sequence[str]], seed: int) -> Iterator[Ask]:
    """Calls of all sizes, durations and surfaces at a provider that does not keep to what it was asked.

    A third sends no cap, where the surface lets it. The provider counts with another tokenizer (+-30 %), thinks
    in hiding in every tenth call, and ignores the cap in every twentieth. `models`: public names by surface.
    """
    dice = random.Random(seed)
    for _ in range(count):
        surface = dice.choice(sorted(models))
        capped = surface == "messages" or dice.random() > 1 / 3
        fake = {
            "length": dice.randint(1, 150),  # as it counts at most 195: within the models' own maximum of 200
            "delay_ms": dice.choice((0, 0, 5, 40)),
            "tokens_percent": dice.randint(70, 130),
            "reasoning_tokens": dice.randint(1, 60) if dice.random() < 0.1 else 0,
            "ignores_cap": dice.random() < 0.05,
            **({"tokens_per_second": dice.choice((500, 4000))} if dice.random() < 0.2 else {}),
        }
        yield Ask(
            surface,
            dice.choice(models[surface]),
            words=dice.choice((3, 20, 120)),
            cap=dice.randint(16, 200) if capped else None,
            stream=dice.random() < 0.5,
            fake=fake,
        )


def keeps_its_word(ask: Ask) -> bool:
    """Whether the provider makes no more of this call than its cap allows."""
    return not ask.fake.get("ignores_cap") and not ask.fake.get("reasoning_tokens")


# ---- asking --------------------------------------------------------------------------------------


class Crowd:
    """Callers of several gateways, taken in turn; `told` is what they were told so far. `gateways`: their URLs."""

    def __init__(self, gateways: Sequence[str]) -> None:
        self.told: list[Told] = []
        self._gateways = gateways

    async def ask(self, asks: Sequence[Ask], concurrency: int) -> list[Told]:
        """Make the calls, so many at a time."""
        gate = asyncio.Semaphore(concurrency)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(_client(url)) for url in self._gateways]
            await asyncio.gather(*[self._ask(client, ask, gate) for client, ask in zip(cycle(clients), asks)])
        return self.told

    async def ask_at_once(self, asks: Sequence[Ask], provider: str) -> list[Told]:
        """Make all calls at one time; the provider answers when each has been refused or has come to it.

        The calls must be `held` there. `provider`: its URL. Raises TimeoutError where a call is neither.
        """
        asking = asyncio.ensure_future(self.ask(asks, len(asks)))
        async with _client(provider) as control:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    while len(self.told) + await _held(control) < len(asks):
                        await asyncio.wait({asking}, timeout=0.02)
            finally:
                await control.post("/_fake/release")
                await asking
        return self.told

    async def _ask(self, client: httpx.AsyncClient, ask: Ask, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                answer = await client.post(ask.path, content=ask.content())
            except httpx.HTTPError:
                self.told.append(Told(ask, 0))
            else:
                self.told.append(_read(ask, answer))


async def _held(control: httpx.AsyncClient) -> int:
    return int((await control.get("/_fake/totals")).json()["open"])


def _client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=url, headers=_HEADERS, trust_env=False, timeout=_PATIENCE_S, limits=limits)


def _read(ask: Ask, answer: httpx.Response) -> Told:
    if answer.status_code != 200:
        return Told(ask, answer.status_code, answer.headers, answer.json().get("error", {}))
    return Told(ask, 200 if _is_whole(ask, answer) else 0, answer.headers)


def _is_whole(ask: Ask, answer: httpx.Response) -> bool:
    if not ask.stream:
        return isinstance(answer.json(), dict)
    last = answer.text.rstrip().rpartition("data: ")[2]
    return SURFACES[ask.surface].ending in last


# ---- what came of it -----------------------------------------------------------------------------


def outcomes(told: Iterable[Told]) -> Counter[str]:
    """How many were `admitted`, `refused` by a limit, and `failed` otherwise."""
    return Counter("admitted" if one.admitted else "refused" if one.refused else "failed" for one in told)


def spent_at(totals: Mapping[str, Any]) -> dict[str, Spent]:
    """What a provider counted, by the model's name there, from its `totals`."""
    return {
        model: Spent(counted["calls"], counted["input_tokens"], counted["output_tokens"])
        for model, counted in totals["by_model"].items()
    }
