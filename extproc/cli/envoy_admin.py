"""Envoy's admin interface on its Unix socket: is it ready, and drain it."""

import asyncio
import json
import time
from pathlib import Path

_POLL = 0.1


async def _ask(path: Path, method: str, target: str) -> tuple[int, bytes]:
    """One HTTP/1.1 exchange on a connection of its own; OSError where Envoy does not listen."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(f"{method} {target} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), body
    finally:
        writer.close()


async def envoy_is_ready(path: Path) -> bool:
    """Whether Envoy has all its configuration and serves it."""
    try:
        status, _ = await _ask(path, "GET", "/ready")
        if status != 200:
            return False
        return await _active(path, "listener_manager.total_listeners_active") > 0
    except (OSError, ValueError, IndexError):
        return False


async def _active(path: Path, stat: str) -> int:
    _, body = await _ask(path, "GET", f"/stats?filter=^{stat}$&format=json")
    return sum(int(entry.get("value", 0)) for entry in json.loads(body)["stats"])


async def drain_envoy(path: Path, patience: float) -> None:
    """Take no new connections and wait for live calls, at most `patience` seconds. A dead Envoy is drained."""
    try:
        await _ask(path, "POST", "/healthcheck/fail")
        await _ask(path, "POST", "/drain_listeners?graceful&skip_exit")
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not await _active(path, "http.ingress.downstream_rq_active"):
                return
            await asyncio.sleep(_POLL)
    except (OSError, ValueError, IndexError, KeyError):
        return
