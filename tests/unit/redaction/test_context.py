"""The words beside a value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.context import Surroundings, Words
from extproc.redaction.normalise import Source

VALUE = "123456782"


def _speaks(text: str, *words: str) -> bool:
    start = text.index(VALUE)
    # Positions are in the normalised text, where these texts have as many characters.
    return Words(words).are_in(Surroundings(Source(text)).of(start, start + len(VALUE)))


@pytest.mark.parametrize(
    "text",
    [
        f"SIN {VALUE}",
        f"sin_number={VALUE}",
        f'{{"clientSin": "{VALUE}"}}',
        f"{VALUE} is my SIN",
        f"SIN:\n{VALUE}",
        f"two SINs: {VALUE}",
        "ｓｉｎ " + VALUE,
        f"| name | sin |\n|---|---|\n| Ann | {VALUE} |",
        f"Export\nname;sin\nAnn;{VALUE}\nBob;1",
        "name\tsin\n" + "Ann\t1\n" * 500 + f"Bob\t{VALUE}\n",
    ],
)
def test_a_word_speaks_for_a_value(text: str) -> None:
    assert _speaks(text, "sin")


@pytest.mark.parametrize(
    "text",
    [
        f"since {VALUE}",
        f"a sinner {VALUE}",
        f"SIN\nother line {VALUE}",
        f"{VALUE} x\nSIN",
        "sin " + "x" * 150 + f" {VALUE}",
        f"name,sin,city\nAnn,1,{VALUE}\n",
        f"name,sin\nAnn,1\n\nsku,price\n{VALUE},2\n",
    ],
)
def test_a_word_elsewhere_does_not(text: str) -> None:
    assert not _speaks(text, "sin")


def test_phrases_and_scripts() -> None:
    assert _speaks(f"Social-Insurance no. {VALUE}", "social insurance")
    assert not _speaks(f"social and insurance {VALUE}", "social insurance")
    assert _speaks(f"我的身份号码是{VALUE}", "身份号码")
    assert _speaks(f"numéro d'assurance {VALUE}", "numéro d'assurance")
    assert _speaks(f"הטלפון {VALUE}", "טלפון")


def test_empty_words_speak_for_nothing() -> None:
    assert not _speaks(f"a {VALUE}", "", " - ")


PIECES = (
    *("sin ", "SIN:", "clientSin", "sins", "social ", "insurance ", "İ", "ΟΔΟΣ ", "身份号码", "ﬁ", "\u200b", "½"),
    *("\n", "\n\n", ",", "name,sin\n", "x" * 60, " word" * 9, "1,", "|", VALUE + " "),
)


@given(st.lists(st.sampled_from(PIECES), max_size=30), st.lists(st.sampled_from(PIECES), max_size=12))
def test_nothing_is_missed_where_no_surroundings_are_read(before: list[str], after: list[str]) -> None:
    """Surroundings are read only where a word could be; that has to be wherever one is."""
    lead = "".join(before)
    source = Source(f"{lead} {VALUE} {''.join(after)}")
    start = len(Source(lead + " ").data)
    for words in (Words(["sin"]), Words(["social insurance", "身份号码"]), Words(["οδος"]), Words(["fi", "i"])):
        surroundings = Surroundings(source)
        expected = words.are_in(surroundings.of(start, start + len(VALUE)))
        assert surroundings.have(words, start, start + len(VALUE)) == expected
