"""Bounds on tokens: they hold for what real tokenizers counted, add up, cannot be slipped under, and stay cheap."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.metering import bounds
from extproc.metering.families import FAMILIES, OTHER
from extproc.model import Bounds, InputSize

RECORD: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "fixtures/token_counts.json").read_text())


def held(entry: dict[str, Any], family: str) -> float:
    """What a bound must be: of crafted texts as much as docs/estimates.md promises; the fit saw longer ones."""
    kind = entry["name"].removeprefix("crafted ")
    share = 0.8 if kind.startswith("known words") else 1 if kind == entry["name"] else 0.99
    return share * float(entry["tokens"][family])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("entry", RECORD, ids=[entry["name"] for entry in RECORD])
def test_a_bound_holds_for_what_a_tokenizer_counted(entry: dict[str, Any], family: str) -> None:
    assert bounds.text_tokens(entry["text"], family) >= held(entry, family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("entry", RECORD, ids=[entry["name"] for entry in RECORD])
def test_pieces_of_a_stream_are_bounded_no_lower_than_the_text(entry: dict[str, Any], family: str) -> None:
    dice = random.Random(entry["name"])
    text, at, paid = entry["text"], 0, 0
    while at < len(text):
        size = dice.randint(1, 12)
        paid += bounds.text_tokens(text[at : at + size], family)
        at += size
    assert paid >= held(entry, family)


@pytest.mark.parametrize(("family", "most"), [("openai", 1.6), ("anthropic", 2.0), ("google", 1.6), ("other", 1.6)])
def test_the_bound_of_prose_is_near(family: str, most: float) -> None:
    (entry,) = (entry for entry in RECORD if entry["name"] == "English")
    assert bounds.text_tokens(entry["text"], family) <= most * entry["tokens"][family]


ANY = st.text(max_size=200) | st.text("aZ0 .\n\té你\U0001f600", max_size=200)


@given(ANY, st.sampled_from([*FAMILIES]))
def test_a_text_is_some_tokens_and_never_more_than_its_bytes(text: str, family: str) -> None:
    tokens = bounds.text_tokens(text, family)
    assert bool(tokens) == bool(text)
    assert tokens <= len(text.encode(errors="surrogatepass"))


@given(ANY, ANY)
def test_what_is_joined_by_a_line_break_is_what_both_are(left: str, right: str) -> None:
    both, apart = bounds.features(f"{left}\n{right}"), zip(bounds.features(left), bounds.features(right), strict=True)
    sums = dict(zip(bounds.NAMES, map(sum, apart), strict=True))
    joined = dict(zip(bounds.NAMES, both, strict=True))
    for name in {*bounds.NAMES} - {"glued", "breaks", "newlines", "indents"}:
        assert joined[name] == sums[name], name
    assert joined["newlines"] == sums["newlines"] + 1
    assert joined["glued"] >= sums["glued"]
    assert joined["breaks"] >= sums["breaks"]


@given(st.text(max_size=100), st.text(st.characters(codec="utf-8"), min_size=1, max_size=100))
def test_more_lines_are_never_fewer_tokens(text: str, more: str) -> None:
    assert bounds.text_tokens(f"{text}\n{more}", "openai") >= bounds.text_tokens(text, "openai")


@given(ANY)
def test_every_character_is_counted_somewhere_and_no_count_is_negative(text: str) -> None:
    counts = dict(zip(bounds.NAMES, bounds.features(text), strict=True))
    assert min(counts.values()) >= 0
    assert all(counts.values()) or sum(counts.values()) >= 0
    if text.strip(" "):
        assert sum(counts.values()) > 0


def counted(text: str) -> dict[str, int]:
    found = dict(zip(bounds.NAMES, bounds.features(text), strict=True))
    return {name: count for name, count in found.items() if count}


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("", {}),
        ("the the", {"words": 2}),
        ("getName", {"words": 2}),
        ("experience during", {"spaced": 2, "glued": 1}),
        ("\nexperience\nduring", {"spaced": 2, "glued": 2, "breaks": 1, "newlines": 2}),
        ("qzxv", {"unknown": 1, "letters": 4}),
        ("QZXV", {"unknown": 1, "letters": 4, "capitals": 4}),
        ("q" * 17, {"unknown": 1, "letters": 17, "long": 17}),
        ("12 345", {"digits": 5, "numbers": 2}),
        ("{}\t\r", {"signs": 4}),
        ("a\n    a", {"words": 2, "breaks": 1, "newlines": 1, "doubles": 2, "indents": 1}),
        ("Привет", {"cyrillic": 6}),
        ("你好", {"han": 2}),
        ("«»", {"latin": 2}),
        ("\U00020000", {"astral": 1, "rare": 1}),
        ("\ud800", {"hangul": 1, "rare": 1}),
    ],
)
def test_what_is_counted_of_a_text(text: str, counts: dict[str, int]) -> None:
    assert counted(text) == counts


def test_bytes_count_as_the_text_that_they_are() -> None:
    assert bounds.features("für 你\n".encode()) == bounds.features("für 你\n")
    assert bounds.text_tokens(b"\xff\xfe\xfd", "openai") == 3


# ---- long texts -------------------------------------------------------------------------------------------

PROSE = next(entry["text"] for entry in RECORD if entry["name"] == "English") + " "


@pytest.mark.parametrize(
    "text",
    [
        PROSE * 400,
        "".join(entry["text"] for entry in RECORD) * 2,
        PROSE * 200 + "qzxjvk" * 8_000,
        "网关在放行每个调用之前都会记账。" * 3_000,
    ],
)
def test_a_long_text_is_bounded_from_samples_and_rather_too_high(text: str) -> None:
    assert len(text) > bounds.WHOLE
    parts = [text[at : at + bounds.WHOLE] for at in range(0, len(text), bounds.WHOLE)]
    whole = sum(bounds.text_tokens(part, "openai") for part in parts)
    assert 0.97 * whole <= bounds.text_tokens(text, "openai") <= 1.5 * whole


def test_a_long_text_is_looked_at_in_as_many_places_however_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    whole = bounds._whole

    def watched(text: str) -> bounds.Features:
        seen.append(len(text))
        return whole(text)

    monkeypatch.setattr(bounds, "_whole", watched)
    looked_at = []
    for length in (bounds.WHOLE + 1, 100_000, 5_000_000):
        seen.clear()
        bounds.features("x" * length)
        looked_at.append(sum(seen))
    assert len(set(looked_at)) == 1
    assert looked_at[0] <= bounds.WHOLE


# ---- whole requests ---------------------------------------------------------------------------------------


def size(text: str = "", **more: Any) -> InputSize:
    return InputSize(features=bounds.features(text), **more)


def test_a_request_is_its_text_its_marks_and_what_stands_around_it() -> None:
    openai = FAMILIES["openai"]
    assert bounds.input_tokens(InputSize(), Bounds()) == openai.base
    assert bounds.input_tokens(size("the the", marks=9), Bounds()) == openai.base + 9 + 3
    assert bounds.input_tokens(size(tools=3), Bounds()) == openai.base + openai.tools + 24


def test_an_unknown_family_is_the_dearest() -> None:
    assert bounds.input_tokens(size("1234", tools=1), Bounds(family="new")) == bounds.input_tokens(
        size("1234", tools=1), Bounds(family="other")
    )
    assert bounds.text_tokens("12 34", "new") == bounds.text_tokens("12 34", "other")
    assert FAMILIES["other"] is OTHER


@pytest.mark.parametrize(
    ("given", "of", "tokens"),
    [
        ({"images": 2}, Bounds(), 3_400),
        ({"images": 1}, Bounds(image_tokens=765), 765),
        ({"small_images": 1}, Bounds(), 284),
        ({"small_images": 1}, Bounds(image_tokens=0), 85),
        ({"audio_bytes": 1_000}, Bounds(), 10),
        ({"audio_bytes": 1}, Bounds(), 1),
        ({"file_bytes": 700}, Bounds(), 700),
    ],
)
def test_media_have_a_price_of_their_own(given: dict[str, int], of: Bounds, tokens: int) -> None:
    assert bounds.input_tokens(InputSize(**given), of) == tokens + FAMILIES["openai"].base  # type: ignore[arg-type]


def test_nothing_is_more_than_the_context() -> None:
    assert bounds.input_tokens(size(file_bytes=10**6), Bounds(context=8_192)) == 8_192
    assert bounds.input_tokens(size(unseen=True), Bounds(context=8_192)) == 8_192
    assert bounds.input_tokens(size(unseen=True), Bounds()) == bounds.ASSUMED_CONTEXT


def test_a_short_text_is_not_bounded_above_its_bytes() -> None:
    text = "ﷺ" * 3
    assert bounds.input_tokens(InputSize(text=text, features=(10**6,) * len(bounds.NAMES)), Bounds()) == (
        len(text.encode()) + FAMILIES["openai"].base
    )


@pytest.mark.parametrize(("upload", "seconds"), [(0, 0), (1, 1), (1_000, 1), (1_001, 2), (25_000_000, 25_000)])
def test_a_sound_is_no_longer_than_at_the_lowest_rate(upload: int, seconds: int) -> None:
    assert bounds.audio_seconds(upload) == seconds
