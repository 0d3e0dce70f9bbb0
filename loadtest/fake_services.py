"""Deterministic fakes of the services that policies ask: `python -m loadtest.fake_services --listen NAME=PORT`.

One port serves all of them: OpenAI's moderation and embeddings, Azure Content Safety and a Presidio analyzer. What they
think of a text stands in it: `[violence 0.7]` is that score for OpenAI, `[Violence 4]` that severity for Azure; names
are those of NAMES. Two texts are as near as they share words. Records, scripts of faults and the control paths are
those of `loadtest.fake_llm`.
"""

import argparse
import asyncio
import hashlib
import math
import re
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import orjson
import uvloop

from loadtest.fake_llm import faults
from loadtest.fake_llm.answer import Answer, Json
from loadtest.fake_llm.connection import Connection
from loadtest.fake_llm.delivery import deliver
from loadtest.fake_llm.faults import Faults
from loadtest.fake_llm.instance import Instance
from loadtest.fake_llm.provider import Request
from loadtest.fake_llm.recorder import Call, Recorder

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "Ada Lovelace": "PERSON",
        "Zoë Åkesson": "PERSON",
        "毛泽东": "PERSON",
        "Reykjavík": "LOCATION",
        "Timbuktu": "LOCATION",
        "Umbrella Corporation": "ORGANIZATION",
    }
)
"""The names that the analyzer knows, and what they are."""

NAME_SCORE = 0.85
AZURE_LONGEST = 10_000  # characters of one text
DIMENSIONS = 256  # of a vector

_OPENAI_CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent"),
    *("self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors"),
    *("violence", "violence/graphic"),
)
_AZURE_CATEGORIES = ("Hate", "SelfHarm", "Sexual", "Violence")
_FLAGGED_FROM = 0.5
_MARK = re.compile(r"\[([A-Za-z/-]+) ([0-9]+(?:\.[0-9]+)?)\]")


class _Refused(Exception):
    """A question that the service does not answer."""


def answer(request: Request, instance: Instance) -> tuple[Answer, Faults]:
    """Answer a question, and say which faults of the script its delivery shall have."""
    suffered = instance.script.popleft() if instance.script else faults.NONE
    if suffered.error_body is not None:
        return Answer(suffered.status or 200, suffered.error_body.encode(), suffered.error_content_type), suffered
    if suffered.status not in (None, 200):
        return _error(suffered.status or 500, "The fake was asked to answer this."), suffered
    operation = _OPERATIONS.get(request.path)
    if operation is None or request.method != "POST":
        return _error(404, "Resource not found"), suffered
    try:
        return Answer(body=orjson.dumps(operation(request, orjson.loads(request.body)))), suffered
    except (_Refused, orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as problem:
        return _error(400, f"{type(problem).__name__}: {problem}"), suffered


def _error(status: int, message: str) -> Answer:
    return Answer(status, orjson.dumps({"error": {"code": str(status), "message": message}}))


def _marks(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in _MARK.findall(text)}


def _openai(_request: Request, fields: Json) -> Json:
    given = fields["input"]
    texts = given if isinstance(given, list) else [given]
    return {
        "id": "modr-1",
        "model": fields.get("model", "omni-moderation-latest"),
        "results": [_judged(text if isinstance(text, str) else text["text"]) for text in texts],
    }


def _judged(text: str) -> Json:
    marks = _marks(text)
    scores = {name: marks.get(name, 0.0001) for name in _OPENAI_CATEGORIES}
    categories = {name: score >= _FLAGGED_FROM for name, score in scores.items()}
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": {name: ["text"] for name in _OPENAI_CATEGORIES},
    }


def _azure(request: Request, fields: Json) -> Json:
    if "api-version=" not in request.query:
        raise _Refused("api-version is required")
    text = fields["text"]
    if len(text) > AZURE_LONGEST:
        raise _Refused(f"text is longer than {AZURE_LONGEST} characters")
    marks = _marks(text)
    wanted = fields.get("categories") or _AZURE_CATEGORIES
    return {
        "blocklistsMatch": [],
        "categoriesAnalysis": [{"category": name, "severity": int(marks.get(name, 0))} for name in wanted],
    }


def _presidio(_request: Request, fields: Json) -> list[Json]:
    text, least, wanted = fields["text"], fields.get("score_threshold") or 0, fields.get("entities")
    if not text or not fields["language"]:
        raise _Refused("No text or language provided")
    found = [
        {"entity_type": entity, "start": match.start(), "end": match.end(), "score": NAME_SCORE}
        for name, entity in NAMES.items()
        for match in re.finditer(re.escape(name), text)
        if (not wanted or entity in wanted) and least <= NAME_SCORE
    ]
    return [{"analysis_explanation": None, **one} for one in found]


def _embeddings(_request: Request, fields: Json) -> Json:
    given = fields["input"]
    texts = given if isinstance(given, list) else [given]
    if not all(texts) or not fields["model"]:
        raise _Refused("input or model is empty")
    data = [{"object": "embedding", "index": at, "embedding": vector(text)} for at, text in enumerate(texts)]
    tokens = sum(len(text) // 4 + 1 for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": fields["model"], "usage": usage}


def vector(text: str) -> list[float]:
    """The sum of what each word points at, of length one."""
    numbers = [0.0] * DIMENSIONS
    for word in re.findall(r"\w+", text.lower()) or [text]:
        drawn = hashlib.shake_256(word.encode()).digest(DIMENSIONS)
        numbers = [number + byte - 127.5 for number, byte in zip(numbers, drawn, strict=True)]
    length = math.hypot(*numbers)
    return [round(number / length, 6) for number in numbers]


_OPERATIONS: Mapping[str, Callable[[Request, Json], Json | list[Json]]] = MappingProxyType(
    {
        "/v1/moderations": _openai,
        "/v1/embeddings": _embeddings,
        "/contentsafety/text:analyze": _azure,
        "/analyze": _presidio,
    }
)


# ---- the process ---------------------------------------------------------------------------------------


class _Connection(Connection):
    """A connection of the fake provider's kind, on which services answer."""

    async def _answer_call(self, incoming: Any, call: Call) -> None:
        given, suffered = answer(incoming.request(), self._instance)
        await asyncio.sleep((suffered.delay_ms or 0) / 1000)
        await deliver(given, suffered, self, call, keep_alive=incoming.keep_alive)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.fake_services",
        description="Deterministic fakes of OpenAI's moderation and embeddings, Azure Content Safety and Presidio.",
    )
    parser.add_argument(
        "--listen", action="append", default=[], metavar="NAME=PORT", help="a named instance (0: a free port)"
    )
    named = [one.partition("=") for one in parser.parse_args().listen or ["services=8091"]]
    uvloop.run(_serve([(name, int(port)) for name, _, port in named]))


async def _serve(named: list[tuple[str, int]]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    connections: set[Connection] = set()
    servers = []
    for name, port in named:
        instance = Instance(name, Recorder())
        try:
            server = await loop.create_server(partial(_Connection, instance, connections), "127.0.0.1", port)
        except OSError as problem:
            sys.exit(f"cannot listen on port {port} ({name}): {problem}")
        servers.append(server)
        print(f"fake provider ready on 127.0.0.1:{server.sockets[0].getsockname()[1]} ({name})", flush=True)
    await stop.wait()
    for server in servers:
        server.close()
    for connection in list(connections):
        connection.abort()


if __name__ == "__main__":
    main()
