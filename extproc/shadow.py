"""Asks the backends that get copies of calls, behind the calls' back: nothing here can hold one up or make it fail.

They are reached as services are, over Envoy's own socket (dataplane/shadows.py). So no worker has a credential, and
no attempt is told of them: they say nothing about the health of a backend that serves, nor about its load.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Protocol

from extproc import beside, contract
from extproc.model import Usage
from extproc.screening.services import ServiceFailed, Services
from extproc.stages import shadow
from extproc.stages.shadow import Copy, Question
from extproc.telemetry import metrics
from extproc.telemetry.records import usage_record

log = logging.getLogger(__name__)

MOST_AT_ONCE = 16  # copies of one worker under way; what comes meanwhile is not copied
_LATER_S = 0.01  # than the call, whose own order should be out before anything is done for a copy
_STATUS = "status_"


class Journal(Protocol):
    def write(self, record: Mapping[str, object]) -> None: ...


class Shadows:
    """The copies of one worker. `timeout` in seconds."""

    def __init__(self, socket: str, journal: Journal, timeout: float) -> None:
        self._services = Services(socket, lambda *_: None)
        self._journal = journal
        self._timeout = timeout
        self._under_way: set[asyncio.Task[None]] = set()

    def take(self, copy: Copy) -> None:
        """Send a copy, if there is room. Never waits."""
        if len(self._under_way) >= MOST_AT_ONCE:
            metrics.count_shadow(copy.model, copy.target.backend.name, "busy")
            return
        task = asyncio.get_running_loop().create_task(self._send(copy))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._services.close()

    async def _send(self, copy: Copy) -> None:
        try:
            await asyncio.sleep(_LATER_S)
            asked = await beside.loop(len(copy.body), shadow.question, copy)
            if asked is None:
                metrics.count_shadow(copy.model, copy.target.backend.name, "unfit")
            else:
                await self._ask(copy, asked)
        except Exception as error:  # its text may hold text of the call
            log.error("a copy of a call was lost: %s", type(error).__name__)

    async def _ask(self, copy: Copy, asked: Question) -> None:
        backend, began = copy.target.backend.name, time.monotonic()
        usage: Usage | None = None
        try:
            answer = await self._services.send(backend, _request(backend, asked), self._timeout)
        except ServiceFailed as failed:
            result = failed.result.removeprefix(_STATUS)
        else:
            usage = await beside.loop(len(answer), shadow.used, copy, asked, answer, int(time.time()))
            result = "error" if usage is None else "200"
        seconds = time.monotonic() - began
        metrics.count_shadow(copy.model, backend, result, seconds, usage)
        self._journal.write(_record(copy, result, seconds, usage))


def _request(backend: str, asked: Question) -> bytes:
    head = (
        f"POST {asked.path} HTTP/1.1\r\n"
        "host: shadow\r\n"
        f"{contract.SHADOW_HEADER}: {contract.shadow_cluster_of(backend)}\r\n"
        "content-type: application/json\r\n"
        "accept: application/json\r\n"
        f"content-length: {len(asked.body)}\r\n\r\n"
    )
    return head.encode("ascii") + asked.body


def _record(copy: Copy, result: str, seconds: float, usage: Usage | None) -> dict[str, object]:
    """What is kept of a copy, beside the record of the call that has the same `request_id`."""
    record: dict[str, object] = {
        "time": round(time.time(), 3),
        "kind": "shadow",
        "request_id": copy.request_id,
        "surface": copy.place.surface.value,
        "model": copy.model,
        "backend": copy.target.backend.name,
        "deployed": copy.target.model,
        "result": result,
        "usage": None if usage is None else usage_record(usage),
        "duration_ms": round(seconds * 1000, 2),
    }
    return {name: value for name, value in record.items() if value is not None}
