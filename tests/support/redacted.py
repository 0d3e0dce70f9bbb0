"""Gateways that redact, for tests: own values of every kind, a team for each policy, and how each API is talked to."""

import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

from extproc.stores.ports import AreaRecord, ChangeSet
from tests.dataplane.conftest import SECRETS, standard_settings
from tests.dataplane.test_directory import Desk, team
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway
from tests.support.sdk import Answer

Json = dict[str, Any]

# ---- values -------------------------------------------------------------------------------------------

EMAIL = "anna.muster@corp-mail.ch"
PHONE = "+41 44 668 18 00"
CARD = "4111 1111 1111 1111"
_LINE = "MIIBVgIBADANBgkq" * 4
PRIVATE_KEY = f"-----BEGIN PRIVATE KEY-----\n{_LINE}\n{_LINE[::-1]}\n-----END PRIVATE KEY-----"
"""With line feeds, which JSON has to escape."""
VALUES: Mapping[str, str] = {
    "EMAIL_ADDRESS": EMAIL,
    "PHONE_NUMBER": PHONE,
    "CREDIT_CARD": CARD,
    "IBAN_CODE": "CH93 0076 2011 6238 5295 7",
    "US_SSN": "536-90-4399",
    "IP_ADDRESS": "185.12.64.1",
    "CRYPTO": "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2",
    "GITHUB_TOKEN": "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
}
"""One of each kind that is looked for without being asked."""
_PROSE = (
    "Write to {EMAIL_ADDRESS} or call {PHONE_NUMBER}, pay with card {CREDIT_CARD} or from {IBAN_CODE} (SSN {US_SSN}), "
    "the host is {IP_ADDRESS}, the wallet {CRYPTO}, and the token {GITHUB_TOKEN} opens it"
)
PROSE = _PROSE.format(**VALUES)
"""All of them in one text."""
REDACTED = _PROSE.format(**{entity: f"<{entity}_1>" for entity in VALUES})
"""What of it leaves under a policy that says nothing else."""


def with_each(form: str) -> str:
    """The prose with this in the place of each value, `{}` in it being the entity."""
    return _PROSE.format(**{entity: form.format(entity) for entity in VALUES})


def leaks(text: str) -> list[str]:
    """The entities whose values stand in the text as they are, or as JSON writes them."""
    return [entity for entity, value in VALUES.items() if value in text or json.dumps(value)[1:-1] in text]


# ---- gateway ------------------------------------------------------------------------------------------

HASH_KEY = "h" * 32
POLICIES: Mapping[str, Json] = {
    "default": {},
    "mask": {"entities": {"DEFAULT": "mask"}},
    "hash": {"entities": {"DEFAULT": "hash"}, "hash_key": {"env": "HASH_KEY"}},
    "hash-too": {"entities": {"DEFAULT": "hash"}, "hash_key": {"env": "HASH_KEY"}},
    "drop": {"entities": {"DEFAULT": "drop"}},
    "block": {"entities": {"DEFAULT": "block"}},
    "flag": {"entities": {"DEFAULT": "flag"}},
    "mixed": {"entities": {"EMAIL_ADDRESS": "placeholder", "PHONE_NUMBER": "mask", "CREDIT_CARD": "off"}},
    "shadow": {"mode": "shadow", "entities": {"DEFAULT": "block"}, "output": {"DEFAULT": "block"}},
    "off": {"mode": "off", "entities": {"DEFAULT": "block"}},
    "strict": {"max_text": 1024},
    "lenient": {"max_text": 1024, "on_error": "allow"},
    "shadow-strict": {"mode": "shadow", "max_text": 1024},
    "whole": {"stateful": "refuse"},
    "masked-answers": {"output": {"DEFAULT": "mask"}},
    "blocked-answers": {"output": {"DEFAULT": "block"}},
    "flagged-answers": {"output": {"DEFAULT": "flag"}},
    "words": {"deny": {"PROJECT": ["Blue Heron"]}, "allow": ["support@corp-mail.ch"]},
}
"""A team of the same name has each of them, but the default one: its callers have no team."""
LEASED = "gpt-4o-mini"
"""A model whose streams go on slice by slice: its limit has no room for its longest answer."""
_LIMITS = {"lease": {"tokens": 15_000, "per": "hour", "when_short": "lease", "only": {"models": [LEASED]}}}
LOST = "lost"
"""A team that names a policy that is not there."""


@dataclass(frozen=True)
class Redacting:
    """A gateway with these policies, its fake provider, and a key for each team."""

    gateway: RunningGateway
    fake: FakeProvider
    keys: Mapping[str, str]

    def bodies(self, backend: str = "openai") -> list[str]:
        """All that a provider got."""
        return [b64decode(call["body_base64"]).decode() for call in self.fake.calls(backend)]

    def raw(self, backend: str = "openai") -> str:
        """The last of them."""
        return self.bodies(backend)[-1]

    def sent(self, backend: str = "openai") -> Json:
        """What it says."""
        body: Json = json.loads(self.raw(backend))
        return body

    def redaction(self, answer: Answer) -> Json:
        """What the record of a call tells about redaction."""
        told: Json = self.gateway.record(answer.request_id)["redaction"]
        return told

    def everything_told(self) -> str:
        """All records, all logs and all metrics as one text."""
        told = [self.gateway.records(kind) for kind in ("call", "attempt", "listener", "log")]
        return "\n".join([json.dumps(told, ensure_ascii=False), self.gateway.metrics()])


@contextmanager
def redacting(fake: FakeProvider, **settings: Any) -> Iterator[Redacting]:
    """Such a gateway on the fake of the tier."""
    policies = {"redaction": dict(POLICIES), "limits": _LIMITS}
    given = standard_settings(fake) | {"policies": policies} | settings
    with RunningGateway(given, {**SECRETS, "HASH_KEY": HASH_KEY}) as gateway:
        desk = Desk(gateway)
        names = [name for name in (*POLICIES, LOST) if name != "default"]
        teams = tuple(team(name, redaction="gone" if name == LOST else name) for name in names)
        desk.apply(ChangeSet(areas=(AreaRecord("science", ()),), teams=teams))
        keys = {name: desk.minted(name, name) for name in names[1:]}
        keys[names[0]] = desk.key(names[0], names[0])  # waits until the gateway knows all
        yield Redacting(gateway, fake, {"default": gateway.key, **keys})


# ---- talking ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Talk:
    """An operation of an SDK that says a text. `opening` events of its stream come before the first word.

    `said` are the texts of an answer, and `arguments` those of its tool calls, put together where it was streamed.
    """

    name: str
    door: str
    backend: str
    operation: str
    fields: Callable[[str], Json]
    said: Callable[[Answer, bool], list[str]]
    opening: int
    arguments: Callable[[Answer, bool], list[str]] = lambda _answer, _stream: []
    ended: Callable[[Answer, bool], str] = lambda _answer, _stream: ""


def _chat_pieces(answer: Answer, stream: bool) -> Iterator[tuple[int, Any]]:
    """The messages or deltas with the index of their choice."""
    if not stream:
        yield from ((choice.index, choice.message) for choice in answer.value.choices)
    else:
        choices = chain.from_iterable(chunk.choices for chunk in answer.value)
        yield from ((choice.index, choice.delta) for choice in choices)


def _chat_said(answer: Answer, stream: bool) -> list[str]:
    texts: dict[int, str] = {}
    for index, piece in _chat_pieces(answer, stream):
        texts[index] = texts.get(index, "") + (piece.content or "")
    return [texts[index] for index in sorted(texts)]


def _chat_arguments(answer: Answer, stream: bool) -> list[str]:
    texts: dict[tuple[int, int], str] = {}
    for choice, piece in _chat_pieces(answer, stream):
        for place, call in enumerate(piece.tool_calls or ()):
            at = choice, call.index if stream else place
            texts[at] = texts.get(at, "") + (call.function.arguments or "")
    return [texts[at] for at in sorted(texts)]


def _chat_ended(answer: Answer, stream: bool) -> str:
    parts = answer.value if stream else [answer.value]
    reasons = [choice.finish_reason for part in parts for choice in part.choices if choice.finish_reason]
    return ",".join(reasons)


def _completion_said(answer: Answer, stream: bool) -> list[str]:
    texts: dict[int, str] = {}
    for part in answer.value if stream else [answer.value]:
        for choice in part.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    return [texts[index] for index in sorted(texts)]


def _response(answer: Answer, stream: bool) -> Any:
    """The whole response, of a stream as its last event has it. Their numbers rise."""
    if not stream:
        return answer.value
    numbers = [event.sequence_number for event in answer.value]
    assert numbers == sorted(set(numbers))
    return answer.value[-1].response


def _response_said(answer: Answer, stream: bool) -> list[str]:
    messages = [item for item in _response(answer, stream).output if item.type == "message"]
    texts = [part.text for message in messages for part in message.content]
    if stream:
        deltas = [event.delta for event in answer.value if event.type == "response.output_text.delta"]
        done = [event.text for event in answer.value if event.type == "response.output_text.done"]
        assert ["".join(deltas)] == done == texts
    return texts


def _response_arguments(answer: Answer, stream: bool) -> list[str]:
    calls = [item.arguments for item in _response(answer, stream).output if item.type == "function_call"]
    if stream:
        deltas: dict[int, str] = {}
        for event in answer.value:
            if event.type == "response.function_call_arguments.delta":
                deltas[event.output_index] = deltas.get(event.output_index, "") + event.delta
        assert list(deltas.values()) == calls
    return calls


def _response_ended(answer: Answer, stream: bool) -> str:
    response = _response(answer, stream)
    return response.incomplete_details.reason if response.status == "incomplete" else str(response.status)


def _message_blocks(answer: Answer, stream: bool, kind: str) -> list[str]:
    """The texts, or the arguments, of the blocks of a kind: "text" or "tool_use"."""
    if not stream:
        blocks = [block for block in answer.value.content if block.type == kind]
        return [block.text if kind == "text" else json.dumps(block.input) for block in blocks]
    texts: dict[int, str] = {}
    for event in answer.value:
        if event.type == "content_block_start" and event.content_block.type == kind:
            texts[event.index] = ""
        elif event.type == "content_block_delta" and event.index in texts:
            texts[event.index] += event.delta.text if kind == "text" else event.delta.partial_json
    assert answer.value[-1].type == "message_stop"
    return list(texts.values())


def _message_ended(answer: Answer, stream: bool) -> str:
    if not stream:
        return str(answer.value.stop_reason)
    return ",".join(str(event.delta.stop_reason) for event in answer.value if event.type == "message_delta")


CHAT = Talk(
    "chat",
    "openai",
    "openai",
    "chat.completions.create",
    lambda text: {"model": "gpt-4o", "messages": [{"role": "user", "content": text}]},
    _chat_said,
    1,
    _chat_arguments,
    _chat_ended,
)
COMPLETIONS = Talk(
    "completions",
    "openai",
    "openai",
    "completions.create",
    lambda text: {"model": "gpt-4o", "prompt": text, "max_tokens": 1000},
    _completion_said,
    0,
    ended=_chat_ended,
)
RESPONSES = Talk(
    "responses",
    "openai",
    "openai",
    "responses.create",
    lambda text: {"model": "gpt-4o", "input": text},
    _response_said,
    4,
    _response_arguments,
    _response_ended,
)
MESSAGES = Talk(
    "messages",
    "anthropic",
    "anthropic",
    "messages.create",
    lambda text: {
        "model": "claude-sonnet-5-5",
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": text}],
    },
    lambda answer, stream: _message_blocks(answer, stream, "text"),
    3,
    lambda answer, stream: _message_blocks(answer, stream, "tool_use"),
    _message_ended,
)
TALKS = {talk.name: talk for talk in (CHAT, COMPLETIONS, RESPONSES, MESSAGES)}
