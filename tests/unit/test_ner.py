"""The model's process: what it is asked and answers, and what becomes of calls when it is ill.

The process is real; spaCy in it is `tests/support/stand_in`. With spaCy itself: `tests/contract/test_ner_local.py`.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from unicodedata import category

import psutil
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from extproc import companion
from extproc.program import ModelUnusable, refuse_network
from extproc.redaction.overlaps import Finding
from extproc.redaction.policy import NameTier
from extproc.redaction.profile import DetectionFailed
from extproc.screening import ner, ner_model
from extproc.screening.ner import LocalModel, NamesFailed
from extproc.screening.ner_model import LONGEST_PIECE, LONGEST_WORD, Piece

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = ROOT / "tests" / "support" / "stand_in"
TIER = NameTier(frozenset({"PERSON"}), timeout=20.0)
HASTY = NameTier(frozenset({"PERSON"}), timeout=0.3)
PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), str(ROOT)]))
    monkeypatch.setattr(companion, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(companion, "_GRACE_S", 0.2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pipeline").write_text("tok2vec=ner ner")
    return tmp_path


@pytest.fixture
async def model(folder: Path) -> AsyncIterator[LocalModel]:
    made = LocalModel(str(folder))
    try:
        yield made
    finally:
        await made.close()


def children() -> list[int]:
    """The processes of models."""
    return [child.pid for child in psutil.Process().children() if is_model(child)]


def is_model(child: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):  # or dead, and not yet buried
        return "extproc.screening.ner_model" in child.cmdline()
    return False


async def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.01)


async def found(model: LocalModel, *texts: str, tier: NameTier = TIER) -> list[list[str]]:
    results = await model.findings(tier, texts)
    return [[text[one.start : one.end] for one in some] for text, some in zip(texts, results, strict=True)]


async def recovered(model: LocalModel) -> list[int]:
    """Once it finds names again: the processes that there are."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            await model.load()
            assert await found(model, "is Ada here") == [["Ada"]]
        except NamesFailed:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        else:
            return children()


# ---- what is found ----


async def test_the_names_in_each_of_the_texts(model: LocalModel) -> None:
    assert await model.findings(TIER, ["by Ada"]) == [[Finding(3, 6, "PERSON", 0.85)]]
    assert await found(model, "", "Ada 😀 and Bob", " \n", "😀 Clara") == [[], ["Ada", "Bob"], [], ["Clara"]]
    assert await found(model) == []
    assert len(children()) == 1


async def test_half_a_surrogate_pair_does_not_stop_anything(model: LocalModel) -> None:
    assert await found(model, "\ud83d Ada \udfff") == [["Ada"]]


async def test_long_texts_come_back_with_their_offsets(model: LocalModel) -> None:
    text = "so said Ada. " * 2_000
    wide = NameTier(frozenset({"PERSON"}), max_text=len(text), timeout=PATIENCE)
    (findings,) = await model.findings(wide, [text])
    assert [one.start for one in findings] == [at for at, character in enumerate(text) if character == "A"]


async def test_what_the_tier_does_not_ask_for_is_not_told(model: LocalModel) -> None:
    assert await found(model, "Ada", tier=NameTier(frozenset({"LOCATION"}), timeout=PATIENCE)) == [[]]


async def test_more_text_than_the_tier_allows_is_not_sent(model: LocalModel) -> None:
    short = NameTier(frozenset({"PERSON"}), max_text=10)
    with pytest.raises(NamesFailed, match=r"^too long$"):
        await model.findings(short, ["a" * 6, "b" * 5])
    assert children() == []
    assert issubclass(NamesFailed, DetectionFailed)


async def test_what_a_library_prints_is_no_answer(model: LocalModel) -> None:
    assert await found(model, "PRINT") == [["PRINT"]]


async def test_the_process_has_no_variables_but_a_few(model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_SECRET", "x")
    names = frozenset({"SLUICE_SECRET", "PATH", "OMP_NUM_THREADS"})
    (findings,) = await model.findings(NameTier(names, timeout=PATIENCE), ["ENVIRONMENT"])
    assert {one.entity for one in findings} == {"PATH", "OMP_NUM_THREADS"}


async def test_the_worker_does_not_import_spacy() -> None:
    script = "import sys, extproc.screening.ner; print('spacy' in sys.modules, 'numpy' in sys.modules)"
    run = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True
    )
    assert run.stdout.split() == [b"False", b"False"]


# ---- a model that cannot be loaded ----


@pytest.mark.parametrize("name", ["en_core_web_none", "/nowhere/model", "./nowhere", "extproc.nothing"])
async def test_a_model_that_is_not_there(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = LocalModel(name)
    message = f"there is no model {name!r}: install its wheel with pip, or name the folder of a model by its whole path"
    with pytest.raises(NamesFailed) as failed:
        await model.load()
    assert str(failed.value) == message
    began = time.monotonic()
    with pytest.raises(NamesFailed):
        await model.findings(TIER, ["Ada"])
    assert time.monotonic() - began < TIER.timeout / 2
    assert f"names are not found for now: {message}" in caplog.messages
    await model.close()


async def test_the_same_trouble_is_told_once(
    model: LocalModel, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = []
    spawn = companion._spawn

    async def counted(words: Sequence[str]) -> companion._Child:
        lives.append(words)
        return await spawn(words)

    monkeypatch.setattr(companion, "_spawn", counted)
    (folder / "damage").write_text("no config.cfg")
    with pytest.raises(NamesFailed):
        await model.load()
    await until(lambda: len(lives) > 2)
    assert len(caplog.messages) == 1
    (folder / "damage").unlink()
    await recovered(model)
    (folder / "damage").write_text("no config.cfg")
    os.kill(children()[0], signal.SIGKILL)
    await until(lambda: len(caplog.messages) > 2)
    assert [message[:70] for message in caplog.messages] == [
        caplog.messages[0][:70],
        "names are not found for now: the model's process ended",
        caplog.messages[0][:70],
    ]


async def test_a_model_is_tried_out_and_its_process_ended(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    await ner.try_out(str(folder))
    assert children() == []
    with pytest.raises(NamesFailed, match="there is no model"):
        await ner.try_out("nowhere_model")
    assert caplog.messages == []


async def test_spacy_is_not_there(model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spacy.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    with pytest.raises(NamesFailed, match=r"^spaCy is not installed: it comes with the extra `names`$"):
        await model.load()


async def test_a_folder_with_something_else_in_it(model: LocalModel, folder: Path) -> None:
    (folder / "damage").write_text("no config.cfg")
    with pytest.raises(NamesFailed) as failed:
        await model.load()
    assert str(failed.value) == (
        f"the model {str(folder)!r} cannot be loaded: OSError: no config.cfg. A folder has to be the one with "
        "config.cfg in it, and model and spaCy of the same minor version"
    )
    with pytest.raises(NamesFailed, match="OSError"):
        await ner.try_out(str(folder))
    (folder / "damage").unlink()  # once it is mended, nobody need restart anything
    await recovered(model)


async def test_a_pipeline_of_nothing(model: LocalModel, folder: Path) -> None:
    (folder / "pipeline").write_text("")
    with pytest.raises(NamesFailed) as failed:
        await model.load()
    assert str(failed.value) == f"the model {str(folder)!r} has nothing that finds names"


async def test_it_cannot_be_started(model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(NamesFailed, match=r"^the model's process failed: FileNotFoundError$"):
        await model.load()


async def test_a_model_that_never_gets_loaded(model: LocalModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "pipeline").unlink()
    os.mkfifo(folder / "pipeline")  # to open it takes for ever
    monkeypatch.setattr(companion, "_LOAD_S", 0.5)
    with pytest.raises(NamesFailed, match=r"^the model did not answer in time$"):
        await model.load()


# ---- a model that is ill ----


async def test_an_exception_fails_its_call_alone(model: LocalModel, caplog: pytest.LogCaptureFixture) -> None:
    await model.load()
    before = children()
    with pytest.raises(NamesFailed, match=r"^the model failed: ValueError$"):
        await model.findings(TIER, ["Ada was BAD"])
    assert await found(model, "Ada") == [["Ada"]]
    assert children() == before
    assert caplog.messages == []


async def test_a_model_has_no_network(model: LocalModel) -> None:
    with pytest.raises(NamesFailed, match=r"^the model failed: PermissionError$"):
        await model.findings(TIER, ["CALL"])


async def test_a_process_that_dies_fails_those_who_wait_and_is_replaced(
    model: LocalModel, caplog: pytest.LogCaptureFixture
) -> None:
    await model.load()
    before = children()
    calls = [model.findings(TIER, [text]) for text in ("SLOW", "Ada must DIE", "waits behind")]
    slow, *others = await asyncio.gather(*calls, return_exceptions=True)
    assert slow == [[Finding(0, 4, "PERSON", 0.85)]]
    assert [(type(other), str(other)) for other in others] == [(NamesFailed, "the model's process ended")] * 2
    after = await recovered(model)
    assert len(after) == 1
    assert after != before
    assert "names are not found for now: the model's process ended" in caplog.messages
    assert "Ada" not in caplog.text


async def test_a_process_that_is_killed_while_nobody_calls_is_replaced(
    model: LocalModel, caplog: pytest.LogCaptureFixture
) -> None:
    await model.load()
    (before,) = children()
    os.kill(before, signal.SIGKILL)
    await until(lambda: caplog.messages)
    assert caplog.messages == ["names are not found for now: the model's process ended"]
    (after,) = await recovered(model)
    assert after != before


async def test_a_process_that_does_not_answer_is_killed_and_replaced(model: LocalModel) -> None:
    await model.load()
    (before,) = children()
    began = time.monotonic()
    with pytest.raises(NamesFailed, match=r"^timeout$"):
        await model.findings(HASTY, ["HANG"])
    assert HASTY.timeout <= time.monotonic() - began < PATIENCE / 2
    await until(lambda: before not in children())
    (after,) = await recovered(model)
    assert after != before


async def test_a_process_that_is_only_slow_lives_on(model: LocalModel) -> None:
    await model.load()
    before = children()
    texts = ["SLOW" + " " * (LONGEST_PIECE - 4)] * 3  # a batch each
    wide = NameTier(frozenset({"PERSON"}), max_text=10**6, timeout=0.3)
    with pytest.raises(NamesFailed, match=r"^(timeout|the model failed: TooSlow)$"):
        await model.findings(wide, texts)
    assert await found(model, "Ada") == [["Ada"]]
    assert children() == before


async def test_a_call_whose_time_is_over_when_its_turn_comes_is_not_asked(model: LocalModel) -> None:
    await model.load()
    before = children()
    first = asyncio.ensure_future(model.findings(TIER, ["SLOW SLOW SLOW"]))
    await asyncio.sleep(0)
    with pytest.raises(NamesFailed, match=r"^timeout$"):
        await model.findings(HASTY, ["HANG"])
    assert len((await first)[0]) == 3
    assert await found(model, "Ada") == [["Ada"]]
    assert children() == before


async def test_a_call_that_is_cancelled_leaves_the_others_alone(model: LocalModel) -> None:
    await model.load()
    running, waiting = (asyncio.ensure_future(model.findings(TIER, [text])) for text in ("SLOW", "HANG"))
    await asyncio.sleep(0.05)
    running.cancel()
    waiting.cancel()
    assert await found(model, "Ada") == [["Ada"]]
    assert running.cancelled()
    assert waiting.cancelled()


def test_the_same_on_the_loop_that_workers_have(folder: Path) -> None:
    def is_as_before(before: list[int], stays: bool) -> bool:
        return (children() == before) is stays

    async def life() -> None:
        model = LocalModel(str(folder))
        try:
            assert await found(model, "Ada") == [["Ada"]]
            for text, message in (("DIE", "the model's process ended"), ("HANG", "timeout"), ("BAD", "ValueError")):
                before = await recovered(model)
                with pytest.raises(NamesFailed, match=message):
                    await model.findings(HASTY, [text])
                await until(partial(is_as_before, before, text == "BAD"))
            call = asyncio.ensure_future(model.findings(TIER, ["HANG"]))
            await asyncio.sleep(0.05)
        finally:
            await model.close()
        with pytest.raises(NamesFailed, match="closed"):
            await call
        assert children() == []

    uvloop.run(life())


# ---- its end ----


async def test_closing_ends_the_process_and_the_calls(model: LocalModel) -> None:
    await model.load()
    calls = [asyncio.ensure_future(model.findings(TIER, [text])) for text in ("HANG", "waits behind")]
    await asyncio.sleep(0.05)
    await model.close()
    assert children() == []
    for call in calls:
        with pytest.raises(NamesFailed, match=r"^closed$"):
            await call
    with pytest.raises(NamesFailed, match=r"^closed$"):
        await model.findings(TIER, ["Ada"])
    with pytest.raises(NamesFailed, match=r"^closed$"):
        await model.load()
    await model.close()
    assert children() == []


async def test_closing_while_it_is_loaded(model: LocalModel) -> None:
    loading = asyncio.ensure_future(model.load())
    await until(children)
    await model.close()
    with pytest.raises(NamesFailed, match=r"^closed$"):
        await loading
    assert children() == []


async def test_closing_what_never_began(model: LocalModel) -> None:
    await model.close()
    with pytest.raises(NamesFailed, match=r"^closed$"):
        await model.findings(TIER, ["Ada"])
    assert children() == []


_PARENT = """
import asyncio, sys
from extproc.screening.ner import LocalModel
from extproc.redaction.policy import NameTier
async def main():
    model = LocalModel(sys.argv[1])
    await model.load()
    call = asyncio.ensure_future(model.findings(NameTier(frozenset({"PERSON"}), timeout=1000), [sys.argv[2]]))
    await asyncio.sleep(0.1)
    print("up", flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


@pytest.mark.parametrize("text", ["idle", "HANG"])
async def test_the_process_dies_with_a_worker_that_is_killed(folder: Path, text: str) -> None:
    words = [sys.executable, "-c", _PARENT, str(folder), text]
    parent = await asyncio.create_subprocess_exec(*words, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"up\n"
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    await parent.wait()
    await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


# ---- texts ----


@given(st.text("ab .\n。😀", max_size=60), st.integers(300, 1_500))
def test_pieces_are_the_text(text: str, times: int) -> None:
    whole = text * times
    made = list(ner_model.pieces(["x", whole]))
    assert made[0] == Piece(0, 0, "x")
    at = 0
    for piece in made[1:]:
        assert piece.number == 1
        assert 0 < len(piece.text) <= LONGEST_PIECE
        assert not whole[at : piece.start].strip()
        assert whole.startswith(piece.text, piece.start)
        at = piece.start + len(piece.text)
    assert not whole[at:].strip()


@pytest.mark.parametrize(
    ("unit", "end"),
    [("Ada came. Bob went ", ". "), ("Ada came\nBob went ", "\n"), ("Ada Bob ", " "), ("来了。去了", "。"), ("x", "x")],
)
def test_a_piece_ends_with_a_sentence_or_a_word(unit: str, end: str) -> None:
    first, *_ = ner_model.pieces([unit * LONGEST_PIECE])
    assert first.text.endswith(end.rstrip(" ") or " ")
    assert LONGEST_PIECE - len(unit) <= len(first.text) <= LONGEST_PIECE


@given(st.lists(st.integers(1, LONGEST_PIECE)))
def test_batches_are_all_pieces_in_order_and_no_larger_than_one(sizes: list[int]) -> None:
    some = [Piece(number, 0, "a" * size) for number, size in enumerate(sizes)]
    made = list(ner_model.batches(some))
    assert [piece for batch in made for piece in batch] == some
    assert all(sum(len(piece.text) for piece in batch) <= LONGEST_PIECE for batch in made)
    for one, other in pairwise(made):
        assert sum(len(piece.text) for piece in one) + len(other[0].text) > LONGEST_PIECE


@given(st.text("a1(’_ \n€é", max_size=3 * LONGEST_WORD))
def test_words_that_no_language_has_lose_their_punctuation(text: str) -> None:
    made = ner_model.tokenizable(text)
    assert len(made) == len(text)
    for before, after in zip(text, made, strict=True):
        assert after == before or (after == " " and category(before)[0] in "PS")
    assert all(len(word) <= LONGEST_WORD or word.isalnum() for word in made.split())


def test_ordinary_words_stay() -> None:
    text = "Ms. O'Neill-Smith (née Müller), of https://example.com/a/b?c=d"
    assert ner_model.tokenizable(text) == text


# ---- the program, without its process ----


@pytest.fixture
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("spacy", "spacy.tokenizer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(STAND_IN))


@pytest.mark.usefixtures("_stand_in")
def test_an_answer_is_spans_or_the_name_of_an_exception(folder: Path) -> None:
    model = ner_model.load(str(folder))
    assert model.answer(["", "Ada", "by Bob"], 10) == {"spans": [[], [(0, 3, "PERSON")], [(3, 6, "PERSON")]]}
    assert model.answer(["Ada was BAD"], 10) == {"error": "the model failed: ValueError"}
    assert model.answer(["Ada"], -1) == {"error": "the model failed: TooSlow"}
    assert model.answer([], -1) == {"spans": []}


@pytest.mark.usefixtures("_stand_in")
def test_a_model_is_a_folder_or_a_package(folder: Path) -> None:
    for name in ("no_such_package", "./model", str(folder / "none")):
        with pytest.raises(ModelUnusable, match="there is no model"):
            ner_model.load(name)
    with pytest.raises(ModelUnusable, match="the model 'json' cannot be loaded: FileNotFoundError"):
        ner_model.load("json")
    for words in ("", "tok2vec"):
        (folder / "pipeline").write_text(words)
        with pytest.raises(ModelUnusable, match="has nothing that finds names"):
            ner_model.load(str(folder))


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize(
    ("words", "left"), [("tok2vec=ner ner", ["tok2vec", "ner"]), ("tok2vec ner", ["ner"]), ("ner", ["ner"])]
)
def test_a_part_that_works_for_none_is_left_out(folder: Path, words: str, left: list[str]) -> None:
    (folder / "pipeline").write_text(words)
    assert ner_model.load(str(folder))._pipeline.pipe_names == left


def test_spacy_missing_says_which_extra_has_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ModelUnusable, match="the extra `names`"):
        ner_model.load(str(folder))


@pytest.mark.parametrize("event", ["socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"])
def test_the_network_is_refused_and_files_are_not(event: str) -> None:
    with pytest.raises(PermissionError):
        refuse_network(event, ())
    refuse_network("open", ())
