"""The most tokens that a text, an image or a sound can be: what a hold is made from.

No vocabulary is looked up whole: a text is described by a few counts, and a family of tokenizers by what each of
them costs at most. Words that all vocabularies have cost one token; anything else is charged as if it were made to
cost much, so that nonsense does not slip under the bound. How, and how far off: docs/estimates.md.
"""

import re
from collections.abc import Sequence
from importlib import resources
from itertools import filterfalse
from math import ceil, sqrt
from string import ascii_letters, digits

from extproc.metering import tokenizer
from extproc.metering.families import FAMILIES, OTHER, Family
from extproc.model import Bounds, InputSize

Features = tuple[int, ...]

NAMES = (
    *("words", "spaced", "pairs", "glued", "unknown", "letters", "capitals", "long"),
    *("digits", "numbers", "signs", "breaks", "newlines", "doubles", "indents"),
    *("latin", "cyrillic", "semitic", "indic", "symbols", "kana", "han", "hangul", "compatible", "astral", "rare"),
)
"""What `features` counts. The third line: characters beyond ASCII by the first byte of their UTF-8, and those among
them that no vocabulary has."""


def _data(name: str) -> str:
    return resources.files("extproc.metering").joinpath(name).read_text("utf-8")


KNOWN = frozenset(_data("words.txt").encode("latin-1").split())
"""Words that are one token in every vocabulary looked at, wherever they stand; in Latin-1."""
SPACED = frozenset(_data("words_after_space.txt").encode("latin-1").split())
"""Words that are one token after a space, and two at most elsewhere."""
PAIRS = frozenset(_data("words_of_two.txt").encode("latin-1").split())
"""Frequent words that are two tokens after a space, and three at most elsewhere."""
USUAL = frozenset(_data("characters.txt").replace("\n", ""))
"""Characters beyond ASCII that are one token where the vocabulary is large, and two at most."""

_LATIN_1 = bytes(range(0xC0, 0x100))
_LETTERS = ascii_letters.encode() + _LATIN_1
_DIGITS = digits.encode()
_ONLY_LETTERS = bytes(byte if byte in _LETTERS else 0x20 for byte in range(256))
_ONLY_DIGITS = bytes(byte if byte in _DIGITS else 0x20 for byte in range(256))
_SHAPES = bytes(0x61 if byte in _LETTERS else byte for byte in range(256))
_NOT_CAPITALS = bytes(byte for byte in range(256) if not 0x41 <= byte <= 0x5A)
_PIECES = re.compile(rb"[A-Z]?[a-z\xdf-\xff]+|[A-Z\xc0-\xde]+(?![a-z\xdf-\xff])")

_WORDS = 3  # so many names at the beginning of NAMES are of words that vocabularies have

_FIRST_BYTES = (
    *((0xC2, 0xCD), (0xCE, 0xD4), (0xD5, 0xDF), (0xE0, 0xE1), (0xE2, 0xE2)),
    *((0xE3, 0xE3), (0xE4, 0xE9), (0xEA, 0xED), (0xEE, 0xEF), (0xF0, 0xF4)),
)
_NO_SCRIPTS = (0,) * (len(_FIRST_BYTES) + 1)
_SCRIPTS = [bytes([first]) for first, _ in _FIRST_BYTES]
_TO_SCRIPT = bytes(next((first for first, last in _FIRST_BYTES if first <= byte <= last), 0) for byte in range(256))
_NOT_FIRST = bytes(byte for byte in range(256) if not _TO_SCRIPT[byte])

ASSUMED_CONTEXT = 128_000
"""Tokens of an input that the provider adds to, where the model's context is not configured."""
_TOOL = 8
"""Tokens around a tool, beyond its text."""
_MEDIA = 20
"""Tokens of 1000 bytes of sound or picture in an answer: OpenAI counts 20 a second, of 1000 bytes at 8 kbit/s."""
_LONG_WORD = 16
WHOLE = 16_384
"""Characters of the longest text that is looked at whole."""
_WINDOWS, _WINDOW = 64, 256


def features(text: str | bytes) -> Features:
    """What `NAMES` counts, of a text. Those of several texts may be added up.

    A text longer than `WHOLE` is looked at in windows, spread over it at places that nobody outside knows, and each
    of its counts is two standard errors above what they tell.
    """
    given = text if isinstance(text, str) else text.decode("utf-8", "replace")
    return _whole(given) if len(given) <= WHOLE else _sampled(given)


def _whole(text: str) -> Features:
    scripts = _NO_SCRIPTS
    foreign = 0
    if text.isascii():
        raw = text.encode()
    else:
        raw = text.encode("latin-1", "replace")
        first_bytes = text.encode(errors="surrogatepass").translate(_TO_SCRIPT, _NOT_FIRST)
        foreign = len(first_bytes)
        scripts = (*map(first_bytes.count, _SCRIPTS), foreign - sum(map(USUAL.__contains__, text)))
    words = raw.translate(_ONLY_LETTERS).split()
    letters = b"".join(words)
    numbers = raw.translate(_ONLY_DIGITS).split()
    figures = len(b"".join(numbers))
    newlines = raw.count(b"\n")
    signs = len(raw) - len(letters) - figures - raw.count(b" ") - newlines
    if foreign:
        signs -= foreign - (len(letters) - len(letters.translate(None, _LATIN_1)))
    shapes = raw.translate(_SHAPES)
    breaks = shapes.count(b"a\n") + shapes.count(b"a  ")  # behind a sign, a line's end is part of its token
    blanks = (breaks, newlines, raw.count(b"  "), raw.count(b"\n "))
    return (*_words(words, _after_space(shapes)), figures, len(numbers), signs, *blanks, *scripts)


def _after_space(shapes: bytes) -> int:
    """Words after one space, at least; those after an indent count, too, because a token of blanks ends before them."""
    return shapes.count(b" a") - max(0, shapes.count(b"  a") - shapes.count(b"\n "))


def _words(words: list[bytes], after_space: int) -> Features:
    """Known words by their kinds, how many of the dearer ones may stand elsewhere than after a space, and unknown ones.

    Of the unknown the letters, the capitals, the letters of long ones.
    """
    elsewhere = len(words) - after_space
    known, spaced, pairs, unknown = _sorted(words)
    if not unknown:
        return (known, spaced, pairs, min(spaced + pairs, elsewhere), 0, 0, 0, 0)
    pieces = _PIECES.findall(b" ".join(unknown))  # of camelCase
    elsewhere += len(pieces) - len(unknown)
    more = _sorted(pieces)
    known, spaced, pairs, unknown = known + more[0], spaced + more[1], pairs + more[2], more[3]
    letters = b"".join(unknown)
    capitals = len(letters.translate(None, _NOT_CAPITALS))
    long = sum([len(piece) for piece in unknown if len(piece) > _LONG_WORD])
    return (known, spaced, pairs, min(spaced + pairs, elsewhere), len(unknown), len(letters), capitals, long)


def _sorted(words: list[bytes]) -> tuple[int, int, int, list[bytes]]:
    """How many there are of each kind, and those that are unknown."""
    strange = [*filterfalse(KNOWN.__contains__, words)]
    rare = [*filterfalse(SPACED.__contains__, strange)]
    unknown = [*filterfalse(PAIRS.__contains__, rare)]
    return len(words) - len(strange), len(strange) - len(rare), len(rare) - len(unknown), unknown


def _sampled(text: str) -> Features:
    stride = (len(text) - _WINDOW) // _WINDOWS
    place = hash(text)  # salted anew in each process
    windows: list[Features] = []
    for number in range(_WINDOWS):
        place = (place * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % 2**64
        start = number * stride + (place >> 32) % stride
        windows.append(_whole(text[start : start + _WINDOW]))
    scale = len(text) / (_WINDOWS * _WINDOW)
    return tuple(ceil(scale * _high(counts)) for counts in zip(*windows, strict=True))


def _high(counts: Sequence[int]) -> float:
    """The sum of counts from a sample, two standard errors up."""
    total = sum(counts)
    spread = sum(count * count for count in counts) - total * total / len(counts)
    return total + 2 * sqrt(max(0.0, spread))


def text_tokens(text: str | bytes, family: str) -> int:
    """An upper bound on the tokens of a text; those of its pieces add up to no less than its own count."""
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if len(raw) <= 1:
        return len(raw)
    return min(len(raw), _priced(features(text), FAMILIES.get(family, OTHER)))


def _priced(counts: Features, family: Family) -> int:
    """Whole tokens; the weights are thousandths."""
    return -(-sum(map(int.__mul__, counts, family.weights)) // 1000)


def _exact(text: str, path: str) -> int | None:
    """None where the file has gone since the configuration was read: the bound does as well."""
    try:
        return tokenizer.count(text, path)
    except tokenizer.TokenizerUnusable:
        return None


def input_tokens(size: InputSize, of: Bounds) -> int:
    """An upper bound on the tokens that a provider counts as the input of a request.

    Where it adds input that the request only names, that is the whole context, or ASSUMED_CONTEXT where `of` has none.
    """
    if size.unseen and of.context is not None:
        return of.context
    family = FAMILIES.get(of.family, OTHER)
    exact = None if size.text is None or of.tokenizer is None else _exact(size.text, of.tokenizer)
    tokens = exact if exact is not None else _text_of(size, family)
    tokens += size.marks + family.base + size.tools * _TOOL + (family.tools if size.tools else 0)
    if size.images or size.small_images or size.audio_bytes or size.file_bytes:
        tokens += size.images * of.image_tokens + size.small_images * _small_image(of.image_tokens)
        tokens += ceil(size.audio_bytes * family.audio / 1000) + size.file_bytes
    if of.context is not None:
        return min(tokens, of.context)
    return max(tokens, ASSUMED_CONTEXT) if size.unseen else tokens


def least_tokens(size: InputSize) -> int:
    """How many tokens the input surely has: every vocabulary makes one of a word at least, and all else is left out.

    Words of a long text are counted in a sample and told a little too high, and some belong together: so a quarter off.
    """
    return sum(_features(size)[:_WORDS]) * 3 // 4


def _features(size: InputSize) -> Features:
    return size.features if size.features or size.text is None else features(size.text)


def _text_of(size: InputSize, family: Family) -> int:
    counts = _features(size)
    priced = _priced(counts, family) if counts else 0
    return priced if size.text is None else min(priced, len(size.text.encode(errors="surrogatepass")))


def _small_image(image_tokens: int) -> int:
    """Of low detail: a seventeenth at OpenAI's tile models (85 of 1,445), a sixth where patches are counted."""
    return max(85, -(-image_tokens // 6))


def media_tokens(base64: int) -> int:
    """An upper bound on the tokens of sound and pictures in an answer, by their characters in base64."""
    return -(-base64 * 3 * _MEDIA // 4000)


def audio_seconds(upload_bytes: int) -> int:
    """An upper bound on the length of an audio file: at 8 kbit/s, the lowest rate of MP3."""
    return -(-upload_bytes // 1000)
