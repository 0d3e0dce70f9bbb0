"""Questions to a service that judges texts, and what its answers mean.

Only what is new is asked about: the texts since the model spoke last. What came before was new in an earlier call, and
was judged then. A caller that makes up a past can evade that, as it can by calling its text a system message.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import orjson

from extproc.guardrails.policy import Api, Moderation
from extproc.guardrails.roles import ASIDE, ASSISTANT
from extproc.guardrails.verdict import MOST_PLACES, Verdict
from extproc.redaction.policy import Mode
from extproc.redaction.positions import Path, place

MOST_REQUESTS = 8
"""Of one call."""
_SEVERE = 4.0
"""Azure's severity from which a text is refused, where no thresholds are given."""
_OTHER = "other"

_OPENAI = "/v1/moderations"
_AZURE = "/contentsafety/text:analyze?api-version=2024-09-01"
_PER_TEXT = 10_000  # UTF-16 units, as Azure counts
_PER_REQUEST = 20_000
_MOST_TEXTS = 32  # in one request

_CATEGORIES = """
    harassment harassment/threatening hate hate/threatening illicit illicit/violent self-harm self-harm/instructions
    self-harm/intent sexual sexual/minors violence violence/graphic
    Hate SelfHarm Sexual Violence
"""
CATEGORIES = frozenset(_CATEGORIES.split())
"""What verdicts call them. One that a service adds is `other`."""


class TooMuch(ValueError):
    """More text than a service is asked about in one call."""


class Text(NamedTuple):
    """A text to be judged, and its place as it can be told."""

    place: str
    text: str


class Request(NamedTuple):
    """A POST to the service: path and query below its base, and a body. `places`: of each of its inputs."""

    path: str
    body: bytes
    places: tuple[tuple[str, ...], ...]


def newest(texts: Iterable[tuple[Path, str, str]], trusted: frozenset[str]) -> list[Text]:
    """Of texts, each with its path, its role and itself: those to be judged, without what a trusted role says.

    An answer that the caller began for the model does not count as its last one.
    """
    given = [(path, role, text) for path, role, text in texts if role != ASIDE]
    asked = max((_turn(path) for path, role, _ in given if role != ASSISTANT), default=-1)
    spoken = (_turn(path) for path, role, _ in given if role == ASSISTANT)
    since = max((turn for turn in spoken if turn < asked), default=-1)
    return [
        Text(place(path), text)
        for path, role, text in given
        if role not in trusted and text.strip() and (_turn(path) > since or not _is_turn(path))
    ]


def _is_turn(path: Path) -> bool:
    return len(path) > 1 and path[0] in ("messages", "input") and isinstance(path[1], int)


def _turn(path: Path) -> int:
    return int(path[1]) if _is_turn(path) else -1


# ---- asking ----


def requests(rules: Moderation, texts: Sequence[Text]) -> list[Request]:
    """What to ask about these texts; nothing where there are none. Raises TooMuch."""
    if rules.api is Api.AZURE:
        return [_azure(batch) for batch in _batches(texts, _PER_TEXT, joined=True)]
    return [_openai(rules, batch) for batch in _batches(texts, _PER_REQUEST, joined=False)]


def _azure(batch: Sequence[Text]) -> Request:
    body = {"text": "\n".join(text for _, text in batch), "outputType": "FourSeverityLevels"}
    return Request(_AZURE, orjson.dumps(body), (tuple(where for where, _ in batch),))


def _openai(rules: Moderation, batch: Sequence[Text]) -> Request:
    body: dict[str, object] = {"input": [text for _, text in batch]}
    if rules.model is not None:
        body["model"] = rules.model
    return Request(_OPENAI, orjson.dumps(body), tuple((where,) for where, _ in batch))


def _batches(texts: Iterable[Text], most: int, joined: bool) -> Iterator[list[Text]]:
    """Pieces of texts, so many units in one batch; joined ones have a unit more between them."""
    batch: list[Text] = []
    size = made = 0
    for piece in _pieces(texts):
        units = _units(piece.text) + joined
        if batch and (size + units > most + joined or len(batch) == _MOST_TEXTS):
            yield batch
            batch, size, made = [], 0, made + 1
        if made == MOST_REQUESTS:
            raise TooMuch
        batch.append(piece)
        size += units
    if batch:
        yield batch


def _pieces(texts: Iterable[Text]) -> Iterator[Text]:
    """Texts, cut where they are too long for one; between two words where there are any."""
    for where, whole in texts:
        # Half a pair of UTF-16, which a service would refuse, is a question mark.
        text = whole.encode(errors="replace").decode()
        at = 0
        while at < len(text):
            most = _PER_TEXT if text.isascii() or max(text[at : at + _PER_TEXT]) < "\U00010000" else _PER_TEXT // 2
            end = _cut(text, at, at + most)
            yield Text(where, text[at:end])
            at = end


def _cut(text: str, start: int, end: int) -> int:
    if end >= len(text):
        return len(text)
    blank = text.rfind(" ", start + (end - start) // 2, end)
    return blank + 1 if blank >= 0 else end


def _units(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


# ---- reading the answer ----


def verdicts(rules: Moderation, request: Request, answer: bytes) -> list[Verdict]:
    """What the answer to a request says, by category. Raises ValueError for one that is not understood.

    A category that has a threshold and is not in the answer is not understood either: else a rule that is misspelled,
    or that another model does not have, would let everything pass.
    """
    parsed = _object(orjson.loads(answer))
    judged = _from_azure(rules, parsed) if rules.api is Api.AZURE else _from_openai(rules, parsed)
    if len(judged) != len(request.places):
        raise ValueError("another number of answers than of questions")
    found: dict[str, list[tuple[float, tuple[str, ...]]]] = {}
    for scores, places in zip(judged, request.places, strict=True):
        for category, score in scores.items():
            found.setdefault(category if category in CATEGORIES else _OTHER, []).append((score, places))
    return [] if rules.mode is Mode.OFF else [_verdict(rules, category, hits) for category, hits in found.items()]


def _verdict(rules: Moderation, category: str, hits: Sequence[tuple[float, tuple[str, ...]]]) -> Verdict:
    places = dict.fromkeys(where for _, some in hits for where in some)
    score = max(score for score, _ in hits)
    return Verdict("moderation", category, rules.mode, rules.action, len(hits), tuple(places)[:MOST_PLACES], score)


def _from_openai(rules: Moderation, parsed: Mapping[str, object]) -> list[dict[str, float]]:
    """For each input, the scores of the categories that it breaks."""
    judged = []
    for result in map(_object, _list(parsed.get("results"))):
        scores = {category: _number(score) for category, score in _object(result.get("category_scores")).items()}
        if rules.thresholds:
            judged.append(_above(scores, rules.thresholds))
            continue
        flags = _object(result.get("categories"))
        if not isinstance(result.get("flagged"), bool):
            raise ValueError("an answer without `flagged`")
        broken = {category: scores.get(category, 1.0) for category, flag in flags.items() if flag is True}
        judged.append(broken or ({_OTHER: 1.0} if result["flagged"] else {}))
    return judged


def _from_azure(rules: Moderation, parsed: Mapping[str, object]) -> list[dict[str, float]]:
    severities: dict[str, float] = {}
    for analysis in map(_object, _list(parsed.get("categoriesAnalysis"))):
        severities[str(analysis.get("category"))] = _number(analysis.get("severity"))
    if not severities:
        raise ValueError("an answer without categories")
    return [_above(severities, rules.thresholds or dict.fromkeys(severities, _SEVERE))]


def _above(scores: Mapping[str, float], thresholds: Mapping[str, float]) -> dict[str, float]:
    if not thresholds.keys() <= scores.keys():
        raise ValueError("a category with a threshold is missing")
    return {category: scores[category] for category, least in thresholds.items() if scores[category] >= least}


def _object(value: object) -> dict[str, object]:
    if isinstance(value, dict):
        return value
    raise ValueError("no object where one is expected")


def _list(value: object) -> list[object]:
    if isinstance(value, list):
        return value
    raise ValueError("no list where one is expected")


def _number(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError("no number where one is expected")
