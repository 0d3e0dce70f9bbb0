"""Gateways with limits for tests: each limit holds for models of its own, so that one gateway serves many tests."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway

Json = dict[str, Any]

INPUT, OUTPUT = 2_500, 10_000
"""What one token costs, in billionths: of input and of output."""

PRICE = {"input": 2.5, "output": 10}  # the same, per million tokens
FACES = {"openai": "", "azure": "-azure", "anthropic": "-claude"}
"""The models of a limit: its name with the ending of each dialect."""

CHAT = "/v1/chat/completions"
PATHS = {
    "openai": CHAT,
    "azure": "/openai/v1/chat/completions",
    "anthropic": "/v1/messages",
}
SAY = [{"role": "user", "content": "Hello!"}]


def limited(fake: FakeProvider, limits: Mapping[str, Json], **settings: Any) -> Json:
    """The settings of a gateway with these limits, each for its own models; `models` says what else these are.

    A limit that names its models itself is left as it is.
    """
    models = settings.pop("models", {})
    made: Json = {}
    written: Json = {}
    for name, limit in limits.items():
        own = {"price": PRICE, "max_output": 100, "min_output": 10, **models.pop(name, {})}
        made |= {name + ending: {"targets": [[{"backend": backend}]], **own} for backend, ending in FACES.items()}
        only = {"models": [name + ending for ending in FACES.values()], **limit.get("only", {})}
        written[name] = {**limit, "only": only}
    return {
        "backends": {
            "openai": {"dialect": "openai", "url": fake.url("openai")},
            "azure": {"dialect": "azure-openai", "url": fake.url("azure")},
            "anthropic": {"dialect": "anthropic", "url": fake.url("anthropic")},
        },
        "models": made | models,
        "policies": {"limits": written},
        **settings,
    }


def body(model: str, face: str = "openai", cap: int | None = 50, **fields: Any) -> Json:
    """A call of a face; `x_fake` among the fields tells the provider what to do."""
    name = "max_tokens" if face == "anthropic" else "max_completion_tokens"
    return {"model": model, "messages": SAY, **({} if cap is None else {name: cap}), **fields}


def served(answer: httpx.Response) -> httpx.Response:
    """The answer, which is no refusal."""
    assert answer.status_code == 200, answer.text
    return answer


class Client:
    """Calls of one key. Every call returns the whole answer."""

    def __init__(self, gateway: RunningGateway, key: str = "") -> None:
        self.gateway = gateway
        self._headers = {"authorization": f"Bearer {key or gateway.key}", "anthropic-version": "2023-06-01"}

    def call(
        self,
        model: str,
        face: str = "openai",
        cap: int | None = 50,
        headers: Mapping[str, str] | None = None,
        path: str = "",
        **fields: Any,
    ) -> httpx.Response:
        """A chat call with a cap on its output."""
        return httpx.post(
            self.gateway.url + (path or PATHS[face]),
            json=body(model, face, cap, **fields),
            headers=self._headers | dict(headers or {}),
            trust_env=False,
            timeout=30,
            verify=False,  # there is no TLS, and to read all authorities takes longer than the call
        )

    def probe(self, model: str, face: str = "openai", cap: int = 10) -> httpx.Response:
        """A call that the provider fails, so that nothing of it counts in the end: its headers tell of the others."""
        return self.call(model, face, cap, x_fake={"status": 500})

    def left(self, model: str, kind: str, face: str = "openai", of: Sequence[str] = ("input", "output")) -> int | None:
        """What is told of `requests`, `tokens` or `budget` (in billionths) beside a probe's own hold; None: refused.

        `of`: what the limit on tokens counts.
        """
        answer = self.probe(model, face)
        if answer.status_code != 500:
            return None
        held = self.record(answer)["held"]
        if kind == "budget":
            return nano(answer.headers["x-sluice-budget-remaining"]) + int(held["money"])
        name = f"anthropic-ratelimit-{kind}-remaining" if face == "anthropic" else f"x-ratelimit-remaining-{kind}"
        return int(answer.headers[name]) + (1 if kind == "requests" else sum(held[side] for side in of))

    def record(self, answer: httpx.Response) -> Json:
        return self.gateway.record(answer.headers["x-request-id"])


def spent(answers: Iterable[httpx.Response]) -> tuple[int, int]:
    """Tokens of input and of output that the provider told of whole JSON answers of the OpenAI face."""
    told = [answer.json()["usage"] for answer in answers]
    return sum(usage["prompt_tokens"] for usage in told), sum(usage["completion_tokens"] for usage in told)


def nano(amount: str) -> int:
    """An amount of money as headers write it, in billionths."""
    whole, _, part = amount.partition(".")
    return int(whole) * 10**9 + int(part.ljust(9, "0"))


def seconds(duration: str) -> float:
    """A duration as OpenAI writes it: 12ms, 2.5s, 6m0s, 1h2m3s. Fails where it is written otherwise."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?", duration)
    assert found, duration
    assert duration
    hours, minutes, whole, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + whole + milliseconds / 1000
