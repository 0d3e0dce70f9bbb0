"""Posting a message to a webhook: one try, over before long whatever the other side does. No redirect is followed.

The URL is a secret: it stands in no log and no error.
"""

import asyncio
import contextlib
import queue
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from extproc.config.addresses import is_loopback

WAIT_S = 5.0
_LARGEST_HEAD = 2**16  # bytes
_LONGEST_PAUSE_S = 3600.0
_STATUS = re.compile("[1-5][0-9][0-9]")


class WebhookUnusable(Exception):
    """A URL that nothing may be posted to; says why, without it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`outcome`: the status, or what came in place of one. `pause`: seconds that the other side asks for."""

    outcome: str
    is_taken: bool = False
    pause: float = 0.0


def check(url: str, plain_http: bool) -> SplitResult:
    """The parts of a URL that may be posted to. Raises WebhookUnusable."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("https", "http") or not url.isascii() or not url.isprintable():
        raise WebhookUnusable("is not an https URL")
    if parts.scheme == "http" and not plain_http and not is_loopback(host):
        raise WebhookUnusable("is http: messages could be read on their way, and the URL with them. Use https")
    if parts.username is not None or parts.password is not None:
        raise WebhookUnusable("has a user in it, which is not supported")
    return parts


def post(url: str, body: bytes, name: str, plain_http: bool = False, wait: float = WAIT_S) -> Answer:
    """Post JSON. `name`: the message's own, for who looks for repeats. Blocks for `wait` seconds at most."""
    end = time.monotonic() + wait
    try:
        parts = check(url, plain_http)
        addresses = _addresses(parts.hostname or "", wait)
        return asyncio.run(_post(parts, addresses, _head(parts, len(body), name) + body, end - time.monotonic()))
    except WebhookUnusable:
        return Answer("bad_url")
    except TimeoutError:
        return Answer("timeout")
    except ssl.SSLError:
        return Answer("no_tls")
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError):
        return Answer("no_connection")


def _addresses(host: str, wait: float) -> list[str]:
    """Raises OSError, and TimeoutError after `wait` seconds.

    In a thread that nobody waits for: whatever is asked for names may hang for longer, and can not be stopped.
    """
    found: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def look() -> None:
        try:
            told = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            found.put([str(address[0]) for *_, address in told])
        except (OSError, ValueError) as error:
            found.put(error)

    threading.Thread(target=look, name="webhook-name", daemon=True).start()
    try:
        got = found.get(timeout=wait)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(got, Exception):
        raise got
    return got


async def _post(url: SplitResult, addresses: list[str], message: bytes, wait: float) -> Answer:
    async with asyncio.timeout(wait):
        reader, writer = await _connected(url, addresses)
        try:
            writer.write(message)
            answer = None
            while answer is None:
                answer = _read(await reader.readuntil(b"\r\n\r\n"))
            return answer
        finally:
            writer.transport.abort()


async def _connected(url: SplitResult, addresses: list[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To the first that takes it."""
    tls = ssl.create_default_context() if url.scheme == "https" else None
    port, name = url.port or (443 if tls else 80), url.hostname if tls else None
    for address in addresses[:-1]:
        with contextlib.suppress(OSError):
            return await asyncio.open_connection(address, port, ssl=tls, server_hostname=name, limit=_LARGEST_HEAD)
    last = addresses[-1]
    return await asyncio.open_connection(last, port, ssl=tls, server_hostname=name, limit=_LARGEST_HEAD)


def _head(url: SplitResult, length: int, name: str) -> bytes:
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    host = url.netloc.rpartition("@")[2]
    return (
        f"POST {target} HTTP/1.1\r\nhost: {host}\r\nuser-agent: sluice\r\ncontent-type: application/json\r\n"
        f"content-length: {length}\r\nx-sluice-alert: {name}\r\nconnection: close\r\n\r\n"
    ).encode("ascii")


def _read(head: bytes) -> Answer | None:
    """None where the answer itself comes behind it. Raises ValueError for what is no head of HTTP."""
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status = first.split(" ", 2)[:2]
    if not version.startswith("HTTP/1.") or not _STATUS.fullmatch(status):
        raise ValueError("not HTTP")
    if status.startswith("1"):
        return None
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    asked = headers.get("retry-after", "")
    pause = min(float(asked), _LONGEST_PAUSE_S) if asked.isdecimal() and asked.isascii() else 0.0
    return Answer(f"status_{status}", status.startswith("2"), pause)
