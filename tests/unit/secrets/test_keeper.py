"""What the keeper makes of a source: which secret stands in Envoy's files, until when, and what is said of it."""

import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from extproc.config.fields import Credential
from extproc.config.schema import Gateway
from extproc.secrets import Secret, SecretError, keeper, store_tokens
from extproc.secrets.keeper import Keeper, renewal, retry
from extproc.secrets.named import named_secrets, secret_file
from tests.support.gateway import until

ENTRA = {"entra": {"client_id": "app"}}
Answer = Secret | Exception


class Scripted:
    """A source that gives what a test says, and counts."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.fetches = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def check(self) -> None:
        """Nothing is wrong here."""

    def fetch(self) -> Secret:
        self.may_answer.wait(20)
        answer = self.answers[min(self.fetches, len(self.answers) - 1)]
        self.fetches += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


def token(value: str, lifetime: float = 3600) -> Secret:
    return Secret(value, expires_at=time.time() + lifetime)


def gateway(**credentials: Any) -> Gateway:
    backends = {
        name: {"dialect": "openai", "url": f"http://{name}.example", "credential": credential}
        for name, credential in credentials.items()
    }
    return Gateway.model_validate({"backends": backends, "models": {"m": {"targets": [[{"backend": "a"}]]}}})


class Kept:
    """A keeper over scripted sources, by the client id of what signs in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources: dict[str, Scripted] = {}
        self.keeper = Keeper(folder, {})
        self._gateway = gateway(a=None)

    def source_of(self, credential: Credential, environ: object) -> Scripted:
        assert credential.entra is not None
        return self.sources[str(credential.entra.client_id)]

    def configure(self, configured: Gateway, patience: float = 20.0) -> None:
        self._gateway = configured
        self.keeper.configure(configured, patience)

    def file(self, owner: str) -> Path:
        (secret,) = (named.secret for named in named_secrets(self._gateway) if named.owner == f"backends.{owner}")
        return self.folder / secret_file(secret)

    def value(self, owner: str) -> str | None:
        """What Envoy reads for a backend; None where there is no file."""
        try:
            (secret,) = json.loads(self.file(owner).read_text())["resources"]
        except FileNotFoundError:
            return None
        assert secret["name"] == self.file(owner).stem
        return str(secret["generic_secret"]["secret"]["inline_string"])


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    """Its pauses are short."""
    kept = Kept(tmp_path)
    monkeypatch.setattr(keeper, "source_of", kept.source_of)
    monkeypatch.setattr(keeper, "_LEAST_PAUSE", 0.02)
    monkeypatch.setattr(keeper, "_LONGEST_PAUSE", 0.1)
    yield kept
    kept.keeper.stop()


def start(kept: Kept, *answers: Answer) -> Scripted:
    kept.sources["app"] = Scripted(*answers)
    kept.configure(gateway(a=ENTRA))
    return kept.sources["app"]


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


# ---- one secret ----


def test_a_secret_is_in_its_file_when_the_configuration_has_been_taken(kept: Kept) -> None:
    fetched = sample("sluice_secret_refreshes_total", secret="backends.a", outcome="fetched")
    start(kept, token("t-1"))
    assert kept.value("a") == "t-1"
    assert stat.S_IMODE(kept.file("a").stat().st_mode) == 0o600
    assert [file.name for file in kept.folder.iterdir()] == [kept.file("a").name], "nothing is left beside it"
    assert sample("sluice_secret_refreshes_total", secret="backends.a", outcome="fetched") == fetched + 1
    assert sample("sluice_secret_fetched_timestamp_seconds", secret="backends.a") == pytest.approx(time.time(), abs=60)


def test_a_secret_is_renewed_before_its_end(kept: Kept) -> None:
    source = start(kept, token("t-1", 1.0), token("t-2"))
    until(lambda: kept.value("a") == "t-2", what="the second token")
    time.sleep(0.1)
    assert source.fetches == 2, "the second has an hour"


def test_what_its_source_wants_asked_again_is(kept: Kept) -> None:
    source = start(kept, Secret("k-1", renew_at=time.time()), Secret("k-2"))
    until(lambda: kept.value("a") == "k-2", what="the rotated secret")
    time.sleep(0.1)
    assert source.fetches == 2, "what has no end and no wish is not asked again"


def test_while_no_new_one_can_be_had_the_old_one_serves_to_its_end(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    failed = sample("sluice_secret_refreshes_total", secret="backends.a", outcome="failed")
    short = Secret("t-1", expires_at=time.time() + 2, renew_at=time.time())
    source = start(kept, short, *[SecretError("nobody is there")] * 10_000)
    until(lambda: source.fetches > 2, what="some failures")
    assert short.expires_at is not None
    assert kept.value("a") == "t-1" or time.time() >= short.expires_at
    until(lambda: kept.value("a") == "", what="the end of the token")
    assert time.time() >= short.expires_at
    assert sample("sluice_secret_fetched_timestamp_seconds", secret="backends.a") == 0
    assert sample("sluice_secret_refreshes_total", secret="backends.a", outcome="failed") > failed
    assert "backends.a: no secret: nobody is there; the last one serves on; trying again in" in caplog.text
    assert "backends.a: no secret: nobody is there; there is none, so calls there go without" in caplog.text
    source.answers[source.fetches + 2 :] = [token("t-2")]
    until(lambda: kept.value("a") == "t-2", what="the token after the outage")
    until(lambda: "backends.a: the secret is fresh again" in caplog.text)
    assert "t-1" not in caplog.text
    assert "t-2" not in caplog.text


def test_at_the_start_none_takes_the_place_of_what_an_earlier_run_left(kept: Kept) -> None:
    kept.configure(gateway(a=None))
    kept.sources["app"] = Scripted(SecretError("wrong secret"))
    configured = gateway(a=ENTRA)
    (named,) = named_secrets(configured)
    (kept.folder / secret_file(named.secret)).write_text("what was there")
    kept.configure(configured)
    assert kept.value("a") == ""


def test_what_is_withdrawn_serves_no_more(kept: Kept) -> None:
    start(kept, Secret("k-1", renew_at=time.time()), SecretError("disabled", withdrawn=True), Secret("k-2"))
    until(lambda: kept.value("a") == "k-2", what="the secret that is there again")


def test_what_is_withdrawn_is_taken_away(kept: Kept) -> None:
    source = start(kept, Secret("k-1", renew_at=time.time()), *[SecretError("disabled", withdrawn=True)] * 10_000)
    until(lambda: kept.value("a") == "", what="the end of it")
    assert source.fetches >= 2


def test_a_token_that_is_over_when_it_comes_is_none(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    start(kept, token("t-1", -5))
    assert kept.value("a") == ""
    assert "it is over already: does the clock of this machine go right?" in caplog.text


def test_a_fault_of_a_source_ends_nothing_and_is_told_without_its_text(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    start(kept, RuntimeError("sk-canary"), token("t-1"))
    until(lambda: kept.value("a") == "t-1", what="the token after the fault")
    assert "RuntimeError, which is a fault of the gateway's" in caplog.text
    assert "sk-canary" not in caplog.text


def test_a_file_that_cannot_be_written_is_told_and_tried_again(
    tmp_path: Path, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    kept.folder = tmp_path / "secrets"
    kept.keeper = Keeper(kept.folder, {})
    start(kept, token("t-1"))
    assert "backends.a: the file of the secret cannot be written: No such file or directory" in caplog.text
    kept.folder.mkdir()
    until(lambda: kept.value("a") == "t-1", what="the file")


# ---- a set of them ----


def test_backends_of_one_identity_share_a_token(kept: Kept) -> None:
    kept.sources["app"] = Scripted(token("t-1"))
    kept.configure(gateway(a=ENTRA, b=ENTRA))
    assert (kept.value("a"), kept.value("b")) == ("t-1", "t-1")
    assert kept.sources["app"].fetches == 1


def test_a_new_backend_has_the_token_of_its_identity_at_once(kept: Kept) -> None:
    source = start(kept, token("t-1"))
    kept.configure(gateway(a=ENTRA, b=ENTRA))
    assert (kept.value("a"), kept.value("b")) == ("t-1", "t-1")
    assert source.fetches == 1


def test_what_is_configured_no_more_is_fetched_no_more(kept: Kept) -> None:
    other = {"entra": {"client_id": "other"}}
    kept.sources["other"] = Scripted(Secret("k", renew_at=0.0))  # wants to be asked all the time
    kept.sources["app"] = Scripted(token("t-1"))
    kept.configure(gateway(a=ENTRA, b=other))
    left = kept.file("b")
    kept.configure(gateway(a=ENTRA))
    fetches, left_at = kept.sources["other"].fetches, left.stat().st_mtime_ns
    time.sleep(0.3)
    assert kept.sources["other"].fetches <= fetches + 1, "one was under way"
    assert left.stat().st_mtime_ns == left_at
    gauge = "sluice_secret_fetched_timestamp_seconds"
    assert REGISTRY.get_sample_value(gauge, {"secret": "backends.b"}) is None, "nobody waits for it"
    assert sample(gauge, secret="backends.a") > 0
    assert kept.value("a") == "t-1"


def test_nothing_waits_for_a_source_for_long(kept: Kept) -> None:
    kept.sources["app"] = Scripted(token("t-1"))
    kept.sources["app"].may_answer.clear()
    kept.configure(gateway(a=ENTRA), patience=0.05)
    assert kept.value("a") is None
    kept.sources["app"].may_answer.set()
    until(lambda: kept.value("a") == "t-1", what="the token that came late")


def test_a_fetch_that_ends_after_the_stop_changes_nothing(kept: Kept) -> None:
    kept.sources["app"] = Scripted(token("t-1"))
    kept.sources["app"].may_answer.clear()
    kept.configure(gateway(a=ENTRA), patience=0.05)
    kept.keeper.stop()
    kept.sources["app"].may_answer.set()
    until(lambda: kept.sources["app"].fetches == 1, what="the end of the fetch")
    time.sleep(0.1)
    assert kept.value("a") is None


def test_what_envoy_reads_by_itself_is_not_kept(kept: Kept) -> None:
    kept.configure(gateway(a={"env": "KEY"}, b={"file": "/run/secrets/b"}))
    assert list(kept.folder.iterdir()) == []


# ---- when ----

NOW = 1_800_000_000.0


@given(lifetime=st.floats(2, 90_000), hint=st.none() | st.floats(1, 90_000))
def test_a_token_is_renewed_well_before_its_end_and_not_at_once(lifetime: float, hint: float | None) -> None:
    wait = renewal(Secret("t", NOW + lifetime, None if hint is None else NOW + hint), NOW)
    longest = max(1.0, min(0.8 * lifetime, lifetime if hint is None else max(60.0, hint)))
    assert 0.9 * longest - 1e-6 <= wait <= longest + 1e-6


@pytest.mark.parametrize("hint", [-1e9, 0.0, 1.0])
def test_a_source_that_wants_to_be_asked_at_once_is_asked_once_a_minute(hint: float) -> None:
    assert renewal(Secret("t", NOW + 3600, NOW + hint), NOW) >= 0.9 * 60


def test_an_end_beyond_all_clocks_is_never_waited_for() -> None:
    assert renewal(Secret("t", 1e300, 1e300), NOW) <= threading.TIMEOUT_MAX


@given(failures=st.integers(1, 10_000))
def test_tries_become_rarer_but_do_not_end(failures: int) -> None:
    longest = min(60.0, 2.0 ** min(failures - 1, 10))
    assert 0.9 * longest <= retry(failures) <= longest


@pytest.mark.parametrize("pause", [lambda: retry(5), lambda: renewal(Secret("t", NOW + 3600), NOW)])
def test_gateways_that_began_together_do_not_ask_together(pause: Callable[[], float]) -> None:
    assert len({pause() for _ in range(20)}) > 1


# ---- tokens of stores ----


def with_store(state: Path) -> Gateway:
    settings = gateway(a=None).model_dump(exclude={"stores", "team_backends"}, exclude_none=True, mode="json")
    stores = {"counters": "rediss://object-id@cache.example:10000/0", "counters_credential": ENTRA}
    return Gateway.model_validate({**settings, "state_dir": str(state), "stores": stores})


def test_the_token_of_a_store_is_alone_in_its_file_which_tells_its_end(kept: Kept, tmp_path: Path) -> None:
    first = token("t-1", 1.5)
    kept.sources["app"] = Scripted(first, SecretError("away"))
    kept.configure(with_store(tmp_path / "state"))
    file = tmp_path / "state/tokens/counters"
    assert file.read_text() == "t-1"
    assert file.stat().st_mtime == pytest.approx(first.expires_at, abs=0.01)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert sample("sluice_secret_fetched_timestamp_seconds", secret="stores.counters") > 0
    until(lambda: file.read_text() == "", what="the end of the token")


def test_a_token_that_is_still_good_outlives_a_restart_during_an_outage(kept: Kept, tmp_path: Path) -> None:
    file = tmp_path / "state/tokens/counters"
    store_tokens.put(file, token("of-before"))
    kept.sources["app"] = Scripted(SecretError("away"))
    kept.configure(with_store(tmp_path / "state"))
    assert file.read_text() == "of-before"


def test_a_command_takes_the_token_that_is_there_and_else_fetches_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Scripted(token("t-1"), token("t-2", 30), SecretError("away"))
    monkeypatch.setattr(store_tokens, "source_of", lambda *_: source)
    configured, file = with_store(tmp_path / "state"), tmp_path / "state/tokens/counters"
    assert [*store_tokens.fetch(configured, {})] == []
    assert [*store_tokens.fetch(configured, {})] == []
    assert (file.read_text(), source.fetches) == ("t-1", 1)
    os.utime(file, (0, 0))
    assert [*store_tokens.fetch(configured, {})] == []
    assert (file.read_text(), source.fetches) == ("t-2", 2)
    assert [*store_tokens.fetch(configured, {})] == ["stores.counters: no token: away"], "half a minute is too little"
    assert file.read_text() == "t-2", "it may do"
