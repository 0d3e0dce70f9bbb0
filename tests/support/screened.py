"""Screening as in a worker, with services that a test answers for."""

from collections.abc import Callable

from extproc.screening.detection import Detection
from extproc.screening.screening import Screening
from extproc.screening.services import NO_CONNECTION, ServiceFailed

Answering = Callable[[str, str, bytes], bytes]
"""Takes the service, the path and the body of a question; raises ServiceFailed."""


def _nobody(service: str, path: str, body: bytes) -> bytes:
    raise ServiceFailed(NO_CONNECTION)


class Answers:
    """Services that answer as they are told."""

    def __init__(self, answering: Answering = _nobody) -> None:
        self.answering = answering
        self.asked: list[tuple[str, str, bytes]] = []

    async def ask(self, service: str, path: str, body: bytes, timeout: float) -> bytes:
        self.asked.append((service, path, body))
        return self.answering(service, path, body)

    def close(self) -> None:
        """There is nothing to close."""


def screening(services: Answers | None = None) -> Screening:
    """Without models of names."""
    asked = services or Answers()
    return Screening(Detection(5.0, {}, asked), asked)
