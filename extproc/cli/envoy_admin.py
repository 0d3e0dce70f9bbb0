"""Envoy's admin interface on its Unix socket: is it ready, does it refuse anything, and drain it."""

import asyncio
import http.client
import json
import socket
from pathlib import Path
from typing import NamedTuple

from extproc.contract import EXTPROC_CLUSTER

_PARTS = {"lds": "the listener", "rds": "the routes", "cds": "the clusters", "sds": "a secret"}
"""What Envoy takes or refuses as one, by the part of a statistic's name that says so."""

_TIMEOUT = 2.0  # seconds

_GONE = (FileNotFoundError, ConnectionRefusedError, PermissionError)
"""No Envoy is there, or none that we may ask, and none will be. All else, a full backlog, too, may be over soon."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("admin", timeout=_TIMEOUT)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(self._path)


def _ask(path: Path, method: str, target: str) -> tuple[int, bytes]:
    connection = _UnixConnection(path)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _stat(path: Path, name: str) -> int:
    _, body = _ask(path, "GET", f"/stats?filter=^{name}$&format=json")
    return sum(int(entry.get("value", 0)) for entry in json.loads(body)["stats"])


def _ready(path: Path) -> bool:
    try:
        return _ask(path, "GET", "/ready")[0] == 200 and _stat(path, "listener_manager.workers_started") == 1
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return False


async def envoy_is_ready(path: Path) -> bool:
    """Whether Envoy has all its configuration and serves it."""
    return await asyncio.to_thread(_ready, path)


def _found_well(path: Path) -> bool:
    try:
        return _stat(path, f"cluster.{EXTPROC_CLUSTER}.membership_healthy") > 0
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return False


async def envoy_found_a_worker(path: Path) -> bool:
    """Whether Envoy has found a policy worker well: before, it asks none of them, and refuses every call."""
    return await asyncio.to_thread(_found_well, path)


def _refused(path: Path) -> list[str]:
    try:
        _, body = _ask(path, "GET", "/stats?filter=update_rejected$&format=json")
        counted = [entry["name"] for entry in json.loads(body)["stats"] if entry.get("value")]
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return []
    return sorted({what for name in counted for part, what in _PARTS.items() if part in name.split(".")})


async def refused_by_envoy(path: Path) -> list[str]:
    """The parts of its configuration that Envoy refused: without them it is ready all the same, and serves nobody."""
    return await asyncio.to_thread(_refused, path)


class Watched(NamedTuple):
    """A file that Envoy reads again when it is replaced, and where it counts what became of it."""

    name: str
    file: str
    statistics: str


CLUSTERS = Watched("the clusters", "clusters.yaml", "cluster_manager.cds")
ROUTES = Watched("the routes", "routes.yaml", "http.gateway.rds.gateway")


class Updates(NamedTuple):
    """What Envoy has made of a file so far, in numbers of times."""

    taken: int
    refused: int


def _updates(path: Path, what: Watched) -> Updates | None:
    try:
        taken = _stat(path, f"{what.statistics}.update_success")
        return Updates(taken, _stat(path, f"{what.statistics}.update_(rejected|failure)"))
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None


async def updates(path: Path, what: Watched) -> Updates | None:
    """None where Envoy does not answer, or not here."""
    return await asyncio.to_thread(_updates, path, what)


def _warming(path: Path) -> bool:
    try:
        return _stat(path, "cluster_manager.warming_clusters") > 0
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return True


async def clusters_are_warming(path: Path) -> bool:
    """Whether Envoy still looks for the addresses or secrets of a cluster that it has taken."""
    return await asyncio.to_thread(_warming, path)


async def discourage(path: Path) -> bool | None:
    """Have each answer ask its client to connect anew, elsewhere.

    False where no Envoy is there; None: there is one that does not say now, as it has much to do.
    """
    return await asyncio.to_thread(_told, path, "/healthcheck/fail")


async def stop_listening(path: Path) -> bool | None:
    """Take no new connection of a client. What workers and Envoy itself ask inside goes on. Returns as above."""
    return await asyncio.to_thread(_told, path, "/drain_listeners?inboundonly")


def _told(path: Path, target: str) -> bool | None:
    try:
        return True if _ask(path, "POST", target)[0] == 200 else None
    except _GONE:
        return False
    except (OSError, http.client.HTTPException):
        return None


def _live(path: Path) -> int | None:
    try:
        return _stat(path, "http.gateway.downstream_rq_active")
    except _GONE:
        return 0
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None


async def live_calls(path: Path) -> int | None:
    """How many calls Envoy has begun and not ended, 0 where there is no Envoy any more; None: it does not say now."""
    return await asyncio.to_thread(_live, path)


def is_discouraging(path: Path) -> bool | None:
    """Whether an Envoy is there that has been told to let its clients go; None: one that does not say now."""
    standing = _standing(path)
    return None if standing is None else standing == b"DRAINING"


def is_live(path: Path) -> bool:
    """Whether one is there that serves, and has not."""
    return _standing(path) == b"LIVE"


def _standing(path: Path) -> bytes | None:
    try:
        return _ask(path, "GET", "/ready")[1].strip()
    except _GONE:
        return b""
    except (OSError, http.client.HTTPException):
        return None
