"""What takes OTLP and keeps none of it: `python -m loadtest.collector`. It prints its port.

With `--hang` it takes connections, and never answers.
"""

import argparse
import socket

_LARGEST = 65536


def _body(connection: socket.socket) -> None:
    """Read one request to its end."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        piece = connection.recv(_LARGEST)
        if not piece:
            return
        seen += piece
    head, _, body = seen.partition(b"\r\n\r\n")
    fields = (line.partition(b":") for line in head.lower().split(b"\r\n"))
    left = next((int(value) for name, _, value in fields if name == b"content-length"), 0) - len(body)
    while left > 0 and (piece := connection.recv(_LARGEST)):
        left -= len(piece)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.collector", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--hang", action="store_true", help="never answer")
    hangs = parser.parse_args().hang
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            if hangs:
                kept.append(connection)
                continue
            with connection:
                _body(connection)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


if __name__ == "__main__":
    main()
