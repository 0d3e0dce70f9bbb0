"""The program that holds a spaCy model: `python -m extproc.screening.ner_model MODEL`. Its neighbour `ner` asks it.

Both speak in lines of JSON. It says `{}` once the model is loaded. To `{"texts": [...], "seconds": 1.5}` it answers
`{"spans": [[[start, end, label], ...], ...]}`. Whatever fails is `{"error": ...}`, which never quotes a text: of an
exception while it looks through texts, it tells the name alone.
"""

import importlib
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import category

from extproc.program import Answer, ModelUnusable, serve

LONGEST_PIECE = 2_000
"""Characters that spaCy gets at once. It cannot be interrupted, and at these it may work for a third of a second."""
LONGEST_WORD = 50
"""Characters between blanks. The tokenizer takes brackets and quotes off a word one by one, and looks at all that is
left each time: for 5,000 brackets it needs two seconds."""

_END_OF_SENTENCE = re.compile(r"\n|[.!?](?=\s)|[。！？।؟]")
_BLANK = re.compile(r"\s")
_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")
_NOT_FOR_NAMES = (
    *("parser", "senter", "tagger", "morphologizer", "attribute_ruler", "lemmatizer", "trainable_lemmatizer"),
    *("textcat", "textcat_multilabel"),
)
_REMEDY = "A folder has to be the one with config.cfg in it, and model and spaCy of the same minor version"


class TooSlow(Exception):
    """The texts could not be looked through in the time that they have."""


class Piece(NamedTuple):
    """Characters of one of the texts, from `start`."""

    number: int
    start: int
    text: str


class Model:
    """A pipeline of spaCy's. `Any`: spaCy is an extra, and this program is all that imports it."""

    def __init__(self, pipeline: Any, default_tokenizer: type) -> None:
        self._pipeline = pipeline
        self._is_default = isinstance(pipeline.tokenizer, default_tokenizer)
        if self._is_default:
            pipeline.tokenizer.url_match = None  # quadratic, and an address is no name

    def answer(self, texts: Sequence[str], seconds: float) -> dict[str, Any]:
        """What the model finds in the texts, or the name of what went wrong."""
        with self._pipeline.memory_zone():  # words that are new do not stay; no exception may leave it
            try:
                return {"spans": self._spans(texts, time.monotonic() + seconds)}
            except Exception as error:
                return {"error": f"the model failed: {type(error).__name__}"}

    def _spans(self, texts: Sequence[str], deadline: float) -> list[list[tuple[int, int, str]]]:
        found: list[list[tuple[int, int, str]]] = [[] for _ in texts]
        for batch in batches(pieces(texts)):
            if time.monotonic() > deadline:
                raise TooSlow
            documents = self._pipeline.pipe(
                tokenizable(piece.text) if self._is_default else piece.text for piece in batch
            )
            for piece, document in zip(batch, documents, strict=True):
                found[piece.number] += [
                    (piece.start + span.start_char, piece.start + span.end_char, span.label_) for span in document.ents
                ]
        return found


def load(name: str) -> Model:
    """The model of this name or in this folder. Raises ModelUnusable."""
    if not Path(name).is_dir() and not _is_package(name):
        raise ModelUnusable(
            f"there is no model {name!r}: install its wheel with pip, or name the folder of a model by its whole path"
        )
    try:
        spacy = importlib.import_module("spacy")
    except ImportError:
        raise ModelUnusable("spaCy is not installed: it comes with the extra `names`") from None
    try:
        pipeline = spacy.load(name, exclude=_NOT_FOR_NAMES)
        _drop_idle(pipeline)
        list(pipeline.pipe(["Hello."]))  # what a part misses that was left out, or on disk, comes out here
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise ModelUnusable(f"the model {name!r} cannot be loaded: {why}. {_REMEDY}") from error
    if not pipeline.pipe_names:
        raise ModelUnusable(f"the model {name!r} has nothing that finds names")
    return Model(pipeline, spacy.tokenizer.Tokenizer)


def _drop_idle(pipeline: Any) -> None:
    """Drop what works for none but the parts that were left out: a third of the time, for nothing."""
    if "tok2vec" in pipeline.pipe_names and not pipeline.get_pipe("tok2vec").listening_components:
        pipeline.remove_pipe("tok2vec")


def _is_package(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


# ---- texts ----


def pieces(texts: Iterable[str]) -> Iterator[Piece]:
    """The texts in pieces that end where a sentence does, or else a word; without those that are blank."""
    for number, text in enumerate(texts):
        start = 0
        while start < len(text):
            end = _end_of_piece(text, start)
            if not text[start:end].isspace():
                yield Piece(number, start, text[start:end])
            start = end


def _end_of_piece(text: str, start: int) -> int:
    limit = start + LONGEST_PIECE
    if len(text) <= limit:
        return len(text)
    for mark in (_END_OF_SENTENCE, _BLANK):
        ends = [match.end() for match in mark.finditer(text, start + LONGEST_PIECE // 2, limit)]
        if ends:
            return ends[-1]
    return limit


def batches(some: Iterable[Piece]) -> Iterator[list[Piece]]:
    """The pieces in groups, in total no longer than a piece can be. Between two of them the clock is looked at."""
    batch: list[Piece] = []
    size = 0
    for piece in some:
        if batch and size + len(piece.text) > LONGEST_PIECE:
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += len(piece.text)
    if batch:
        yield batch


def tokenizable(text: str) -> str:
    """The text, character for character, with blanks for the punctuation in words that no language has."""
    return _LONG_WORD.sub(lambda word: "".join(" " if category(one)[0] in "PS" else one for one in word[0]), text)


# ---- the process ----


def main() -> None:
    def load_named() -> Answer:
        model = load(sys.argv[1])
        return lambda question: model.answer(question["texts"], question["seconds"])

    serve(load_named)


if __name__ == "__main__":
    main()
