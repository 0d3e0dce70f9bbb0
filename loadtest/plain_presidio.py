"""Presidio as it comes, with its tokenizer and no model, kept off the network.

Its e-mail recognizer asks `tldextract`, which on first use fetches the public-suffix list over HTTP: given no address
to fetch from and no cache to write to, it takes the copy in its package. spaCy's blank tokenizer leaves lemmas empty,
so that no context word would ever match: the words in lower case stand in for them.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import spacy
import tldextract
from presidio_analyzer import AnalyzerEngine, EntityRecognizer, RecognizerRegistry, predefined_recognizers
from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine

from loadtest.pii_set import Span

tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)  # type: ignore[assignment]


# ruff: noqa: ARG002 - arguments are named as Presidio passes them
class Tokenizer(NlpEngine):
    """spaCy's English tokenizer alone."""

    def __init__(self) -> None:
        self._nlp = spacy.blank("en")

    def load(self) -> None:
        """There is nothing to load."""

    def is_loaded(self) -> bool:
        return True

    def process_text(self, text: str, language: str) -> NlpArtifacts:
        doc = self._nlp.make_doc(text)
        return NlpArtifacts([], doc, [token.idx for token in doc], [token.lower_ for token in doc], self, language)

    def process_batch(
        self, texts: Iterable[str], language: str, batch_size: int = 1, n_process: int = 1, **_: Any
    ) -> Iterator[tuple[str, NlpArtifacts]]:
        return ((text, self.process_text(text, language)) for text in texts)

    def is_stopword(self, word: str, language: str) -> bool:
        return bool(self._nlp.vocab[word].is_stop)

    def is_punct(self, word: str, language: str) -> bool:
        return bool(self._nlp.vocab[word].is_punct)

    def get_supported_entities(self) -> list[str]:
        return []

    def get_supported_languages(self) -> list[str]:
        return ["en"]


class PlainPresidio:
    """All of Presidio's recognizers of patterns, whatever their language, on English."""

    def __init__(self) -> None:
        logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
        registry = RecognizerRegistry(recognizers=_recognizers(), supported_languages=["en"])
        self._engine = AnalyzerEngine(registry=registry, nlp_engine=Tokenizer(), supported_languages=["en"])
        self.entities = frozenset(self._engine.get_supported_entities("en"))

    def find(self, text: str, entities: Sequence[str], floor: float) -> list[Span]:
        """What it finds of these entities at this score or above; those that it does not know are left out."""
        known = [entity for entity in entities if entity in self.entities]
        if not known:
            return []
        found = self._engine.analyze(text, "en", entities=known, score_threshold=floor)
        return [Span(result.entity_type, result.start, result.end) for result in found]


def _recognizers() -> list[EntityRecognizer]:
    """One of each that needs neither a model nor a service."""
    made = []
    for name in predefined_recognizers.__all__:
        kind = getattr(predefined_recognizers, name)
        if isinstance(kind, type) and kind.__module__.split(".")[2] in {"generic", "country_specific"}:
            made.append(kind(supported_language="en"))
    return made
