"""What an instance saw: a record for each call, and totals that stay exact when old records are dropped."""

import time
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus

from loadtest.fake_llm.answer import Json

_KEPT_CALLS = 10_000
_KEPT_BODY = 64 * 1024


@dataclass(slots=True)
class Call:
    """One call as seen on the wire, completed while it is answered.

    `complete`: the whole body came. `finished`: the whole answer was handed to the peer's connection.
    `disconnected`: the peer left before that. `malformed`: the bytes in `body` were no HTTP request.
    `ending`: its last bytes are on their way, and the peer may take it to be over. Tokens are what the provider
    would bill: of a stream that broke off, the output that had been sent. `began`: when its head had come, in
    seconds of the machine's clock that is never set back, which all its processes read.
    """

    n: int
    connection: int
    began: float = field(default_factory=time.monotonic)
    method: str = ""
    path: str = ""
    query: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    body_bytes: int = 0
    body_sha256: str = ""
    complete: bool = False
    status: int | None = None
    model: str = ""  # as the body or path names it
    input_tokens: int = 0
    output_tokens: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)  # among those of the whole answer
    events_sent: int = 0
    ending: bool = False
    finished: bool = False
    disconnected: bool = False
    malformed: bool = False

    def set_body(self, body: bytes, *, keep_whole: bool = False) -> None:
        """Record a body: its size and hash always, its bytes up to 64 KiB or when all are to be kept."""
        self.body_bytes, self.body_sha256 = len(body), sha256(body).hexdigest()
        self.body = body if keep_whole or len(body) <= _KEPT_BODY else b""

    def to_json(self) -> Json:
        """The record as the control interface shows it."""
        shown = {name: getattr(self, name) for name in self.__slots__ if name != "body"}
        return shown | {"body_base64": b64encode(self.body).decode()}


class Recorder:
    """The calls of one instance, the last 10,000 of them kept."""

    def __init__(self, *, keep_bodies: bool = False, keep_bills: bool = False) -> None:
        self._keep_bodies, self._keep_bills = keep_bodies, keep_bills
        self.reset()

    def reset(self) -> None:
        """Forget everything; numbering starts again at 1."""
        self._calls: deque[Call] = deque(maxlen=_KEPT_CALLS)
        self._totals: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._open: dict[int, Call] = {}
        self._most_open = 0
        self._by_model: dict[str, Counter[str]] = {}
        self._bills: list[Json] = []

    def begin(self, connection: int) -> Call:
        """Start the record of a call."""
        self._totals["calls"] += 1
        call = Call(self._totals["calls"], connection)
        self._calls.append(call)
        self._open[id(call)] = call
        self._most_open = max(self._most_open, sum(not one.ending for one in self._open.values()))
        return call

    def body(self, call: Call, body: bytes) -> None:
        """Record what came of a call's body."""
        call.set_body(body, keep_whole=self._keep_bodies)

    def malformed(self, connection: int, data: bytes) -> None:
        """Record bytes that are no request."""
        call = self.begin(connection)
        call.malformed = True
        call.set_body(data)
        self.end(call)

    def end(self, call: Call) -> None:
        """Add a call that is over to the totals, unless it was begun before a reset."""
        if self._open.pop(id(call), None) is None:
            return
        for name in ("input_tokens", "output_tokens", "events_sent"):
            self._totals[name] += getattr(call, name)
        if call.status == HTTPStatus.OK:
            self._by_model.setdefault(call.model, Counter()).update(
                calls=1, input_tokens=call.input_tokens, output_tokens=call.output_tokens
            )
        if self._keep_bills and not call.malformed:
            self._bills.append(_bill(call))
        for name in ("finished", "disconnected", "malformed", "complete"):
            self._totals[name] += bool(getattr(call, name))
        if call.status is not None:
            self._statuses[call.status] += 1

    def calls(self) -> list[Json]:
        """All kept records, oldest first."""
        return [call.to_json() for call in self._calls]

    def bills(self) -> list[Json]:
        """What each call that is over used, since the start or the last reset, in the order they ended; if kept."""
        return self._bills

    def totals(self) -> Json:
        """Counts since the start or the last reset. `open` calls are still being received or answered.

        `most_open` were so at one time. `by_model` counts the calls that were answered, and their tokens.
        """
        names = ("calls", "finished", "disconnected", "malformed", "complete")
        counted = {name: self._totals[name] for name in (*names, "input_tokens", "output_tokens", "events_sent")}
        statuses = {str(status): number for status, number in sorted(self._statuses.items())}
        return counted | {
            "open": len(self._open),
            "most_open": self._most_open,
            "by_status": statuses,
            "by_model": self._by_model,
        }


def _bill(call: Call) -> Json:
    """One call as a provider's bill has it: by the ids that it came with, and nothing for an error."""
    paid = call.status == HTTPStatus.OK
    headers = dict(call.headers)
    return {
        "request_id": headers.get("x-request-id", ""),
        "client_request_id": headers.get("x-client-request-id", ""),
        "model": call.model,
        "status": call.status,
        "finished": call.finished,
        "input": call.input_tokens if paid else 0,
        "output": call.output_tokens if paid else 0,
        "classes": call.classes if paid else {},
    }
