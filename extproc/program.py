"""The other end of companion: what a program that holds a model does between its lines of JSON.

It has no network, writes answers alone to its standard output, and dies with the worker.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import orjson

_PR_SET_PDEATHSIG = 1
_NETWORK = frozenset(("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"))

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class ModelUnusable(Exception):
    """The model is not there, or of no use. Says what to do."""


def serve(load: Callable[[], Answer]) -> None:
    """Load the model, say `{}`, and answer until nobody asks any more; or say why the model cannot be used."""
    _die_with_parent()
    sys.addaudithook(refuse_network)
    answers = _own_output()
    try:
        answer = load()
    except ModelUnusable as unusable:
        _say(answers, {"error": str(unusable)})
        return
    _say(answers, {})
    for line in sys.stdin.buffer:
        _say(answers, answer(orjson.loads(line)))


def _die_with_parent() -> None:
    """A read of standard input ends with the parent as well, but a model that never returns does not read."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def refuse_network(event: str, _: tuple[Any, ...]) -> None:
    """An audit hook. A model may bring code of its own, and texts stay here."""
    if event in _NETWORK:
        raise PermissionError("a model has no network")


def _own_output() -> BinaryIO:
    """Standard output for answers alone; what a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _say(answers: BinaryIO, what: dict[str, Any]) -> None:
    answers.write(orjson.dumps(what) + b"\n")
    answers.flush()
