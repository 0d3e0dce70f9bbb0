"""Stands in for spaCy where a folder of tests is on `PYTHONPATH`: words with a capital are names, some do harm.

It starts in a tenth of a second, is there where spaCy is not installed, and dies on request.
"""

import os
import re
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import tokenizer as tokenizer


@dataclass
class Span:
    start_char: int
    end_char: int
    label_: str


class Document:
    def __init__(self, text: str) -> None:
        self.ents = [Span(*found.span(), "PERSON") for found in re.finditer(r"\b[A-Z]\w*", text)]
        for word in text.split():
            self._obey(word)

    def _obey(self, word: str) -> None:
        match word:
            case "DIE":
                os._exit(3)
            case "HANG":
                time.sleep(1_000)
            case "SLOW":
                time.sleep(0.2)
            case "BAD":
                raise ValueError("a message with BAD in it")
            case "CALL":
                socket.create_connection(("127.0.0.1", 9))
            case "PRINT":
                print('{"spans": []}', flush=True)
            case "ENVIRONMENT":
                self.ents = [Span(0, 1, name) for name in os.environ]


@dataclass
class Part:
    listening_components: list[str]


class Pipeline:
    """Of words such as `ner`, or `tok2vec=ner` for a part that works for another."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.pipe_names = [word.partition("=")[0] for word in words]
        self.tokenizer = tokenizer.Tokenizer()

    def get_pipe(self, name: str) -> "Part":
        return Part(["ner"] if f"{name}=ner" in self.words else [])

    def remove_pipe(self, name: str) -> None:
        self.pipe_names.remove(name)

    @contextmanager
    def memory_zone(self) -> Iterator[None]:
        yield  # as in spaCy, what is behind is not done after an exception
        assert self.pipe_names

    def pipe(self, texts: Iterable[str]) -> Iterator[Document]:
        return map(Document, texts)


def load(name: str, exclude: Iterable[str]) -> Pipeline:
    """`name` is a folder; its file `pipeline` says what it is made of, and `damage` what is wrong with it."""
    assert "tagger" in exclude
    folder = Path(name)
    if (folder / "damage").exists():
        raise OSError((folder / "damage").read_text())
    return Pipeline((folder / "pipeline").read_text().split())
