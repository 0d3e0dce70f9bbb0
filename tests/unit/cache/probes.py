"""Requests that are made up, changed a little, and written in many ways; and what they are, told independently."""

import json
import random
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from extproc.cache.question import Partition
from extproc.surfaces import Surface

Body = dict[str, Any]

TOLD = {
    Surface.CHAT: {"model", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"},
    Surface.COMPLETIONS: {"model", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"},
    Surface.EMBEDDINGS: {"model", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"},
    Surface.MESSAGES: {"model", "metadata"},
    Surface.RESPONSES: {"model"},
}
"""Top-level fields that tell two calls apart for people, and not for the cache."""

_WORDS = (
    "hi",
    "Hi",
    "hi ",
    "",
    "caf\u00e9",
    "cafe\u0301",
    "\u212b",
    "1",
    "a\u2028b",
    "\U0001f44b",
    '"',
    "\\u0041",
    "x" * 40,
)
_NUMBERS = (0, 1, -1, 0.0, -0.0, 1.0, 0.1, 0.25, 1e-7, 12, 2**53, 2**53 + 1, 2**63 - 1)
_IMAGES = tuple("data:image/png;base64," + data * 20 for data in ("iVBORw0KGgoA", "iVBORw0KGgoB"))
_KEYS = ("seed", "top_p", "stop", "logit_bias", "new", "max_tokens", "stream", "reasoning", "k", "d")


@dataclass(frozen=True, slots=True)
class Probe:
    """One call: who asks, under what, and what."""

    partition: Partition
    surface: Surface
    body: Body

    def told(self) -> Hashable:
        """What it is, without what does not matter."""
        said = {name: value for name, value in self.body.items() if name not in TOLD[self.surface]}
        return self.partition, self.surface, plain(said)


def plain(value: object) -> Hashable:
    """A value of JSON as one that is equal to exactly those that mean the same to every reader."""
    if isinstance(value, dict):
        return "object", frozenset((key, plain(inner)) for key, inner in value.items())
    if isinstance(value, list):
        return "list", tuple(map(plain, value))
    return type(value).__name__, repr(value)


# ---- making them up ---------------------------------------------------------------------------------


def probe(dice: random.Random) -> Probe:
    surface = dice.choice(list(_MADE))
    body = _MADE[surface](dice)
    for name in dice.sample(_KEYS, dice.randrange(4)):
        body[name] = _value(dice)
    body["model"] = dice.choice(("m", "n"))
    return Probe(_partition(dice, surface), surface, body)


def _partition(dice: random.Random, surface: Surface) -> Partition:
    return Partition(
        tenant=dice.choice(("team a", "team b", "key a", "")),
        policy=dice.choice(("p", "q")),
        model=dice.choice(("m", "n")),
        surface=surface.value,
        asked=dice.choice(
            ((), (("api-version", "1"),), (("api-version1", ""),), (("a", "b"), ("c", "d")), (("a", "bcd"),))
        ),
    )


def _value(dice: random.Random, depth: int = 0) -> Any:
    match dice.randrange(6 if depth < 3 else 4):
        case 0:
            return dice.choice(_WORDS)
        case 1:
            return dice.choice(_NUMBERS)
        case 2:
            return dice.choice((True, False, None))
        case 3:
            return dice.choice(([], {}))
        case 4:
            return [_value(dice, depth + 1) for _ in range(dice.randrange(4))]
        case _:
            return {name: _value(dice, depth + 1) for name in dice.sample(_KEYS, dice.randrange(4))}


def _messages(dice: random.Random, part: str = "text") -> list[Body]:
    roles = dice.choice((("user",), ("system", "user"), ("user", "assistant", "user"), ("user", "assistant")))
    return [{"role": role, "content": _content(dice, part)} for role in roles]


def _content(dice: random.Random, part: str) -> Any:
    if dice.random() < 0.6:
        return dice.choice(_WORDS)
    parts: list[Body] = [{"type": part, "text": dice.choice(_WORDS)} for _ in range(dice.randrange(1, 3))]
    if part == "text" and dice.random() < 0.5:
        parts.append({"type": "image_url", "image_url": {"url": dice.choice(_IMAGES)}})
    return parts


def _schema(dice: random.Random) -> Body:
    return {"type": "object", "properties": {name: {"type": "string"} for name in dice.sample(_KEYS, 2)}}


def _maybe(dice: random.Random, name: str, values: tuple[Any, ...]) -> Body:
    return {name: dice.choice(values)} if dice.random() < 0.5 else {}


def _chat(dice: random.Random) -> Body:
    tool = {"type": "function", "function": {"name": dice.choice("fg"), "parameters": _schema(dice)}}
    formats = ({"type": "text"}, {"type": "json_object"}, {"type": "json_schema", "json_schema": _schema(dice)})
    return {
        "messages": _messages(dice),
        **_maybe(dice, "temperature", (0, 0.0, 0.1, 0.10000000000000002, None)),
        **_maybe(dice, "tools", ([tool], [tool, tool], [])),
        **_maybe(dice, "response_format", formats),
        **_maybe(dice, "user", ("ann", "bob")),
    }


def _completion(dice: random.Random) -> Body:
    return {
        "prompt": dice.choice(("hi", ["hi"], ["hi", "ho"], [1, 2], [[1], [2]], [[1, 2]])),
        **_maybe(dice, "echo", (True, False)),
    }


def _embedding(dice: random.Random) -> Body:
    return {"input": dice.choice(("1", ["1"], [1], [[1]], ["1", "2"], ["12"])), **_maybe(dice, "dimensions", (1, 2))}


def _response(dice: random.Random) -> Body:
    given = dice.choice(_WORDS) if dice.random() < 0.4 else _messages(dice, "input_text")
    return {
        "store": False,
        "input": given,
        **_maybe(dice, "instructions", _WORDS),
        **_maybe(dice, "user", ("ann", "bob")),
    }


def _message(dice: random.Random) -> Body:
    tool = {"name": dice.choice("fg"), "input_schema": _schema(dice)}
    return {
        "messages": _messages(dice),
        **_maybe(dice, "system", (*_WORDS, [{"type": "text", "text": "hi"}])),
        **_maybe(dice, "tools", ([tool], [])),
        **_maybe(dice, "metadata", ({"user_id": "ann"}, {"user_id": "bob"})),
    }


_MADE: dict[Surface, Callable[[random.Random], Body]] = {
    Surface.CHAT: _chat,
    Surface.COMPLETIONS: _completion,
    Surface.EMBEDDINGS: _embedding,
    Surface.RESPONSES: _response,
    Surface.MESSAGES: _message,
}


# ---- changing and writing them ----------------------------------------------------------------------


def changed(dice: random.Random, given: Probe) -> Probe:
    """With one thing changed: who asks, or any value at any depth. What results may say the same as before."""
    if dice.random() < 0.2:
        other = _partition(dice, given.surface)
        name = dice.choice(("tenant", "policy", "model", "surface", "asked"))
        change: dict[str, Any] = {name: "other" if name == "surface" else getattr(other, name)}
        return replace(given, partition=given.partition._replace(**change))
    body: Body = json.loads(json.dumps(given.body))
    if body:
        _change(dice, *dice.choice(list(_places(body))))
    return replace(given, body=body)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _change(dice: random.Random, holder: Any, key: Any) -> None:
    match dice.randrange(6):
        case 0:
            del holder[key]
        case 1:
            holder[key] = _like(dice, holder[key])
        case 2:
            holder[key] = [holder[key]]
        case 3 if isinstance(holder, list):
            dice.shuffle(holder)
        case 4 if isinstance(holder, dict):
            holder[dice.choice(_KEYS)] = holder[key]
        case _:
            holder[key] = _value(dice)


def _like(dice: random.Random, value: Any) -> Any:
    """Something that is easily taken for the same."""
    if isinstance(value, bool) or value is None:
        return dice.choice((True, False, None, 0, 1, "true", "null"))
    if isinstance(value, int | float):
        return dice.choice((float(value), str(value), -value, value + 1, bool(value)))
    if isinstance(value, str):
        return dice.choice((value + " ", value.upper(), " " + value, value + "\u200b", [value], dice.choice(_WORDS)))
    return dice.choice(([], {}, None, json.dumps(value)))


def written(dice: random.Random, given: Probe) -> bytes:
    """The body as one of many writers would write it, in any order, with other people's names on it."""
    body = dict(given.body)
    for name in TOLD[given.surface]:
        if dice.random() < 0.3:
            body.pop(name, None)
        elif dice.random() < 0.3:
            body[name] = {"user_id": dice.choice(_WORDS)} if name == "metadata" else dice.choice(_WORDS)
    spaces = dice.choice(((",", ":"), (", ", ": "), (" ,\n", "\t: ")))
    text = json.dumps(
        _shuffled(dice, body), ensure_ascii=dice.random() < 0.5, separators=spaces, indent=dice.choice((None, None, 1))
    )
    return (dice.choice(("", " ", "\r\n")) + text + dice.choice(("", "\n"))).encode()


def _shuffled(dice: random.Random, value: Any) -> Any:
    if isinstance(value, dict):
        names = list(value)
        dice.shuffle(names)
        return {name: _shuffled(dice, value[name]) for name in names}
    return [_shuffled(dice, inner) for inner in value] if isinstance(value, list) else value
