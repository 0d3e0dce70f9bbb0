"""Looking through texts: what is remembered, what goes to a thread, and who finds names."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import orjson
import pytest

from extproc.redaction.detector import Finding
from extproc.redaction.policy import NameTier
from extproc.redaction.profile import DetectionFailed
from extproc.screening.detection import INLINE, Detection
from extproc.screening.ner import NamesFailed
from tests.support.screened import Answers

TEXT = "a text that is long enough to be remembered, with the word canary somewhere in it"
NAMES = NameTier(frozenset({"PERSON"}), service="analyzer", timeout=1.0)


class Canaries:
    """Finds the word canary, and counts the texts that it looks through."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.looked = 0
        self.threads: set[str] = set()
        self._before = before

    def findings(self, text: str) -> Sequence[Finding]:
        self.looked += 1
        self.threads.add(threading.current_thread().name)
        self._before()
        at = text.find("canary")
        return [] if at < 0 else [Finding(at, at + 6, "CANARY", 1.0)]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def detection(wait: float = 5.0, services: Answers | None = None, clock: Clock | None = None) -> Detection:
    return Detection(wait, {}, services or Answers(), clock or Clock())


async def test_a_conversation_is_looked_through_once() -> None:
    detector, look = Canaries(), detection()
    turns = [f"turn {number}: {TEXT}" for number in range(20)]
    for length in range(1, len(turns) + 1):
        found = await look.findings(detector, turns[:length])
        assert [[finding.entity for finding in findings] for findings in found] == [["CANARY"]] * length
    assert detector.looked == len(turns)


async def test_what_another_finder_found_says_nothing() -> None:
    first, second, look = Canaries(), Canaries(), detection()
    await look.findings(first, [TEXT])
    await look.findings(second, [TEXT])
    assert (first.looked, second.looked) == (1, 1)


async def test_what_was_found_is_forgotten_ten_minutes_after_the_text_came_last() -> None:
    detector, clock = Canaries(), Clock()
    look = detection(clock=clock)
    for now, looked in ((0, 1), (500, 1), (1_000, 1), (1_601, 2)):
        clock.now = now
        await look.findings(detector, [TEXT])
        assert detector.looked == looked


async def test_the_oldest_is_forgotten_where_there_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.screening.detection._KEPT", 3)
    detector, look = Canaries(), detection()
    texts = [f"{number}: {TEXT}" for number in range(4)]
    await look.findings(detector, texts)
    await look.findings(detector, texts[1:])
    assert detector.looked == 4
    await look.findings(detector, texts[:1])
    assert detector.looked == 5


async def test_no_text_is_kept() -> None:
    look = detection()
    await look.findings(Canaries(), [TEXT, "short"])
    assert "canary" not in repr(vars(look._memory)).lower().replace("entity='canary'", "")


async def test_half_a_surrogate_pair_can_be_looked_through() -> None:
    assert await detection().findings(Canaries(), ["\ud800" * 100 + "canary"]) == [[Finding(100, 106, "CANARY", 1.0)]]


async def test_long_texts_go_to_a_thread_and_the_loop_goes_on() -> None:
    held, reached = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        held.wait(5)

    detector, look = Canaries(before=hold), detection()

    async def release() -> None:
        while not reached.is_set():
            await asyncio.sleep(0)
        held.set()

    found, _ = await asyncio.gather(look.findings(detector, ["x" * (INLINE + 1)]), release())
    assert found == [[]]
    assert all(name.startswith("detection") for name in detector.threads)


async def test_short_texts_stay_on_the_loop() -> None:
    detector = Canaries()
    await detection().findings(detector, [TEXT])
    assert detector.threads == {threading.current_thread().name}


async def test_what_takes_too_long_is_given_up() -> None:
    held = threading.Event()
    look = detection(wait=0.01)

    def hold() -> None:
        held.wait(5)

    with pytest.raises(DetectionFailed):
        await look.findings(Canaries(before=hold), ["x" * (INLINE + 1)])
    held.set()


class Broken:
    def findings(self, text: str) -> Sequence[Finding]:
        raise ValueError(text)


async def test_a_fault_of_a_finder_is_a_failure_that_tells_no_text(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DetectionFailed) as failed:
        await detection().findings(Broken(), [TEXT])
    assert "canary" not in f"{failed.value}{failed.value.__cause__}{caplog.text}"
    assert "ValueError at findings" in caplog.text


# ---- names ------------------------------------------------------------------------------------------


def analyzer(service: str, path: str, body: bytes) -> bytes:
    text = orjson.loads(body)["text"]
    at = text.find("Ada")
    found = [{"start": at, "end": at + 3, "score": 0.9, "entity_type": "PERSON"}] if at >= 0 else []
    return orjson.dumps(found)


async def test_a_service_is_asked_once_about_each_text() -> None:
    services = Answers(analyzer)
    look = detection(services=services)
    texts = [f"{TEXT} of Ada", f"{TEXT} of nobody"]
    for _ in range(2):
        found = await look.names(NAMES, texts)
        assert [[finding.entity for finding in findings] for findings in found] == [["PERSON"], []]
    assert [service for service, _, _ in services.asked] == ["analyzer"] * 2


def odd(service: str, path: str, body: bytes) -> bytes:
    return b'[{"start": 0, "end": 1000000, "score": 1, "entity_type": "PERSON"}]'


@pytest.mark.parametrize("services", [Answers(), Answers(odd)], ids=["no answer", "an answer that cannot be"])
async def test_a_service_that_cannot_be_used_is_a_failure(services: Answers) -> None:
    with pytest.raises(DetectionFailed):
        await detection(services=services).names(NAMES, [TEXT])


async def test_more_text_than_the_tier_takes_is_a_failure() -> None:
    services = Answers(analyzer)
    with pytest.raises(DetectionFailed):
        await detection(services=services).names(NAMES, ["x" * (NAMES.max_text + 1)])
    assert services.asked == []


class Unloadable:
    """A model that cannot be had."""

    async def load(self) -> None:
        raise NamesFailed("it is not there")

    async def findings(self, tier: NameTier, texts: Sequence[str]) -> Sequence[Sequence[Finding]]:
        raise NamesFailed("it is not there")

    async def close(self) -> None:
        pass


async def test_a_model_that_cannot_be_loaded_fails_calls_and_not_the_worker() -> None:
    look = Detection(1.0, {"some": Unloadable()}, Answers())
    await look.open()
    with pytest.raises(DetectionFailed, match="it is not there"):
        await look.names(NameTier(frozenset({"PERSON"}), model="some"), [TEXT])
    await look.close()


class Faulty(Unloadable):
    async def load(self) -> None:
        raise LookupError


async def test_a_fault_while_models_are_loaded_is_told() -> None:
    with pytest.raises(LookupError):
        await Detection(1.0, {"some": Faulty()}, Answers()).open()
