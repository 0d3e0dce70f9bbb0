"""Answers on any history: the same as a model that does not think of speed."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from extproc.stores.answers import BESIDE, Found, Kept, Labels
from tests.support.answers import Ground, ground_on
from tests.support.redis_server import RedisServer, redis_server

MOST = 5 * BESIDE
DIGESTS = st.sampled_from(["a", "b", "c", "d", "e", "f"])
CLAIMS = st.sampled_from(["x", "y", ""])
LIVES = st.integers(1, 50)
BODIES = st.one_of(
    st.binary(max_size=20),
    st.integers(0, MOST).map(bytes),
    st.just(b"\r\n$3\r\n"),
    st.integers(0, 3 * BESIDE).map(bytes),
)
LABELS = st.builds(Labels, *[st.sampled_from(["", "one", "två"])] * 3)


@dataclass(slots=True)
class Answer:
    sealed: bytes
    kept: Kept
    looked: int  # the number of the step


class Model:
    """What the port says. `evicts_soonest`: of those that have not ended, else the one nobody looked at for longest."""

    def __init__(self, evicts_soonest: bool) -> None:
        self.evicts_soonest = evicts_soonest
        self.answers: dict[str, Answer] = {}
        self.claims: dict[str, tuple[str, int]] = {}
        self.steps = 0

    def alive(self, now: int) -> dict[str, Kept]:
        return {digest: answer.kept for digest, answer in self.answers.items() if answer.kept.ends > now}

    def holder(self, digest: str, now: int) -> str | None:
        by, ends = self.claims.get(digest, ("", 0))
        return by if ends > now else None

    def look(self, digest: str, claim: str, life: int, now: int) -> Found:
        self.steps += 1
        if digest in self.alive(now):
            self.answers[digest].looked = self.steps
            return Found(self.answers[digest].sealed)
        holder = self.holder(digest, now)
        if holder is not None and holder != claim:
            return Found(made_by_another=True)
        if claim:
            self.claims[digest] = claim, now + life
        return Found(leads=bool(claim))

    def keep(self, kept: Kept, sealed: bytes, claim: str, is_of_now: bool) -> bool:
        self.steps += 1
        if claim and self.holder(kept.digest, kept.made) == claim:
            del self.claims[kept.digest]
        if not is_of_now or kept.size + BESIDE > MOST:
            return False
        self.answers = {digest: self.answers[digest] for digest in self.alive(kept.made) if digest != kept.digest}
        self.answers[kept.digest] = Answer(sealed, kept, self.steps)
        while sum(answer.kept.size + BESIDE for answer in self.answers.values()) > MOST:
            others = [answer for digest, answer in self.answers.items() if digest != kept.digest]
            first = min(others, key=self._order)
            del self.answers[first.kept.digest]
        return True

    def _order(self, answer: Answer) -> tuple[int, str]:
        return (answer.kept.ends, answer.kept.digest) if self.evicts_soonest else (answer.looked, "")

    def renew(self, digest: str, claim: str, life: int, now: int) -> bool:
        if not claim or self.holder(digest, now) != claim:
            return False
        self.claims[digest] = claim, now + life
        return True

    def release(self, digest: str, claim: str, now: int) -> None:
        if self.holder(digest, now) == claim:
            del self.claims[digest]

    def purge(self, labels: Labels, now: int) -> int:
        self.claims.clear()
        going = [digest for digest, kept in self.alive(now).items() if kept.labels == labels]
        for digest in going:
            del self.answers[digest]
        return len(going)


class Histories(RuleBasedStateMachine):
    def make_ground(self) -> AbstractAsyncContextManager[Ground]:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.context = self.make_ground()
        self.ground = self.runner.run(self.context.__aenter__())
        self.model = Model(self.ground.evicts_soonest)
        self.epochs = [self.runner.run(self.ground.store.look("other")).epoch]

    def teardown(self) -> None:
        self.runner.run(self.context.__aexit__(None, None, None))
        self.runner.close()

    @rule(ms=st.integers(1, 60))
    def time_passes(self, ms: int) -> None:
        self.ground.clock.now += ms

    @rule(digest=DIGESTS, claim=CLAIMS, life=LIVES)
    def look(self, digest: str, claim: str, life: int) -> None:
        found = self.runner.run(self.ground.store.look(digest, claim, life))
        expected = self.model.look(digest, claim, life, self.ground.clock.now)
        assert found == Found(expected.sealed, expected.leads, expected.made_by_another, self.epochs[-1])

    @rule(
        digest=DIGESTS,
        sealed=BODIES,
        labels=LABELS,
        life=LIVES,
        claim=CLAIMS,
        back=st.sampled_from([0, 0, 0, 0, 1, 2]),
    )
    def keep(self, digest: str, sealed: bytes, labels: Labels, life: int, claim: str, back: int) -> None:
        epoch, now = self.epochs[max(0, len(self.epochs) - 1 - back)], self.ground.clock.now
        kept = self.runner.run(self.ground.store.keep(digest, sealed, labels, life, epoch, claim))
        known = Kept(digest, labels, now, now + life, len(sealed))
        assert kept == self.model.keep(known, sealed, claim, epoch == self.epochs[-1])

    @rule(digest=DIGESTS, claim=CLAIMS, life=LIVES)
    def renew(self, digest: str, claim: str, life: int) -> None:
        renewed = self.runner.run(self.ground.store.renew(digest, claim, life))
        assert renewed == self.model.renew(digest, claim, life, self.ground.clock.now)

    @rule(digest=DIGESTS, claim=CLAIMS)
    def release(self, digest: str, claim: str) -> None:
        self.runner.run(self.ground.store.release(digest, claim))
        self.model.release(digest, claim, self.ground.clock.now)

    @rule(labels=LABELS)
    def purge(self, labels: Labels) -> None:
        gone = self.runner.run(self.ground.store.purge(lambda one: one.labels == labels))
        assert gone == self.model.purge(labels, self.ground.clock.now)
        self.epochs.append(self.runner.run(self.ground.store.look("other")).epoch)
        assert self.epochs[-1] > self.epochs[-2]

    @invariant()
    def the_same_are_kept(self) -> None:
        assert self.runner.run(self.ground.kept()) == self.model.alive(self.ground.clock.now)


class InMemory(Histories):
    def make_ground(self) -> AbstractAsyncContextManager[Ground]:
        return ground_on(None, MOST)


TestMemory = InMemory.TestCase
TestMemory.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def test_redis(server: RedisServer) -> None:
    class InRedis(Histories):
        def make_ground(self) -> AbstractAsyncContextManager[Ground]:
            return ground_on(server, MOST)

    run_state_machine_as_test(InRedis, settings=settings(max_examples=50, stateful_step_count=40, deadline=None))
