"""The issuer's keys cannot be had: what was known goes on, what was not is refused, and nobody waits."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.dataplane.conftest import SECRETS, standard_settings
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.oidc import JwksServer
from tests.support.raw_http import Connection, head
from tests.support.tokens import AUDIENCE, ENTRA, SigningKeys, bearer, claims_of, genuine, seed

MOODS = ["500", "html", "empty", "slow", "hangs up", "closed"]
REFRESH = 1.0
AT_ONCE = 3.0
"""Seconds: what no call may take on a busy machine; who waits for the issuer waits longer."""
FETCH = 5.0
"""Seconds: the longest that a token's call waits where there has never been a key to check it with."""
HEALED = 15.0
"""Seconds after which a recovered issuer must be noticed; a fetch that hangs has to run out of time first."""


@contextmanager
def gateway_at(fake: FakeProvider, source: JwksServer | Path) -> Iterator[RunningGateway]:
    """A gateway that takes the tokens of one issuer, with its keys from there."""
    keys = {"jwks_file": str(source)} if isinstance(source, Path) else {"jwks_url": source.url, "jwks_refresh": REFRESH}
    issuer = {
        "issuer": ENTRA,
        "audiences": [AUDIENCE],
        **keys,
        "rules": [{"claim": "roles", "value": "Caller", "team": "research"}],
    }
    gateway = RunningGateway({**standard_settings(fake), "identity": {"issuers": {"entra": issuer}}}, SECRETS)
    seed(gateway)
    with gateway:
        yield gateway


@pytest.fixture(scope="module")
def keys() -> SigningKeys:
    return SigningKeys()


@pytest.fixture(scope="module")
def jwks(keys: SigningKeys) -> Iterator[JwksServer]:
    with JwksServer(keys.public()) as server:
        yield server


@pytest.fixture(scope="module")
def running(fake: FakeProvider, jwks: JwksServer, keys: SigningKeys) -> Iterator[RunningGateway]:
    with gateway_at(fake, jwks) as gateway:
        until(lambda: ask(gateway, token(keys)) == 200, what="the issuer's keys")
        yield gateway


def token(keys: SigningKeys) -> str:
    return genuine(keys, claims_of("ann"))


def ask(gateway: RunningGateway, credential: str, patience: float = AT_ONCE) -> int:
    """The status of a call, which must not take longer than that."""
    began = time.monotonic()
    with Connection(gateway.port) as connection:
        connection.send(head("GET", "/v1/me", bearer(credential)))
        status = connection.answer().status
    assert time.monotonic() - began < patience
    return status


def turn(jwks: JwksServer, mood: str) -> None:
    """Make the issuer's server well or not, and not well in one way only."""
    jwks.mood = "well" if mood == "closed" else mood
    jwks.close()
    if mood != "closed":
        jwks.open()


def watch(seconds: float, check: Callable[[], None]) -> None:
    """Check again and again for as long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        check()
        time.sleep(0.05)


@pytest.mark.parametrize("mood", MOODS)
def test_known_keys_outlive_the_issuer_and_new_ones_are_taken_up_when_it_is_back(
    mood: str, running: RunningGateway, jwks: JwksServer, keys: SigningKeys
) -> None:
    new = SigningKeys()
    before = jwks.fetches
    turn(jwks, mood)
    jwks.keys = new.public()
    try:

        def check() -> None:
            assert ask(running, token(keys)) == 200
            assert ask(running, token(new)) == 401
            assert ask(running, running.key) == 200

        watch(2.5 * REFRESH, check)
        assert jwks.fetches > before or mood == "closed", "nobody asked, so nothing was shown"
        turn(jwks, "well")
        until(lambda: ask(running, token(new)) == 200, HEALED, "the new keys")
        assert ask(running, token(keys)) == 401
    finally:
        turn(jwks, "well")
        jwks.keys = keys.public()
    until(lambda: ask(running, token(keys)) == 200, HEALED, "the old keys")


@pytest.mark.parametrize("mood", ["500", "empty", "slow", "closed"])
def test_a_start_without_the_issuer_serves_keys_and_takes_tokens_up_later(
    mood: str, fake: FakeProvider, keys: SigningKeys
) -> None:
    with JwksServer(keys.public()) as jwks:
        turn(jwks, mood)
        with gateway_at(fake, jwks) as gateway:
            assert ask(gateway, gateway.key) == 200
            with ThreadPoolExecutor(4) as pool:  # they wait for keys; others must not wait for them
                waiting = [pool.submit(ask, gateway, token(keys), FETCH) for _ in range(4)]
                watch(0.5, lambda: None if ask(gateway, gateway.key) == 200 else pytest.fail("a good key"))
                assert {call.result() for call in waiting} == {503}
            turn(jwks, "well")
            until(lambda: ask(gateway, token(keys), FETCH) == 200, HEALED, "the issuer's keys")


def test_keys_in_a_file_need_no_server(fake: FakeProvider, keys: SigningKeys, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(keys.public()))
    with gateway_at(fake, file) as gateway:
        assert ask(gateway, token(keys)) == 200
        assert ask(gateway, token(SigningKeys())) == 401


def test_calls_do_not_make_the_gateway_ask_an_issuer_that_is_down(fake: FakeProvider, keys: SigningKeys) -> None:
    """Whoever sends tokens while there are no keys must not turn the gateway against the issuer."""
    with JwksServer(keys.public()) as jwks:
        turn(jwks, "500")
        with gateway_at(fake, jwks) as gateway:
            before, began = jwks.fetches, time.monotonic()
            for _ in range(100):
                ask(gateway, token(keys))
            fetched, seconds = jwks.fetches - before, time.monotonic() - began
    assert fetched <= 3 * (seconds + 1)


def test_keys_are_fetched_as_often_as_configured_and_no_oftener(
    running: RunningGateway, jwks: JwksServer, keys: SigningKeys
) -> None:
    before = jwks.fetches
    watch(5 * REFRESH, lambda: None if ask(running, token(keys)) == 200 else pytest.fail("a good token"))
    assert 2 <= jwks.fetches - before <= 7
