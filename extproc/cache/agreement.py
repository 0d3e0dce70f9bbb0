"""The second gate of the semantic tier: whether an answer to one question is an answer to another.

Vectors of `1,000 euros` and `10,000 euros`, of `from A to B` and `from B to A`, of a question and its negation are as
near each other as those of paraphrases. So similarity only says where to look. What decides is that both texts have the
same normal form: word for word the same, but for what is known to ask nothing else (see wording and phrasing). Whatever
is in one text and not accounted for in the other is a disagreement, and so is anything that is not certainly English
prose: other languages and code agree with nothing but themselves.
"""

from extproc.cache import phrasing, sentences
from extproc.cache.wording import AUXILIARIES, NEGATIONS, WH

_Form = tuple[str, ...]


def agree(asked: str, kept: str) -> bool:
    """Whether an answer to `kept` may be given to `asked`. The order of the two does not matter."""
    return why_not(asked, kept) is None


def why_not(asked: str, kept: str) -> str | None:
    """What they do not agree in, as a constant word; None where they ask the same."""
    if asked.strip() == kept.strip():
        return None
    if max(len(asked), len(kept)) > sentences.LONGEST:
        return "length"
    if sentences.is_code(asked) or sentences.is_code(kept):
        return "code"
    if not (sentences.is_english(asked) and sentences.is_english(kept)):
        return "language"
    if sentences.is_of_words(asked) or sentences.is_of_words(kept):
        return "wording"
    one, other = _form(asked), _form(kept)
    if not one or not other:
        return "words"
    if ":" in one or ":" in other:  # a text is given to work on, whose every letter may count
        return "wording"
    return None if one == other else _difference(one, other)


def _form(text: str) -> _Form:
    return phrasing.normal(sentences.read(text))


def _difference(one: _Form, other: _Form) -> str:
    if sorted(one) == sorted(other):
        return "order"
    differing = {*one} ^ {*other}
    if any(any(character.isdigit() for character in word) for word in differing):
        return "numbers"
    if differing & NEGATIONS:
        return "negation"
    if differing & (WH | AUXILIARIES | {phrasing.HOW, phrasing.ASKS}):
        return "question"
    return "words"
