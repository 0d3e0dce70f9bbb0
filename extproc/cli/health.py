"""`/healthz` on the port of the metrics, for whoever starts the processes of a gateway and ends those that hang."""

import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from extproc.presence import is_present

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""WSGI, as Prometheus' own server has it."""

_PATIENCE_S = 1.0
_TEXT = ("content-type", "text/plain; charset=utf-8")


class Health:
    """Unhealthy until all workers have answered once, which comes after Envoy's files; and while none of them goes on.

    One that is started again meanwhile harms nobody, as others serve: no reason to end them all.
    """

    def __init__(self) -> None:
        self._sockets: Sequence[Path] = ()

    def have_answered(self, sockets: Sequence[Path]) -> None:
        """The gateway has come up, with workers on these sockets."""
        self._sockets = sockets

    @property
    def trouble(self) -> str:
        """What is wrong; empty where nothing is."""
        if not self._sockets:
            return "starting"
        return "" if any(_answers(path) and is_present(path) for path in self._sockets) else "no worker answers"

    def before(self, app: App) -> App:
        """The same app, with `/healthz`."""

        def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            if environ["PATH_INFO"] != "/healthz":
                return app(environ, start)
            trouble = self.trouble
            start("503 Service Unavailable" if trouble else "200 OK", [_TEXT])  # a list of its own: it is added to
            return [f"{trouble or 'ok'}\n".encode()]

        return answer


def _answers(path: Path) -> bool:
    """Whether somebody listens there. The kernel does for one that hangs, too."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
        visitor.settimeout(_PATIENCE_S)
        return visitor.connect_ex(str(path)) == 0
