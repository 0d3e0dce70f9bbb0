"""An hour of mixed traffic, as it is asked for: every surface, whole and streamed, good and bad, by a seed.

Each call has a name of its own, which its client gives it as a tag and as `x-client-request-id`: by that the client,
the provider's bill and the ledger tell of the same call.
"""

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from extproc.identity.keys import QUICKSTART_KEY
from loadtest.fake_llm import tokenizer
from tests.support.fake import FakeProvider

Json = dict[str, Any]

_TEXTS: list[Json] = json.loads((Path(__file__).parents[1] / "fixtures/hour_texts.json").read_text())
BACKENDS = ("one", "shaky", "claude")
PRICE = {"input": 2.5, "cached_input": 1.25, "cache_write": 3.125, "output": 10, "reasoning": 12}
SCARCE = 10
"""Calls that the limit of one model lets pass."""

_TEMPLATE = 7
"""Tokens that OpenAI counts beside the text of one message: 3, its role, and 3 for the answer (OpenAI's cookbook)."""

TAG = "call"
"""The caller's tag by which the ledger knows a call's name."""

MUTE = "mute"
"""The model whose provider never tells its usage."""

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
EMBEDDINGS, COMPLETIONS, MODELS = "/v1/embeddings", "/v1/completions", "/v1/models"


@dataclass(frozen=True, slots=True)
class Asked:
    """One call. `fake`: what the provider shall do. `leaves`: when its client does, see `Leaving`."""

    kind: str
    name: str
    path: str
    body: bytes
    fake: Json = field(default_factory=dict)
    leaves: "Leaving | None" = None
    key: str = QUICKSTART_KEY
    headers: Mapping[str, str] = field(default_factory=dict)

    def message(self) -> bytes:
        """The request as it goes over the wire, on a connection of its own."""
        lines = [
            f"{'POST' if self.body else 'GET'} {self.path} HTTP/1.1",
            "host: gateway",
            f"authorization: Bearer {self.key}",
            "anthropic-version: 2023-06-01",
            "connection: close",
            f"x-client-request-id: {self.name}",
            f"x-sluice-tag-{TAG}: {self.name}",
            f"x-stainless-fake: {json.dumps(self.fake)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        if self.body:
            lines += ["content-type: application/json", f"content-length: {len(self.body)}"]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


@dataclass(frozen=True, slots=True)
class Leaving:
    """A client that leaves: so many seconds after its request is sent, or after so many bytes of the answer."""

    seconds: float | None = None
    after_bytes: int = 0


# ---- the gateway -------------------------------------------------------------------------------------


def settings(fake: FakeProvider, redis: str, database: str) -> Json:
    """Of a gateway with two workers. What writes the ledger is a process of its own."""
    backends: Json = {name: {"dialect": "openai", "url": fake.url(name)} for name in ("one", "shaky")}
    backends["claude"] = {"dialect": "anthropic", "url": fake.url("claude")}
    return {
        "workers": 2,
        "backends": backends,
        "models": _models(),
        "policies": {"limits": _limits()},
        "cache": {"mode": "off", "rules": [{"models": ["kept"], "mode": "enforce"}]},
        "stores": {"counters": redis, "answers": "memory://", "database": database},
        "ledger": {"consumer": False, "tags": [TAG]},
        "identity": {"store_outage": {"snapshot": True}},  # a new worker knows the callers without the database
    }


def _models() -> Json:
    bounds = {"price": PRICE, "max_output": 1_000}
    on_one = ("plain", "limited", "lenient", "scarce", "kept", MUTE, "embed", "text")
    return {
        **{name: {"targets": [[{"backend": "one"}]], **bounds} for name in on_one},
        "chain": {"targets": [[{"backend": "shaky"}], [{"backend": "one"}]], **bounds},
        "claude": {"targets": [[{"backend": "claude"}]], **bounds},
    }


def _limits() -> Json:
    many = 10**9
    return {
        "tokens": {"tokens": many, "per": "hour", "only": {"models": ["limited", "claude"]}},
        "money": {"money": 9_000_000, "per": "day", "only": {"models": ["limited"]}},
        "lenient": {"requests": many, "per": "hour", "on_error": "allow", "only": {"models": ["lenient", "chain"]}},
        "scarce": {"requests": SCARCE, "per": "day", "on_error": "allow", "only": {"models": ["scarce"]}},
    }


# ---- the calls -----------------------------------------------------------------------------------------


class Hour:
    """The calls of an hour: `calls` of them, the same ones for the same seed."""

    def __init__(self, seed: int, calls: int) -> None:
        self._dice = random.Random(seed)
        self._calls = calls
        self._texts = _mixed(self._dice.randrange(len(_TEXTS)))
        self._number = 0
        self._makers = {
            self._chat: 22,
            self._limited: 18,
            self._chain: 12,
            self._mute: 12,
            self._messages: 10,
            self._responses: 8,
            self._translated: 5,
            self._tools: 4,
            self._embeddings: 6,
            self._completions: 5,
            self._kept: 6,
            self._broken: 6,
            self._large: 1,
            self._scarce: 3,
            self._refused: 4,
        }

    def __iter__(self) -> Iterator[Asked]:
        makers, weights = [*self._makers], [*self._makers.values()]
        while self._number < self._calls:
            (maker,) = self._dice.choices(makers, weights)
            asked = self._perhaps_left(maker())
            for one in self._perhaps_twice(asked):
                self._number += 1
                yield one

    def _perhaps_left(self, asked: Asked) -> Asked:
        """Nobody leaves a provider that tells no usage: the estimates of those are compared by themselves."""
        if asked.kind in ("mute", "scarce", "list", "nobody") or self._dice.random() > 0.12:
            return asked
        seconds = self._dice.choice((0.0, 0.0, 0.002, 0.01, 0.05, 0.2, 0.5))
        leaving = Leaving(seconds) if self._dice.random() < 0.6 else Leaving(after_bytes=self._dice.randint(1, 6_000))
        return replace(asked, leaves=leaving)

    def _perhaps_twice(self, asked: Asked) -> Sequence[Asked]:
        """As a client does that has an answer too late, or has none: the same call again."""
        if not asked.body or self._dice.random() > 0.03:
            return (asked,)
        key = {"idempotency-key": asked.name}
        again = {**key, "x-stainless-retry-count": "1"}
        return replace(asked, headers=key), replace(asked, name=self._name(), headers=again)

    # ---- what they ask for ----

    def _chat(self) -> Asked:
        body = self._conversation("plain")
        fake = self._said(body)
        if self._dice.random() < 0.15:
            fake |= {"audio_input_tokens": 1, "audio_output_tokens": self._dice.randint(1, 20)}
        return self._call("chat", CHAT, body, fake)

    def _limited(self) -> Asked:
        model = self._dice.choice(("limited", "limited", "lenient"))
        body = self._conversation(model)
        return self._call("limited", CHAT, body, self._said(body))

    def _chain(self) -> Asked:
        body = self._conversation("chain")
        return self._call("chain", CHAT, body, self._said(body))

    def _mute(self) -> Asked:
        """Real text there and back, each in its turn; the provider counts as a real tokenizer would."""
        sample = next(self._texts)
        text = sample["text"]
        percent = 100 * sample["tokens"] / tokenizer.count(text)
        fake = {"usage": "none", "text": text, "tokens_percent": percent}
        body = {"model": MUTE, "messages": [{"role": "user", "content": text}]}
        return self._call("mute", CHAT, body | {"stream": self._dice.random() < 0.7}, fake)

    def _messages(self) -> Asked:
        model = "claude" if self._dice.random() < 0.7 else "plain"
        body = {**self._conversation(model), "max_tokens": 300}
        return self._call("messages", MESSAGES, body, self._said(body))

    def _responses(self) -> Asked:
        body = self._conversation("plain")
        fake = self._said(body)
        body = {"input": body.pop("messages")[0]["content"], "store": False, **body}
        body.pop("stream_options", None)
        return self._call("responses", RESPONSES, body, fake)

    def _translated(self) -> Asked:
        body = self._conversation("claude")
        return self._call("translated", CHAT, body, self._said(body))

    def _tools(self) -> Asked:
        names = self._dice.sample(("look_up", "send", "add_up"), self._dice.randint(1, 3))
        tools = [{"type": "function", "function": {"name": name, "parameters": _PARAMETERS}} for name in names]
        return self._call("tools", CHAT, {**self._conversation("limited"), "tools": tools}, {})

    def _embeddings(self) -> Asked:
        return self._call("embeddings", EMBEDDINGS, {"model": "embed", "input": [self._words(), self._words()]})

    def _completions(self) -> Asked:
        body = self._conversation("text")
        fake = self._said(body)
        body = {"prompt": body.pop("messages")[0]["content"], **body}
        return self._call("completions", COMPLETIONS, body, fake)

    def _kept(self) -> Asked:
        """One of few questions, whose answers may be kept."""
        question = f"What is the square of {self._dice.randrange(8)}?"
        body = {"model": "kept", "messages": [{"role": "user", "content": question}], "temperature": 0}
        return self._call("kept", CHAT, body | {"stream": self._dice.random() < 0.5})

    def _broken(self) -> Asked:
        """What providers do after a head that says 200."""
        faults: tuple[Json, ...] = (
            {"error_in_200": True},
            {"error_event_after": self._dice.randint(1, 8)},
            {"reset": self._dice.randint(1, 8)},
            {"reset": "before"},
            {"reset": "head"},
            {"status": 400},
            {"status": self._dice.choice((429, 500, 503))},
        )
        return self._call("broken", CHAT, self._conversation("plain"), self._dice.choice(faults))

    def _large(self) -> Asked:
        body = {"model": "limited", "messages": [{"role": "user", "content": self._words(40_000)}]}
        return self._call("large", CHAT, body, {"text": "Too long to read."})

    def _scarce(self) -> Asked:
        return self._call("scarce", CHAT, {"model": "scarce", "messages": [{"role": "user", "content": "Me too?"}]})

    def _refused(self) -> Asked:
        """A model that nobody has, a body that nobody can read, a list, a caller whom nobody knows."""
        good = self._call("refused", CHAT, self._conversation("no-such-model"))
        return self._dice.choice(
            (
                good,
                replace(good, body=good.body[:-1]),
                replace(good, kind="list", path=MODELS, body=b""),
                replace(good, kind="nobody", key="sk-nobody"),
            )
        )

    # ---- of which they are made ----

    def _call(self, kind: str, path: str, body: Json, fake: Json | None = None) -> Asked:
        template = {} if "messages" not in body else {"template_tokens": _TEMPLATE}
        return Asked(kind, self._name(), path, orjson.dumps(body), {**template, **(fake or {})})

    def _name(self) -> str:
        return f"call-{self._dice.getrandbits(64):016x}"

    def _conversation(self, model: str) -> Json:
        said = [{"role": "user", "content": self._words()}]
        stream = self._dice.random() < 0.6
        body: Json = {"model": model, "messages": said, "stream": stream}
        if stream and self._dice.random() < 0.4:
            body["stream_options"] = {"include_usage": True}
        return body

    def _said(self, body: Json) -> Json:
        """Long and short, quick and slow, with tokens of every class; the provider tells what it used."""
        asked = tokenizer.count(body["messages"][0]["content"])
        fake: Json = {"length": self._dice.choice((1, 20, 60, 200))}
        if self._dice.random() < 0.3:
            fake["cached_tokens"] = self._dice.randint(1, asked // 2)
        if self._dice.random() < 0.15:
            fake["cache_write_tokens"] = self._dice.randint(1, asked // 4)
        if self._dice.random() < 0.15:
            fake["reasoning_tokens"] = self._dice.randint(1, 120)
        if self._dice.random() < 0.25:
            fake["tokens_percent"] = self._dice.randint(80, 130)
        if self._dice.random() < 0.5:
            fake["tokens_per_second"] = self._dice.choice((100, 400, 2_000))
        if self._dice.random() < 0.3:
            fake["delay_ms"] = self._dice.choice((5, 50, 300, 800))
        return fake

    def _words(self, most: int = 60) -> str:
        words = ("who", "did", "get", "our", "old", "new", "one", "for", "all", "the", "day", "and", "why", "not")
        return " ".join(self._dice.choices(words, k=self._dice.randint(8, most))) + "?"


_PARAMETERS: Json = {"type": "object", "properties": {"of": {"type": "string"}}, "required": ["of"]}


def _mixed(first: int) -> Iterator[Json]:
    """All texts in turn, for ever: next to one with many tokens for its length one with few, lest chance decide."""
    dense = sorted(_TEXTS, key=lambda sample: sample["tokens"] / len(sample["text"]))
    half = len(dense) // 2
    pairs = list(zip(dense[:half], reversed(dense[half:]), strict=True))
    return itertools.cycle(itertools.chain.from_iterable([*pairs[first % half :], *pairs[: first % half]]))


def trouble(seed: int, steps: int) -> list[Json]:
    """What a shaky backend does with its next calls: most are answered, the others must be tried elsewhere."""
    dice = random.Random(seed)
    faults: tuple[Json, ...] = (
        *({"status": status} for status in (429, 500, 502, 503, 529)),
        {"status": 429, "retry_after": 1},
        {"reset": "before"},
        {"reset": "head"},
    )
    return [dice.choice(faults) if dice.random() < 0.35 else {} for _ in range(steps)]
