"""What the capacity model is fed with: a call that is not served is no cost of one that is."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loadtest.costs import long_calls
from loadtest.setups import StartError


@contextmanager
def answering(status: int) -> Iterator[int]:
    """The port of a gateway that answers every call like this."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            serving.join()


def test_long_calls_that_are_served_are_counted() -> None:
    with answering(200) as port:
        assert long_calls(port) > 1


@pytest.mark.parametrize("status", [413, 429, 503])
def test_a_long_call_that_is_refused_is_no_cost(status: int) -> None:
    with answering(status) as port, pytest.raises(StartError, match=str(status)):
        long_calls(port)
