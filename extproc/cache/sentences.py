"""An English text as sentences of words, each word in the one spelling that stands for all of its spellings."""

import re
import unicodedata
from dataclasses import dataclass

from extproc.cache import wording
from extproc.cache.wording import EVERYDAY, FOREIGN, SAME_WORD

LONGEST = 1000
"""Characters. What is longer is more than a question, and equal only to itself."""

_ALIKE = str.maketrans({"’": "'", "‘": "'", "´": "'", "“": '"', "”": '"', "„": '"', "…": " ...", "\u00a0": " "})
_CODE = re.compile(
    r"[`{}\\;<>|~]|==|[+*/-]=|\w[(\[]|\)\.|\w=|=\w|\s=\s|\n|\t|\*\*|\$[A-Za-z]|\b(?:SELECT|INSERT|UPDATE|DELETE) "
)
_QUOTED = re.compile(r"\"[^\"]*\"|(?<!\S)'[^']*'(?![^\s.,:?!)])")
_CHUNK = re.compile(r"\x00\d+\x00|\S+")
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_NUMBER = re.compile(r"\d+(?:\.\d+)?|\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_MONEY = re.compile(rf"([$€])({_NUMBER.pattern})")
_MEASURE = re.compile(rf"({_NUMBER.pattern})(km|kms|cm|mm|kg|mg|%)")
_ABBREVIATION = re.compile(r"(?:Dr|Mr|Mrs|Ms|Prof|St|No|vs|etc|e\.g|i\.e|a\.m|p\.m|U\.S|U\.K|[A-Z])\.")
_END = re.compile(r"(.*?)([.?!]+)")
_CURRENCIES = {"$": "dollars", "€": "euros"}
_MEASURES = {"%": "percent"}
_IZED = re.compile(rf"({'|'.join(wording.IZED.split())})is(e|ed|es|ing|ation|er|ers)")
_LONGEST_PHRASE = max(map(len, wording.SAME_PHRASE))
_SLIPPED_FROM = 6  # letters
_BY_EDGES = {
    edges: [word for word in sorted(EVERYDAY) if word[0] + word[-1] == edges]
    for edges in {word[0] + word[-1] for word in EVERYDAY}
}
"""Everyday words by their first and last letters, which a slip leaves alone."""
_ENGLISH = 0.3
"""The share of words that must be English for certain."""
_KNOWN = frozenset(
    {*wording.WH, *wording.AUXILIARIES, *wording.ARTICLES, *wording.RELATIONS, *wording.PLEASE, *wording.ASKED_FOR}
    | {*wording.EXPANDED, *SAME_WORD, *SAME_WORD.values(), *EVERYDAY, *wording.VERBS, *wording.NUMBERS}
    | wording.SMALL
)
_BEGINS = (
    {*_KNOWN, *wording.MORE_VERBS, *wording.BIDDING, *wording.ORDINALS, "am", "steps", "instructions"}
    | {word for phrase in (*wording.GREETINGS, *wording.ASKING, *wording.REQUESTS) for word in phrase}
) - {*wording.TWO_MEANINGS, *(word for word in (*SAME_WORD, *SAME_WORD.values()) if len(word) > 5)}
"""Words whose capital at the begin of a sentence is only that; of any other it may be a name's."""
_PASTS = frozenset(form for forms in wording.VERBS.values() for form in forms)
_GOES_ON = wording.WH | wording.AUXILIARIES | wording.PLEASE
_DOERS = frozenset(("i", "1", "to", "you", "we"))
_DONE_TO = frozenset(("the", "a", "my", "your", "our", "their", "this"))


@dataclass(slots=True)
class Sentence:
    """`asks`: it ends with a question mark. In `words` a comma and a colon are words as well."""

    words: list[str]
    asks: bool = False


def is_code(text: str) -> bool:
    """Whether anything in it looks like code, in which every character counts."""
    return _CODE.search(text.strip()) is not None


def is_of_words(text: str) -> bool:
    """Whether it is about words themselves: it says so, or has two that are taken for one elsewhere."""
    words = {word.lower() for word in _WORD.findall(text)}
    alike = SAME_WORD | wording.SAME_VERB | wording.SAME_UNIT
    read_as = [alike.get(word, word) for word in words - wording.INFLECTED]
    return not wording.OF_WORDS.isdisjoint(words) or len({*read_as}) < len(read_as)


def is_english(text: str) -> bool:
    """Whether it is English for certain."""
    words = [word.lower() for word in _WORD.findall(text.translate(_ALIKE))]
    if not text.isascii() and not all(map(_is_latin, "".join(words))):
        return False
    foreign = sum(word in FOREIGN for word in words)
    known = sum(word in _KNOWN for word in words)
    if not foreign and not wording.ENGLISH.isdisjoint(words):
        return True
    return len(words) > 0 and known / len(words) >= _ENGLISH and foreign <= known / 3


def _is_latin(letter: str) -> bool:
    return not letter.isalpha() or unicodedata.name(letter, "").startswith("LATIN")


def read(text: str) -> list[Sentence]:
    """The sentences of an English text that has no code in it."""
    text = unicodedata.normalize("NFC", text).translate(_ALIKE).strip()
    if len(text) > 2 and text[0] == text[-1] == '"' and text.count('"') == 2:
        text = text[1:-1]
    quotes = [found[0] for found in _QUOTED.finditer(text)]
    numbers = iter(range(len(quotes)))
    text = _QUOTED.sub(lambda _: f" \x00{next(numbers)}\x00 ", text)
    is_loud = text.isupper()
    sentences = [Sentence([])]
    for chunk in _CHUNK.findall(text):
        if chunk[0] == "\x00":
            sentences[-1].words.append('"' + quotes[int(chunk[1:-1])][1:-1] + '"')
            continue
        end = _take(chunk, sentences[-1].words, is_loud)
        if end:
            sentences[-1].asks = "?" in end
            if sentences[-1].words:
                sentences.append(Sentence([]))
    return [Sentence(_with_phrases(_in_place(one.words)), one.asks) for one in sentences if one.words]


def _take(chunk: str, words: list[str], is_loud: bool) -> str:
    """Add what stands between two blanks to a sentence; returns the marks that end the sentence, if any do."""
    end = ""
    if (found := _END.fullmatch(chunk)) and not (_ABBREVIATION.fullmatch(chunk) and not is_loud):
        chunk, end = found[1], found[2]
    core = chunk.rstrip(",:")
    has_mark = core != chunk
    if core.startswith("("):
        words.append("(")
        core = core[1:]
    closes = core.endswith(")")
    core = core.removesuffix(")")
    if core:
        words += _words(core, is_first=not words or _goes_on(words, core), is_loud=is_loud)
    words += [")"] * closes
    if has_mark:
        words.append(chunk[-1])
    if "!" in end and core[-1:].isdigit():  # a factorial
        words.append("!")
    return end


def _goes_on(words: list[str], core: str) -> bool:
    """Whether the question itself begins there: `Please tell me: What ...`."""
    return words[-1] in {",", ":"} and core.istitle() and core.lower() in _GOES_ON


def _words(core: str, is_first: bool, is_loud: bool) -> list[str]:
    if _NUMBER.fullmatch(core):
        return [core.replace(",", "")]
    if found := _MONEY.fullmatch(core):
        return [found[2].replace(",", ""), _CURRENCIES[found[1]]]
    if found := _MEASURE.fullmatch(core):
        unit = _MEASURES.get(found[2], found[2])
        return [found[1].replace(",", ""), unit]
    if core.endswith("s'") and _WORD.fullmatch(core[:-1]):
        return [*_words(core[:-1], is_first, is_loud), "'s"]
    if not _WORD.fullmatch(core):
        return [core]
    word = core.lower()
    if word in wording.EXPANDED:
        return [_spelt(one) for one in wording.EXPANDED[word].split()]
    if word.endswith("'s"):
        return [*_words(core[:-2], is_first, is_loud), "'s"]
    return [_cased(core, is_first, is_loud)]


def _cased(core: str, is_first: bool, is_loud: bool) -> str:
    """The word in small letters, or as it is where capital letters may make another word of it."""
    word = core.lower()
    if len(core) == 1 and core not in "aI" and not (is_first and core == "A"):
        return core
    if core == word or (is_first and core.istitle() and word in wording.MISSPELT):
        return _without_slip(_spelt(word))
    if is_loud:
        is_plain = word in wording.NAMES or (word in _BEGINS and (is_first or word not in wording.LOUD))
        return _spelt(word) if is_plain or core == "I" else core
    if core == "I" or word in wording.NAMES or (word in wording.ACRONYMS and core.isupper()):
        return word
    if is_first and core.istitle() and (word in _BEGINS or word in ("will", "may")):
        return _spelt(word)
    return core


def _spelt(word: str) -> str:
    word = wording.MISSPELT.get(word, word)
    word = _IZED.sub(r"\1iz\2", word) if _IZED.fullmatch(word) else word
    word = SAME_WORD.get(word, word)
    if word in wording.NUMBERS:
        return wording.NUMBERS[word]
    tens, _, ones = word.partition("-")
    if tens in wording.TENS and (not ones or ones in wording.NUMBERS):
        return str(wording.TENS[tens] + int(wording.NUMBERS.get(ones, "0")))
    return wording.ORDINALS.get(word, word)


def _without_slip(word: str) -> str:
    """The everyday word that this one is but for a slip of the finger."""
    if len(word) < _SLIPPED_FROM or word in _KNOWN or word in wording.REAL or word in wording.NAMES:
        return word
    found = [other for other in _BY_EDGES.get(word[0] + word[-1], ()) if _is_slip(word, other)]
    return SAME_WORD.get(found[0], found[0]) if len(found) == 1 else word


def _is_slip(word: str, other: str) -> bool:
    """Whether they differ in one letter too many, or in two neighbours that changed places."""
    least = min(len(word), len(other))
    begin = next((at for at, (one, two) in enumerate(zip(word, other, strict=False)) if one != two), least)
    end = next((at for at, (one, two) in enumerate(zip(word[::-1], other[::-1], strict=False)) if one != two), least)
    if abs(len(word) - len(other)) == 1:
        return begin + end >= least
    return (
        len(word) == len(other)
        and begin + end == len(word) - 2
        and word[begin : begin + 2] == (other[begin + 1] + other[begin])
    )


def _in_place(words: list[str]) -> list[str]:
    """With the one word for those that are the same only where they stand."""
    done: list[str] = []
    for at, word in enumerate(words):
        before, behind = words[at - 1] if at else "", words[at + 1] if at + 1 < len(words) else ""
        if word in wording.SAME_VERB and before in _DOERS and behind in _DONE_TO:
            word = wording.SAME_VERB[word]
        elif word in wording.SAME_UNIT and (before[:1].isdigit() or before == "many"):
            word = wording.SAME_UNIT[word]
        elif word == "which" and _is_kind(behind) and words[at + 2 : at + 3] and _is_function(words[at + 2]):
            word = "what"
        done.append(word)
    return done


def _is_kind(word: str) -> bool:
    """Whether it can only be a thing, so that `which` and `what` before it ask the same."""
    is_deed = {word.removesuffix("s"), word.removesuffix("es")} & wording.VERBS.keys()
    return word.isalpha() and word.islower() and not (is_deed or _is_function(word) or word in wording.SMALL)


def _is_function(word: str) -> bool:
    return word in wording.AUXILIARIES or word in wording.VERBS or word in _PASTS


def _with_phrases(words: list[str]) -> list[str]:
    """Words that say together what other words say."""
    done: list[str] = []
    at = 0
    while at < len(words):
        for size in range(min(_LONGEST_PHRASE, len(words) - at), 0, -1):
            phrase = wording.SAME_PHRASE.get(tuple(words[at : at + size]))
            if phrase is not None:
                done += phrase
                at += size
                break
        else:
            done.append(words[at])
            at += 1
    return done
