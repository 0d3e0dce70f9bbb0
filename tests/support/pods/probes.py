"""Probes, as a kubelet makes them: httpGet and tcpSocket from the machine, exec in the container."""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Json = Mapping[str, Any]

Run = Callable[[list[str]], Awaitable[int]]
"""Run a command in the container; its exit code."""

Port = Callable[[str | int], int]
"""A port by its name."""


class Probe:
    """One probe of a container, and its times."""

    def __init__(self, spec: Json, address: str, port: Port, run: Run) -> None:
        self._spec = spec
        self._address = address
        self._port = port
        self._run = run
        self.period = float(spec.get("periodSeconds", 10))
        self.failures = int(spec.get("failureThreshold", 3))
        self.successes = int(spec.get("successThreshold", 1))
        self.delay = float(spec.get("initialDelaySeconds", 0))
        self.grace: float | None = spec.get("terminationGracePeriodSeconds")
        self._timeout = float(spec.get("timeoutSeconds", 1))
        self.last = ""

    async def passes(self) -> bool:
        """Once. `last` says what came of it."""
        try:
            async with asyncio.timeout(self._timeout):
                self.last = await self._made()
        except (OSError, TimeoutError, ValueError, EOFError) as error:
            self.last = f"{type(error).__name__} {error}"
        return self.last == ""

    async def _made(self) -> str:
        if "exec" in self._spec:
            code = await self._run(list(self._spec["exec"]["command"]))
            return f"exit code {code}" if code else ""
        if "tcpSocket" in self._spec:
            _, writer = await asyncio.open_connection(self._address, self._port(self._spec["tcpSocket"]["port"]))
            writer.close()
            return ""
        status = await get(self._address, self._port(self._spec["httpGet"]["port"]), self._spec["httpGet"])
        return "" if 200 <= status < 400 else f"status {status}"


async def get(address: str, port: int, spec: Json) -> int:
    """The status of a GET of a kubelet."""
    context = None
    if spec.get("scheme", "HTTP") == "HTTPS":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # as kubelets do
    reader, writer = await asyncio.open_connection(spec.get("host") or address, port, ssl=context)
    try:
        head = {"Host": f"{address}:{port}", "User-Agent": "kube-probe/1.33", "Accept": "*/*", "Connection": "close"}
        head |= {header["name"]: header["value"] for header in spec.get("httpHeaders", [])}
        lines = [f"GET {spec.get('path', '/')} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        words = (await reader.readline()).split()
        if len(words) < 2:
            raise EOFError("no answer")
        return int(words[1])
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
