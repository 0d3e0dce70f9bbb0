"""What finding personal data costs: `python -m loadtest.bench_pii`.

Clean texts, texts with ten blocks of personal data, and hostile ones from a kilobyte to a megabyte, with the exponent
that fits their times. Presidio on the same texts where it is installed, with its English recognizers, and ours with
the same entities; `--presidio` installs it into a folder of its own under var/, from which nothing else is taken that
this environment has. The status is 1 where a target is missed. See loadtest/results/pii.md.
"""

import argparse
import importlib
import importlib.util
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from extproc.redaction.detector import Detector, Settings
from extproc.redaction.entities import DEFAULT, KNOWN
from extproc.redaction.scan import has_hyperscan
from loadtest.setups import ROOT

Find = Callable[[str], object]

_KB = 1_000
_SIZES = (_KB, 10 * _KB, 100 * _KB, 1_000 * _KB)
_CLEAN_TIME = 0.1e-3  # seconds for 10 kB
_HOSTILE_TIME = 50e-3  # seconds for 100 kB of what others stumble over
_DENSE_TIME = 250e-3  # the same where a value is, or could be, at each group of characters
_CLEAN_RATIO, _MIXED_RATIO = 150, 20
EXPONENT = 1.2
"""The most that may fit a hostile text: a line, and the noise of the machine."""

_PRESIDIO = ROOT / "var/compare/presidio"

_WORDS = """
    the of and to in a is that for it as was with be by on not he this are or his from at which but have an had they you
    were their one all we can her has there been if more when will would who so no she other its may these what them
    some system answer question model report customer meeting project review budget market travel summer window kitchen
    garden please write summary explain describe compare difference between method result table number example reason
"""
_BLOCK = (
    "Contact Bob at bob.smith@example.com or +1 415 555 2671, card 4111 1111 1111 1111, SSN 536-90-4399, "
    "IBAN DE89370400440532013000, from 8.8.8.8. "
)


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds of one text. `bound` is the most that they may be; `ratio` is Presidio's time over ours."""

    name: str
    size: int
    default: float
    plain: float | None = None
    same: float | None = None
    presidio: float | None = None
    ratio_bound: float | None = None
    bound: float | None = None

    @property
    def ratio(self) -> float | None:
        return self.presidio / self.same if self.presidio and self.same else None

    def missed(self) -> str:
        if self.bound is not None and self.default > self.bound:
            return f"{self.name}: {self.default * 1e3:.3f} ms, target {self.bound * 1e3:g} ms"
        if self.ratio_bound is not None and self.ratio is not None and self.ratio < self.ratio_bound:
            return f"{self.name}: {self.ratio:.0f} times as fast as Presidio, target {self.ratio_bound:g}"
        return ""


@dataclass(frozen=True, slots=True)
class Hostile:
    """Seconds of one kind of text by size, and the exponent that fits them: 1 is linear, 2 quadratic."""

    name: str
    times: Mapping[int, float]
    bound: float | None = None

    @property
    def exponent(self) -> float:
        """Of a least-squares line through the logarithms, from 10 kB on: below, calls and windows cost most."""
        points = [(math.log(size), math.log(taken)) for size, taken in self.times.items() if size > _KB]
        mean_x = sum(x for x, _ in points) / len(points)
        mean_y = sum(y for _, y in points) / len(points)
        return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)

    def missed(self) -> str:
        if self.exponent > EXPONENT:
            return f"{self.name}: exponent {self.exponent:.2f}, target {EXPONENT}"
        taken = self.times[100 * _KB]
        if self.bound is not None and taken > self.bound:
            return f"{self.name}: {taken * 1e3:.0f} ms for 100 kB, target {self.bound * 1e3:g} ms"
        return ""


# ---- texts ----


def prose(size: int) -> str:
    """Sentences of common words; nothing to find."""
    dice = random.Random(7)
    words = _WORDS.split()
    sentences = []
    length = 0
    while length < size:
        sentences.append(" ".join(dice.choices(words, k=dice.randrange(6, 18))).capitalize() + ". ")
        length += len(sentences[-1])
    return "".join(sentences)[:size]


def mixed() -> str:
    """10 kB of prose with ten blocks of six values each."""
    text = prose(9 * _KB)
    return "".join(text[start : start + 900] + _BLOCK for start in range(0, len(text), 900))


def _repeated(piece: str) -> Callable[[int], str]:
    return lambda size: (piece * (size // len(piece) + 1))[:size]


def _drawn(alphabet: str) -> Callable[[int], str]:
    return lambda size: "".join(random.Random(9).choices(alphabet, k=size))


def _lines(line: Callable[[random.Random], str]) -> Callable[[int], str]:
    """Text of drawn lines."""

    def make(size: int) -> str:
        dice = random.Random(11)
        lines: list[str] = []
        length = 0
        while length < size:
            lines.append(line(dice))
            length += len(lines[-1])
        return "".join(lines)[:size]

    return make


def _group(dice: random.Random) -> str:
    return f"{dice.randrange(1_000):03} " if dice.random() < 0.5 else f"{dice.randrange(10_000):04} "


def _row(dice: random.Random) -> str:
    return ",".join(str(dice.randrange(10 ** dice.randrange(1, 10))) for _ in range(10)) + "\n"


def _access(dice: random.Random) -> str:
    second = dice.randrange(86_400)
    return (
        f"10.{dice.randrange(256)}.{dice.randrange(256)}.{dice.randrange(256)} - - "
        f"[{dice.randrange(1, 29):02}/Nov/2026:{second // 3_600:02}:{second // 60 % 60:02}:{second % 60:02} +0000] "
        f'"GET /items/{dice.randrange(10**7)}?page={dice.randrange(99)} HTTP/1.1" 200 {dice.randrange(10**5)} '
        f'"-" "Mozilla/5.0 (X11; Linux x86_64) Chrome/120.0.6099.{dice.randrange(300)}" 0.{dice.randrange(1_000):03}\n'
    )


def _object(dice: random.Random) -> str:
    readings = ",".join(f"{dice.uniform(0, 1_000):.3f}" for _ in range(6))
    time_of_it = 1_700_000_000_000 + dice.randrange(10**10)
    return (
        f'{{"id":{dice.randrange(10**9)},"at":{time_of_it},"lat":{dice.uniform(-90, 90):.6f},"values":[{readings}]}},'
    )


_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
HOSTILE: Mapping[str, tuple[Callable[[int], str], float]] = {
    "base64 and one @": (lambda size: _drawn(_BASE64)(size - 12) + "@example.com", _HOSTILE_TIME),
    "a:a:a:": (_repeated("a:"), _HOSTILE_TIME),
    "a@a@a@": (_repeated("a@"), _DENSE_TIME),
    "((((": (_repeated("("), _HOSTILE_TIME),
    "digits": (_drawn("0123456789"), _HOSTILE_TIME),
    "digits and separators": (_drawn("0123456789 .-"), _DENSE_TIME),
    "groups of digits": (_lines(_group), _DENSE_TIME),
    "rows of integers": (_lines(_row), _HOSTILE_TIME),
    "access log": (_lines(_access), _HOSTILE_TIME),
    "numbers in JSON": (_lines(_object), _HOSTILE_TIME),
    "1-1-1-": (_repeated("1-"), _HOSTILE_TIME),
    "12 12 12": (_repeated("12 "), _DENSE_TIME),
    "4111 4111": (_repeated("4111 "), _DENSE_TIME),
    "telephone numbers": (_repeated("415-555-2671 "), _DENSE_TIME),
    "addresses": (_repeated("8.8.8.8 "), _DENSE_TIME),
    "halves of tokens": (_repeated("eyJhbGciOiJIUzI1NiJ9."), _HOSTILE_TIME),
    "keys without an end": (_repeated("-----BEGIN PRIVATE KEY-----\n"), _HOSTILE_TIME),
    "server=;password=": (_repeated("server=a;password="), _HOSTILE_TIME),
}

# ---- measuring ----


def best(find: Find, text: str, rounds: int) -> float:
    """Seconds of CPU of the fastest of some rounds."""
    times = []
    for _ in range(rounds):
        started = time.process_time_ns()
        find(text)
        times.append(time.process_time_ns() - started)
    return min(times) / 1e9


class Finders:
    """Ours with the default entities, without Hyperscan, and with Presidio's; and Presidio, where it is installed."""

    def __init__(self) -> None:
        self.default: Find = Detector().findings
        self.plain: Find | None = Detector(use_hyperscan=False).findings if has_hyperscan() else None
        self.same: Find | None = None
        self.presidio: Find | None = None
        if importlib.util.find_spec("presidio_analyzer") is not None:
            engine = _presidio()
            entities = frozenset(engine.get_supported_entities("en")) & KNOWN
            self.same = Detector(Settings(entities=entities)).findings
            self.presidio = lambda text: engine.analyze(text, "en")

    def row(self, name: str, text: str, bound: float | None = None, ratio_bound: float | None = None) -> Row:
        rounds = max(5, 200 * _KB // len(text))
        return Row(
            name,
            len(text),
            best(self.default, text, rounds),
            best(self.plain, text, 3) if self.plain else None,
            best(self.same, text, rounds) if self.same else None,
            best(self.presidio, text, 3) if self.presidio else None,
            ratio_bound,
            bound,
        )


def _install() -> None:
    """Presidio, at the first time; it is looked for after all that is installed here. Raises OSError."""
    if not (_PRESIDIO / "presidio_analyzer").exists():
        print(f"installing Presidio into {_PRESIDIO} (330 MB, some minutes)", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(_PRESIDIO), "presidio-analyzer"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(f"Presidio cannot be installed: {done.stderr[-2000:]}")
    sys.path.append(str(_PRESIDIO))


def _presidio() -> Any:
    """Presidio with its English recognizers and no model."""
    analyzer = importlib.import_module("presidio_analyzer")
    tokenizer = importlib.import_module("loadtest.plain_presidio").Tokenizer()
    registry = analyzer.RecognizerRegistry(supported_languages=["en"])
    registry.load_predefined_recognizers(languages=["en"])
    return analyzer.AnalyzerEngine(registry=registry, nlp_engine=tokenizer, supported_languages=["en"])


def rows(finders: Finders) -> list[Row]:
    return [
        finders.row("clean, 1 kB", prose(_KB)),
        finders.row("clean, 10 kB", prose(10 * _KB), _CLEAN_TIME, _CLEAN_RATIO),
        finders.row("clean, 100 kB", prose(100 * _KB), 10 * _CLEAN_TIME, _CLEAN_RATIO),
        finders.row("mixed, 10 kB", mixed(), None, _MIXED_RATIO),
    ]


def hostile(find: Find, sizes: Sequence[int]) -> list[Hostile]:
    results = []
    for name, (make, bound) in HOSTILE.items():
        times = {size: best(find, make(size), 3) for size in sizes}
        results.append(Hostile(name, times, bound))
    return results


# ---- telling ----


def table(measured: Sequence[Row], attacks: Sequence[Hostile]) -> str:
    lines = [
        f"Entities: {', '.join(DEFAULT)}.",
        "",
        "| text | ours | without Hyperscan | ours, Presidio's entities | Presidio | ratio |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {row.name} | {_ms(row.default)} | {_ms(row.plain)} | {_ms(row.same)} | {_ms(row.presidio)} "
            f"| {f'{row.ratio:,.0f}' if row.ratio else '—'} |"
            for row in measured
        ),
        "",
        f"| hostile text | {' | '.join(f'{size // _KB:,} kB' for size in attacks[0].times)} | exponent |",
        "|---|" + "---:|" * (len(attacks[0].times) + 1),
        *(
            f"| `{attack.name}` | {' | '.join(map(_ms, attack.times.values()))} | {attack.exponent:.2f} |"
            for attack in attacks
        ),
    ]
    return "\n".join(lines)


def _ms(seconds: float | None) -> str:
    return "—" if seconds is None else f"{seconds * 1e3:,.3f} ms"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--presidio", action="store_true", help="beside Presidio, which is installed at the first time")
    parser.add_argument("--quick", action="store_true", help="hostile texts of up to 100 kB, not 1 MB")
    options = parser.parse_args(argv)
    if options.presidio:
        try:
            _install()
        except OSError as problem:
            parser.exit(2, f"{problem}\n")
    finders = Finders()
    measured = rows(finders)
    attacks = hostile(finders.default, _SIZES[:-1] if options.quick else _SIZES)
    if options.json:
        figures = {"rows": [asdict(row) | {"ratio": row.ratio} for row in measured]}
        print(json.dumps(figures | {"hostile": [asdict(one) | {"exponent": one.exponent} for one in attacks]}))
    else:
        print(table(measured, attacks))
    missed = [row.missed() for row in measured if row.missed()] + [one.missed() for one in attacks if one.missed()]
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
