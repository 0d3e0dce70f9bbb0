"""The local model: what it says of texts, and what becomes of calls when it cannot be had.

The model is a tiny one with drawn weights, run by the same program as a real one; what the real one says is
recorded by `make eval-semantic`.
"""

import asyncio
import json
import os
import struct
import subprocess
import sys
from array import array
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from extproc.program import refuse_network
from extproc.semantic.embedding import EmbeddingFailed
from extproc.semantic.local import LONGEST_TEXT, LocalEmbedder, try_out
from loadtest import semantic_set
from loadtest.semantic_set import similarity
from tests.support.recorded_vectors import RecordedEmbedder
from tests.support.tiny_model import LONGEST, TinyModel

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 60.0

needs_numpy = pytest.mark.skipif(
    find_spec("numpy") is None or find_spec("tokenizers") is None, reason="the extra `semantic` is not installed"
)


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return TinyModel().save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
async def embedder(folder: str) -> AsyncIterator[LocalEmbedder]:
    made = LocalEmbedder(folder)
    try:
        yield made
    finally:
        await made.close()


@needs_numpy
async def test_it_says_what_the_layers_come_to(embedder: LocalEmbedder) -> None:
    model = TinyModel()
    for text in ("ada has a red hat", "a red hat has ada", "nobody knows", "", " ".join(["hat"] * (LONGEST - 2))):
        vector = array("f", await embedder.embed(text, PATIENCE))
        assert list(vector) == pytest.approx(model.vector(text), abs=2e-6)
        assert similarity(vector, vector) == pytest.approx(1.0, abs=1e-6)


@needs_numpy
async def test_what_is_too_long_has_no_vector_and_stops_nobody(embedder: LocalEmbedder) -> None:
    for text in (" ".join(["hat"] * (LONGEST - 1)), "a" * (LONGEST_TEXT + 1)):
        with pytest.raises(EmbeddingFailed, match=r"^too long$"):
            await embedder.embed(text, PATIENCE)
    assert len(await embedder.embed("half a pair: \ud83d", PATIENCE)) == 4 * 8


@needs_numpy
async def test_many_texts_at_once_get_each_its_own(embedder: LocalEmbedder) -> None:
    texts = ["ada", "red hat", "not a hat", "has"] * 3
    alone = [await embedder.embed(text, PATIENCE) for text in texts[:4]]
    assert await asyncio.gather(*(embedder.embed(text, PATIENCE) for text in texts)) == alone * 3


@needs_numpy
async def test_a_model_is_tried_out(folder: str) -> None:
    await try_out(folder)
    with pytest.raises(EmbeddingFailed, match="there is no model"):
        await try_out(folder + "/nowhere")


async def test_a_folder_that_is_not_there() -> None:
    embedder = LocalEmbedder("/nowhere/model")
    message = "there is no model '/nowhere/model'. It has to be the folder of a sentence-transformers model"
    with pytest.raises(EmbeddingFailed) as failed:
        await embedder.load()
    assert str(failed.value).startswith(message)
    with pytest.raises(EmbeddingFailed):
        await embedder.embed("ada", PATIENCE)
    await embedder.close()
    with pytest.raises(EmbeddingFailed, match=r"^closed$"):
        await embedder.embed("ada", PATIENCE)


async def test_numpy_is_not_there(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError(name='numpy')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    with pytest.raises(EmbeddingFailed, match=r"^numpy is not installed: it comes with the extra `semantic`$"):
        await try_out(folder)


def _changed(name: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))

    return change


def _cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])


def _half_numbers(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    begin = 8 + struct.unpack("<Q", content[:8])[0]
    weights.write_bytes(content[:begin].replace(b'"F32"', b'"F16"') + content[begin:])


@needs_numpy
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_changed("config.json", model_type="mpnet"), "is of another kind: mpnet, gelu, absolute and not bert"),
        (_changed("config.json", hidden_act="relu"), "is of another kind: bert, relu"),
        (_changed("config.json", num_hidden_layers=3), "cannot be loaded: KeyError"),
        (_changed("1_Pooling/config.json", pooling_mode_mean_tokens=False), "are not the mean of its tokens"),
        (_changed("1_Pooling/config.json", pooling_mode_cls_token=True), "are not the mean of its tokens"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
        (lambda folder: (folder / "sentence_bert_config.json").unlink(), "cannot be loaded: FileNotFoundError"),
        (_cut, "cannot be loaded: ValueError"),
        (_half_numbers, "cannot be loaded: KeyError"),
    ],
)
async def test_a_model_that_cannot_be_used(damage: Callable[[Path], None], told: str, tmp_path: Path) -> None:
    folder = TinyModel().save(tmp_path / "model")
    damage(Path(folder))
    with pytest.raises(EmbeddingFailed, match=told):
        await try_out(folder)


def test_a_model_has_no_network() -> None:
    with pytest.raises(PermissionError):
        refuse_network("socket.connect", ())
    refuse_network("open", ())


def test_the_worker_does_not_import_numpy() -> None:
    script = "import sys, extproc.semantic.local, extproc.cache.agreement; print('numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)
    assert run.stdout.split() == [b"False"]


# ---- recorded vectors ----


async def test_recorded_vectors_are_those_of_the_model() -> None:
    """To the six digits that sentence-transformers gives; float16 has three."""
    recorded = semantic_set.recorded()
    assert all(similarity(vector, vector) == pytest.approx(1.0, abs=2e-3) for vector in recorded.values())
    near, far = "What is the capital of Peru?", "How do I boil an egg?"
    embedder = RecordedEmbedder()
    text = "What is the capital of Peru?"
    vector = array("f", await embedder.embed(text, 1.0))
    assert embedder.asked == [text]
    assert similarity(vector, recorded["what is the capital of peru?"]) == pytest.approx(1.0, abs=2e-3)
    assert similarity(vector, recorded[near]) > 0.5 > similarity(vector, recorded[far])
    with pytest.raises(EmbeddingFailed, match="not recorded"):
        await embedder.embed("something else", 1.0)
    await embedder.close()
    with pytest.raises(EmbeddingFailed, match="closed"):
        await embedder.embed(text, 1.0)


def test_vectors_of_another_set_are_not_taken(tmp_path: Path) -> None:
    content = semantic_set.VECTORS.read_bytes()
    (tmp_path / "vectors").write_bytes(bytes(32) + content[32:])
    with pytest.raises(ValueError, match="another set"):
        semantic_set.recorded(tmp_path / "vectors")
