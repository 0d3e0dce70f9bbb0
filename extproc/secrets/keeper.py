"""Keeps the secrets fresh that must be fetched: a thread for each that signs in, beside the calls.

A secret is fetched again when about three quarters of its time are over, or when its source wants to be asked again.
While that fails, what there is serves on until its end, and then Envoy has none: the backend refuses, and the next one
serves. So an outage of where secrets come from stops no backend before its token does.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from extproc.config.fields import Credential
from extproc.config.schema import Gateway
from extproc.telemetry.metrics import SECRET_FETCHED, SECRET_REFRESHES

from . import sds, source_of, store_tokens
from .named import Named, named_secrets, secret_file, tokens_of
from .source import Secret, SecretError, Source

log = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds that a start waits for secrets
_SHARE = 0.8  # of the time that a secret has
_JITTER = 0.1  # by so much less, for gateways that were started together
_LEAST_PAUSE = 1.0  # seconds
_LONGEST_PAUSE = 60.0


AllNamed = Callable[[Gateway], Iterable[Named]]


def named_and_stores(gateway: Gateway) -> Iterable[Named]:
    """Secrets of Envoy and tokens of stores."""
    return (*named_secrets(gateway), *tokens_of(gateway))


class Keeper:
    """Fetches what a configuration wants fetched, into the SDS files of a directory. For one thread to call."""

    def __init__(self, directory: Path, environ: Mapping[str, str], all_named: AllNamed = named_and_stores) -> None:
        """`all_named`: what it keeps of a configuration; by itself all."""
        self._directory = directory
        self._environ = environ
        self._all_named = all_named
        self._kept: dict[Credential, _Kept] = {}

    def configure(self, gateway: Gateway, patience: float = _PATIENCE) -> None:
        """Keep what this configuration names, and no other. What has not changed goes on as it is.

        Returns when each new secret has been fetched, or could not be, after `patience` seconds at the latest.
        Raises SecretError where packages are not installed.
        """
        wanted = _fetched(self._all_named(gateway))
        gone = {one.owner for kept in self._kept.values() for one in kept.named}
        for credential in [*self._kept]:
            if credential not in wanted:
                self._kept.pop(credential).stop()
        for credential, named in wanted.items():
            if credential not in self._kept:
                self._kept[credential] = _Kept(source_of(credential, self._environ), self._directory)
            self._kept[credential].serve(named)
            gone -= {one.owner for one in named}
        for owner in gone:
            SECRET_FETCHED.remove(owner)
        deadline = time.monotonic() + patience
        for kept in self._kept.values():
            kept.tried.wait(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Fetch no more. A fetch under way ends by itself, and changes nothing."""
        for kept in self._kept.values():
            kept.stop()


def _fetched(all_named: Iterable[Named]) -> dict[Credential, list[Named]]:
    """Who has each of the credentials that are fetched: backends of one identity share its token, and so do stores."""
    wanted: dict[Credential, list[Named]] = {}
    for named in all_named:
        if named.credential.sign_in is not None:
            wanted.setdefault(named.credential, []).append(named)
    return wanted


class _Kept:
    """One secret, fetched again and again by a thread of its own, and written for all who have it."""

    def __init__(self, source: Source, directory: Path) -> None:
        self.tried = threading.Event()  # fetched for the first time, or not
        self._source = source
        self._directory = directory
        self._lock = threading.Lock()  # of all that follows
        self.named: list[Named] = []
        self._fetched_at = 0.0  # seconds since the epoch
        self._held: Secret | None = None
        self._failures = 0
        self._stopped = threading.Event()
        # A daemon: no answer that is waited for may hold up the end of the gateway.
        self._thread = threading.Thread(target=self._run, name="secret", daemon=True)

    def serve(self, named: list[Named]) -> None:
        """Have it written for these, and begin to fetch it."""
        with self._lock:
            new = [one for one in named if one not in self.named]
            self.named = named
            if self.tried.is_set():
                self._write(new)
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._stopped.set()

    def _run(self) -> None:
        pause = 0.0
        while not self._stopped.wait(pause):
            fetched = self._fetch()
            with self._lock:
                if not self._stopped.is_set():
                    pause = self._taken(fetched, time.time())
                    self.tried.set()

    def _fetch(self) -> Secret | SecretError:
        try:
            return self._source.fetch()
        except SecretError as error:
            return error
        except Exception as error:
            return SecretError(f"{type(error).__name__}, which is a fault of the gateway's; please report it")

    def _taken(self, fetched: Secret | SecretError, now: float) -> float:
        """Write what was fetched, or go on with what there is until its end. Seconds until the next turn."""
        if isinstance(fetched, Secret) and _is_over(fetched, now):
            fetched = SecretError("it is over already: does the clock of this machine go right?")
        if isinstance(fetched, SecretError):
            return self._failed(fetched, now)
        self._held, self._fetched_at = fetched, now
        if not self._write(self.named):
            return _LONGEST_PAUSE
        if self._failures:
            log.warning("%s: the secret is fresh again", self._owners())
        self._failures = 0
        self._count("fetched")
        return renewal(fetched, now)

    def _failed(self, error: SecretError, now: float) -> float:
        self._failures += 1
        self._count("failed")
        pause = retry(self._failures)
        over = self._held is None or error.withdrawn or _is_over(self._held, now)
        if over and (self._held is not None or not self.tried.is_set()):
            self._held = None
            self._write(self.named)
        if self._held is not None and self._held.expires_at is not None:
            pause = min(pause, self._held.expires_at - now)
        state = "there is none, so calls there go without" if over else "the last one serves on"
        log.warning("%s: no secret: %s; %s; trying again in %.0f s", self._owners(), error, state, pause)
        return pause

    def _write(self, named: Iterable[Named]) -> bool:
        """The secret, or none, into the files of these; whether that was possible."""
        value = self._held.value if self._held else ""
        try:
            for one in named:
                if one.token_file is not None:
                    store_tokens.put(one.token_file, self._held)
                else:
                    sds.replace(self._directory / secret_file(one.secret), sds.text(one.secret, value))
                SECRET_FETCHED.labels(one.owner).set(self._fetched_at if value else 0)
        except OSError as error:
            log.error("%s: the file of the secret cannot be written: %s", self._owners(), error.strerror)
            return False
        return True

    def _count(self, outcome: str) -> None:
        for one in self.named:
            SECRET_REFRESHES.labels(one.owner, outcome).inc()

    def _owners(self) -> str:
        return ", ".join(one.owner for one in self.named)


def _is_over(secret: Secret, now: float) -> bool:
    return secret.expires_at is not None and secret.expires_at <= now


def renewal(secret: Secret, now: float) -> float:
    """Seconds until a secret is to be fetched again: well before its end, and not for all gateways at once.

    A source that wants to be asked at once, whatever it gives, is asked once a minute while what it gave is good.
    """
    left = threading.TIMEOUT_MAX if secret.expires_at is None else _SHARE * (secret.expires_at - now)
    wanted = left if secret.renew_at is None else secret.renew_at - now
    least = _LEAST_PAUSE if secret.expires_at is None else max(_LEAST_PAUSE, min(_LONGEST_PAUSE, left))
    return min(max(least, min(left, wanted)), threading.TIMEOUT_MAX) * random.uniform(1 - _JITTER, 1)  # noqa: S311 - no secret


def retry(failures: int) -> float:
    """Seconds until the next try after so many failures in a row."""
    longest = min(_LONGEST_PAUSE, _LEAST_PAUSE * 2.0 ** min(failures - 1, 10))
    return longest * random.uniform(1 - _JITTER, 1)  # noqa: S311 - no secret
