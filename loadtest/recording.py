"""What Envoy tells a worker of a call of each kind, kept as it came: `python -m loadtest.recording` records it anew.

A worker with all policies on, beside a real Envoy, writes down what it is told of the calls and of the attempts, and
Envoy's own records of both. `loadtest.cost` tells it to a worker again, as often as it likes.
"""

import argparse
import asyncio
import base64
import json
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from extproc.adapter import server
from extproc.adapter.server import Server
from extproc.app import run_worker
from extproc.config.revision import Revision
from extproc.interpreter import python
from loadtest import load
from loadtest.bench_budget import redis_server
from loadtest.setups import Instead, policies, provider, setup
from protos.access_log_pb2 import StreamAccessLogsMessage
from protos.ext_proc_pb2 import ProcessingRequest

FILE = Path(__file__).with_name("results") / "recording.json"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of call. `looks`: its prompt has personal data, and its answer is restored and redacted."""

    stream: bool = False
    model: str = load.MODEL
    looks: bool = False


KINDS = {
    "json": Kind(),
    "sse": Kind(stream=True),
    "translated": Kind(model="anthropic"),
    "restored": Kind(stream=True, looks=True),
}

LOOKING: dict[str, Any] = {"entities": {"DEFAULT": "placeholder"}, "output": {"SECRET": "mask"}}
"""A policy of redaction that puts values back into answers, and takes secrets out of them."""
_PROMPT = (
    f"{load.WORD.decode()} words what ann.lee@example.com and +41 44 668 18 00 ask of a gateway. "
    + "Then say what a gateway does for the calls that pass it, and why. " * 14
)

_TOLD_WITHIN = 3.0  # seconds after the end of a call, Envoy has told its records of it
_PATIENCE = 20.0


@dataclass(slots=True)
class Told:
    """All messages of one stream, as they were on the wire, and its metadata."""

    role: str  # of whom Envoy asked: `call`, `attempt` or `log`
    metadata: list[tuple[str, str]]
    messages: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a worker is told of one call.

    `attempt` is for the translator, with `metadata` of its stream. `logs`: a message of one record each, the first of a
    stream.
    """

    request_id: str
    call: list[bytes]
    logs: list[bytes]
    attempt: list[bytes] = field(default_factory=list)
    metadata: list[tuple[str, str]] = field(default_factory=list)


def _bytes_out(value: Any) -> Any:
    return base64.b64encode(value).decode()


def read(path: Path = FILE) -> dict[str, Recorded]:
    """What was recorded, by the names of KINDS."""
    return {kind: _recorded(**told) for kind, told in json.loads(path.read_text()).items()}


def _recorded(request_id: str, metadata: list[Any], **messages: list[str]) -> Recorded:
    decoded = {name: [base64.b64decode(one) for one in several] for name, several in messages.items()}
    return Recorded(request_id, metadata=[(name, value) for name, value in metadata], **decoded)


# ---- the worker that writes down what it is told ---------------------------------------------------------


class _Overheard:
    """A stream whose messages are kept as they come."""

    def __init__(self, role: str, stream: Any, told: list[Told]) -> None:
        self._stream = stream
        self._told = Told(role, [(str(name), str(value)) for name, value in stream.invocation_metadata()])
        told.append(self._told)

    async def read(self) -> Any:
        message = await self._stream.read()
        if isinstance(message, ProcessingRequest | StreamAccessLogsMessage):
            self._told.messages.append(message.SerializeToString())
        return message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Listening(Server):
    """Serves as any worker, and writes what it was told into a file when it stops."""

    def __init__(self, file: Path, path: str, processor: Any, access_log: Any, *more: Any, **named: Any) -> None:
        self._file = file
        self._told: list[Told] = []
        processor.process = self._overheard("call", processor.process)
        access_log.stream = self._overheard("log", access_log.stream)
        server.translate = self._overheard("attempt", server.translate)  # type: ignore[attr-defined]
        super().__init__(path, processor, access_log, *more, **named)

    def _overheard(self, role: str, serve: Any) -> Any:
        async def overheard(requests: object, stream: Any) -> Any:
            return await serve(requests, _Overheard(role, stream, self._told))

        return overheard

    async def stop(self, grace: float, notice: float = 0.0) -> None:
        await super().stop(grace, notice)
        self._file.write_text(json.dumps([asdict(told) for told in self._told], default=_bytes_out))


def _serve(file: Path, path: str) -> None:
    revision = Revision.model_validate_json(sys.stdin.buffer.readline())
    uvloop.run(run_worker(revision, path, True, asyncio.Queue(), serves=partial(_Listening, file)))


# ---- recording -------------------------------------------------------------------------------------------


def record(kinds: Sequence[str]) -> dict[str, Recorded]:
    """One call of each of these kinds through a real Envoy."""
    found: dict[str, Recorded] = {}
    for looks in (False, True):
        found |= _recorded_by_one([kind for kind in kinds if KINDS[kind].looks == looks], looks)
    return found


def _recorded_by_one(kinds: Sequence[str], looks: bool) -> dict[str, Recorded]:
    """The calls of these kinds, by one gateway with the policies that they have."""
    if not kinds:
        return {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench-")))
        redis, (_, fake) = stack.enter_context(redis_server()).url, provider(stack)
        listening = python("loadtest.recording", "--serve", str(folder / "told"))
        records = (folder / "records").open("wb")
        more = governing(folder / "C", redis, looks)
        running = setup(stack, "C", folder / "C", fake, records, more, instead=Instead(listening))
        time.sleep(_TOLD_WITHIN)
        for kind in kinds:
            _call(running.port, _request(KINDS[kind]))
        time.sleep(_TOLD_WITHIN)
        if running.policy is not None:
            running.policy.terminate()
            running.policy.wait(_PATIENCE)
        told = [
            Told(one["role"], one["metadata"], [base64.b64decode(message) for message in one["messages"]])
            for one in json.loads((folder / "told").read_text())
        ]
    return dict(zip(kinds, _calls(told)[-len(kinds) :], strict=True))


def governing(folder: Path, stores: str, looks: bool) -> dict[str, Any]:
    """The policies of a gateway that serves calls which are looked through, or others."""
    found = policies(folder, stores)
    if looks:
        found["policies"]["redaction"] = {"default": LOOKING}
    return found


def _request(kind: Kind) -> bytes:
    if kind.looks:
        return load.request(kind.stream, kind.model, prompt=_PROMPT)
    return load.request(kind.stream, kind.model)


def _call(port: int, request: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as connection:
        connection.sendall(request)
        answer = load.Answer()
        while not answer.feed(connection.recv(1 << 16)):
            pass


def _calls(told: Sequence[Told]) -> list[Recorded]:
    """All that was told of each call, in the order of the calls."""
    calls = []
    for one in told:
        if one.role == "call":
            request_id = _request_id(one.messages[0])
            attempts = [
                other for other in told if other.role == "attempt" and _request_id(other.messages[0]) == request_id
            ]
            attempt = attempts[0] if attempts else Told("attempt", [])
            calls.append(
                Recorded(request_id, _apart(one.messages), _logs(told, request_id), attempt.messages, attempt.metadata)
            )
    return calls


def _apart(messages: Sequence[bytes]) -> list[bytes]:
    """Each event of a stream as a message of its own: a busy machine is told of several at once."""
    apart = []
    for message in messages:
        told = ProcessingRequest.FromString(message)
        events = told.response_body.body.split(b"\n\n")
        if len(events) == 1:
            apart.append(message)
            continue
        for event in events[:-1]:
            one = ProcessingRequest.FromString(message)
            one.response_body.body = event + b"\n\n"
            one.response_body.end_of_stream = False
            apart.append(one.SerializeToString())
        told.response_body.body = events[-1]
        if events[-1] or told.response_body.end_of_stream:
            apart.append(told.SerializeToString())
    return apart


def _request_id(message: bytes) -> str:
    headers = ProcessingRequest.FromString(message).request_headers.headers.headers
    return next((header.raw_value.decode() for header in headers if header.key == "x-request-id"), "")


def _logs(told: Sequence[Told], request_id: str) -> list[bytes]:
    found = []
    for one in told:
        if one.role != "log" or not one.messages:
            continue
        messages = [StreamAccessLogsMessage.FromString(message) for message in one.messages]
        for message in messages:
            for entry in message.http_logs.log_entry:
                if entry.request.request_id == request_id:
                    alone = StreamAccessLogsMessage()
                    alone.identifier.log_name = messages[0].identifier.log_name  # without all that Envoy says of itself
                    alone.http_logs.log_entry.append(entry)
                    found.append(alone.SerializeToString())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.recording", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--serve", type=Path, metavar="FILE", help="be the worker that listens")
    parser.add_argument("socket", nargs="?", default="", help="of that worker")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="others stay as they are")
    options = parser.parse_args()
    if options.serve is not None:
        _serve(options.serve, options.socket)
        return
    known = json.loads(FILE.read_text())
    known |= {kind: asdict(one) for kind, one in record(options.kinds).items()}
    FILE.write_text(json.dumps(known, indent=1, default=_bytes_out) + "\n")


if __name__ == "__main__":
    main()
