"""The worker's client for services, before a server that answers with whatever bytes a test wants."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.screening.services import LARGEST_ANSWER, MOST_AT_ONCE, ServiceFailed, Services
from tests.support.ports import free_port

LONG = 10.0
CANARY = b'{"canary":"text of a call"}'
Answering = Callable[["Server", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes, status: str = "200 OK", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


class Server:
    """In Envoy's place. Each connection is served by `answering`, and noted."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self.requests: list[bytes] = []

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        """The next request, its body included."""
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        whole = head + await reader.readexactly(int(length.partition(b":")[2]))
        self.requests.append(whole)
        return whole

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answering(self, reader, writer)
        finally:
            self.open -= 1
            writer.close()


def always(given: bytes) -> Answering:
    """Answers every request of a connection with the same bytes."""

    async def answering(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.request(reader)
            writer.write(given)

    return answering


def once(given: bytes) -> Answering:
    """Answers one request and closes."""

    async def answering(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(given)

    return answering


async def never(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await server.request(reader)
    await reader.read()


class Notes(list[tuple[str, str]]):
    """What was told of each question, without its time."""

    def __call__(self, service: str, result: str, seconds: float) -> None:
        assert seconds >= 0
        self.append((service, result))


@asynccontextmanager
async def asking(folder: Path, answering: Answering) -> AsyncIterator[tuple[Services, Server, Notes]]:
    server, notes = Server(answering), Notes()
    socket = str(folder / f"{free_port()}.sock")
    listening = await asyncio.start_unix_server(server.serve, socket)
    services = Services(socket, notes)
    try:
        yield services, server, notes
    finally:
        services.close()
        listening.close()
        async with asyncio.timeout(LONG):
            while server.open:
                await asyncio.sleep(0.01)


async def failure(services: Services, timeout: float = LONG) -> str:
    with pytest.raises(ServiceFailed) as caught:
        await services.ask("judge", "/analyze", CANARY, timeout)
    assert "canary" not in f"{caught.value!r} {caught.value}"
    return caught.value.result


# ---- what is asked, and how -------------------------------------------------------------------------------


async def test_a_question_is_a_post_to_the_services_own_path(tmp_path: Path) -> None:
    async with asking(tmp_path, always(answer(b"[1]"))) as (services, server, notes):
        assert await services.ask("judge", "/analyze?a=b", CANARY, LONG) == b"[1]"
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    first, *headers = head.decode().split("\r\n")
    assert first == "POST /judge/analyze?a=b HTTP/1.1"
    assert {line.partition(":")[0] for line in headers} == {"host", "content-type", "accept", "content-length"}
    assert body == CANARY
    assert notes == [("judge", "ok")]


async def test_connections_are_used_again(tmp_path: Path) -> None:
    async with asking(tmp_path, always(answer(b"{}"))) as (services, server, _):
        for _ in range(20):
            await services.ask("judge", "/", b"", LONG)
        assert server.connections == 1


async def test_no_more_than_64_questions_are_under_way_and_the_others_wait(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def waiting(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.request(reader)
            await gate.wait()
            writer.write(answer(b"{}"))

    async with asking(tmp_path, waiting) as (services, server, notes):
        crowd = [asyncio.ensure_future(services.ask("judge", "/", b"", LONG)) for _ in range(3 * MOST_AT_ONCE)]
        while len(server.requests) < MOST_AT_ONCE:
            await asyncio.sleep(0.01)
        assert await failure(services, timeout=0.05) == "timeout"  # waiting for a turn counts
        assert len(server.requests) == MOST_AT_ONCE
        gate.set()
        assert await asyncio.gather(*crowd) == [b"{}"] * 3 * MOST_AT_ONCE
        assert server.connections == MOST_AT_ONCE
        assert notes.count(("judge", "ok")) == 3 * MOST_AT_ONCE


async def test_a_connection_that_was_closed_while_it_was_free_is_not_asked(tmp_path: Path) -> None:
    async with asking(tmp_path, once(answer(b"{}"))) as (services, server, notes):
        for _ in range(3):
            assert await services.ask("judge", "/", b"", LONG) == b"{}"
            while server.open:
                await asyncio.sleep(0.01)
        assert (server.connections, notes) == (3, [("judge", "ok")] * 3)


async def test_a_connection_that_is_closed_under_a_question_is_replaced_once(tmp_path: Path) -> None:
    async def leaving(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(answer(b"{}"))
        await server.request(reader)  # and close it, as Envoy does when it has just become idle

    async with asking(tmp_path, leaving) as (services, server, notes):
        assert await services.ask("judge", "/", b"1", LONG) == b"{}"
        assert await services.ask("judge", "/", b"2", LONG) == b"{}"
        assert [request[-1:] for request in server.requests] == [b"1", b"2", b"2"]
        assert notes == [("judge", "ok")] * 2


async def test_a_question_is_not_asked_again_where_some_of_its_answer_came(tmp_path: Path) -> None:
    async def breaking(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(answer(b"{}"))
        await server.request(reader)
        writer.write(answer(b"{}")[:9])

    async with asking(tmp_path, breaking) as (services, server, _):
        assert await services.ask("judge", "/", b"1", LONG) == b"{}"
        assert await failure(services) == "no_connection"
        assert (len(server.requests), server.connections) == (2, 1)


async def test_a_new_connection_is_not_replaced(tmp_path: Path) -> None:
    async def leaving(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)

    async with asking(tmp_path, leaving) as (services, server, notes):
        assert await failure(services) == "no_connection"
        assert (server.connections, notes) == (1, [("judge", "no_connection")])


# ---- answers, however they come -----------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    body=st.binary(max_size=3000),
    size=st.integers(1, 700),
    framed=st.booleans(),
    interim=st.booleans(),
    cut=st.integers(1, 200),
)
async def test_an_answer_is_the_same_however_it_is_cut(
    tmp_path: Path, body: bytes, size: int, framed: bool, interim: bool, cut: int
) -> None:
    whole = chunked(body, size) if framed else answer(body)
    if interim:
        whole = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + whole

    async def in_pieces(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.request(reader)
            for at in range(0, len(whole), cut):
                writer.write(whole[at : at + cut])
                await asyncio.sleep(0)

    async with asking(tmp_path, in_pieces) as (services, server, _):
        assert await services.ask("judge", "/", b"", LONG) == body
        assert await services.ask("judge", "/", b"", LONG) == body
        assert server.connections == 1


async def test_an_answer_of_the_largest_size_is_taken(tmp_path: Path) -> None:
    largest = b"x" * LARGEST_ANSWER
    async with asking(tmp_path, always(answer(largest))) as (services, _, _):
        for _ in range(2):
            assert await services.ask("judge", "/", b"", LONG) == largest


BAD: dict[str, tuple[bytes, str]] = {
    "too large": (answer(b"x" * (LARGEST_ANSWER + 1)), "too_large"),
    "too large in chunks": (chunked(b"x" * (LARGEST_ANSWER + 1), 5000), "too_large"),
    "no http": (b"SSH-2.0-OpenSSH_9.7\r\n", "malformed"),
    "bad length": (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "malformed"),
    "bad chunk": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "malformed"),
    "another protocol": (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "malformed"),
    "a part": (answer(b"[1, 2]")[:-1], "no_connection"),
    "a part of the head": (answer(b"[1, 2]")[:20], "no_connection"),
    "until it ends": (b"HTTP/1.1 200 OK\r\n\r\n[1, 2]", "no_connection"),
    "an error": (answer(CANARY, "500 Internal Server Error"), "status_500"),
    "too many": (answer(CANARY, "429 Too Many Requests"), "status_429"),
    "another success": (answer(b"", "204 No Content"), "status_204"),
    "elsewhere": (answer(b"", "302 Found", "location: http://attacker/"), "status_302"),
}


@pytest.mark.parametrize(("given", "result"), BAD.values(), ids=BAD.keys())
async def test_a_bad_answer_fails_the_question_and_no_other(tmp_path: Path, given: bytes, result: str) -> None:
    answers = iter([given, answer(b"{}")])

    async def answering(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(next(answers))

    async with asking(tmp_path, answering) as (services, _, notes):
        assert await failure(services) == result
        assert await services.ask("judge", "/", b"", LONG) == b"{}"
        assert notes == [("judge", result), ("judge", "ok")]


async def test_a_refusal_leaves_the_connection_in_use(tmp_path: Path) -> None:
    async with asking(tmp_path, always(answer(b"no", "429 Too Many Requests"))) as (services, server, _):
        assert [await failure(services) for _ in range(3)] == ["status_429"] * 3
        assert server.connections == 1


async def test_a_connection_that_is_to_be_closed_is_not_used_again(tmp_path: Path) -> None:
    async with asking(tmp_path, always(answer(b"{}", "200 OK", "connection: close"))) as (services, server, _):
        for _ in range(3):
            assert await services.ask("judge", "/", b"", LONG) == b"{}"
        assert server.connections == 3


@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", b"evil"])
async def test_bytes_that_nobody_asked_for_are_no_answer_to_the_next_question(tmp_path: Path, more: bytes) -> None:
    """Neither with the answer before nor after it."""
    for pause in (0, 0.05):

        async def answering(
            server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float = pause
        ) -> None:
            while True:
                await server.request(reader)
                writer.write(answer(b"{}"))
                await asyncio.sleep(pause)
                writer.write(more)

        async with asking(tmp_path, answering) as (services, server, _):
            for _ in range(2):
                assert await services.ask("judge", "/", b"", LONG) == b"{}"
                await asyncio.sleep(0.1)
            assert server.connections == 2


# ---- times, and nobody there --------------------------------------------------------------------------------


async def test_a_question_that_is_not_answered_in_time_fails_and_its_connection_is_closed(tmp_path: Path) -> None:
    async with asking(tmp_path, never) as (services, server, notes):
        assert await failure(services, timeout=0.1) == "timeout"
        async with asyncio.timeout(LONG):
            while server.open:
                await asyncio.sleep(0.01)
        assert notes == [("judge", "timeout")]


async def test_an_answer_that_comes_too_late_is_not_taken_for_the_next(tmp_path: Path) -> None:
    async def lagging(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            body = (await server.request(reader)).rpartition(b"\r\n\r\n")[2]
            await asyncio.sleep(0.2 if body == b"late" else 0)
            writer.write(answer(body))

    async with asking(tmp_path, lagging) as (services, server, _):
        assert await services.ask("judge", "/", b"1", LONG) == b"1"
        with pytest.raises(ServiceFailed):
            await services.ask("judge", "/", b"late", 0.1)
        assert await services.ask("judge", "/", b"2", LONG) == b"2"
        assert server.connections == 2


async def test_a_slow_answer_counts_as_a_whole(tmp_path: Path) -> None:
    """Each piece is in time, the answer is not."""

    async def dripping(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        for byte in answer(b"x" * 1000):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)

    async with asking(tmp_path, dripping) as (services, _, _):
        assert await failure(services, timeout=0.3) == "timeout"


async def test_a_question_that_is_cancelled_takes_its_connection_with_it(tmp_path: Path) -> None:
    async with asking(tmp_path, never) as (services, server, notes):
        question = asyncio.ensure_future(services.ask("judge", "/", CANARY, LONG))
        while not server.requests:
            await asyncio.sleep(0.01)
        question.cancel()
        with pytest.raises(asyncio.CancelledError):
            await question
        async with asyncio.timeout(LONG):
            while server.open:
                await asyncio.sleep(0.01)
        assert notes == []


async def test_cancelled_questions_leave_their_turns_to_others(tmp_path: Path) -> None:
    async with asking(tmp_path, never) as (services, server, _):
        for _ in range(2):
            crowd = [asyncio.ensure_future(services.ask("judge", "/", b"", LONG)) for _ in range(2 * MOST_AT_ONCE)]
            while server.open < MOST_AT_ONCE:
                await asyncio.sleep(0.01)
            for question in crowd:
                question.cancel()
            await asyncio.gather(*crowd, return_exceptions=True)
            async with asyncio.timeout(LONG):
                while server.open:
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize("there", [False, True], ids=["no socket", "nobody listens"])
async def test_nobody_there(tmp_path: Path, there: bool) -> None:
    socket = tmp_path / "s.sock"
    if there:
        (await asyncio.start_unix_server(Server(never).serve, socket)).close()
    notes = Notes()
    services = Services(str(socket), notes)
    assert await failure(services) == "no_connection"
    assert notes == [("judge", "no_connection")]


async def test_a_server_that_comes_back_is_asked_again(tmp_path: Path) -> None:
    socket = str(tmp_path / "s.sock")
    services = Services(socket, Notes())
    for _ in range(2):
        server = Server(always(answer(b"{}")))
        listening = await asyncio.start_unix_server(server.serve, socket)
        assert await services.ask("judge", "/", b"", LONG) == b"{}"
        listening.close()
        (tmp_path / "s.sock").unlink(missing_ok=True)
        services.close()
        assert await failure(services) == "no_connection"
