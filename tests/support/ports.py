"""Ports for servers that a test starts."""

import random
import socket

_RANGE = range(10_240, 22_768)
"""Below the ports that systems give to outgoing calls, so that none is taken between asking and listening; and
ten thousand above one, where a member of a Redis Cluster listens too, is still below them."""


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    while True:
        port = random.choice(_RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
