"""Telling operators that a store does not answer."""

import logging
import math
import time

log = logging.getLogger(__name__)

_TELL_S = 60.0  # between two warnings that the store does not answer


class Outage:
    """Tells when the store of the `what` stops answering, and when it is back; of many in a row not all."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_on = self._is_told = False
        self._told_at = -math.inf

    def begin(self, trouble: Exception) -> None:
        """It did not answer. The text of the trouble holds no credential."""
        if self._is_on:
            return
        now = time.monotonic()
        self._is_on, self._is_told = True, now - self._told_at >= _TELL_S
        if self._is_told:
            self._told_at = now
            log.warning("the store of the %s does not answer: %s", self._what, trouble)

    def end(self) -> None:
        """It did."""
        if self._is_on and self._is_told:
            log.warning("the store of the %s answers again", self._what)
        self._is_on = False
