"""What characters stand for, and the way back."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.normalise import LETTER, OTHER, OTHER_LETTER, Source, folded, plain

MIXED = st.text(st.sampled_from("aZ9 @.-\n é卡ж😀\u200b\u00ad\ufe0f\u00a0–４٤ﬁ½㎏\u0301\u20e3\u115f\u2028\ud800"))


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_itself(text: str) -> None:
    source = Source(text)
    assert source.data == text.encode()
    assert all(source.origin(i, i + 1) == (i, i + 1) for i in range(len(text)))
    assert plain(text) == text


@given(st.one_of(MIXED, st.text()))
def test_each_character_has_one_byte_and_its_place_in_the_source(text: str) -> None:
    source = Source(text)
    expected = [(i, byte) for i, character in enumerate(text) for byte in folded(character)]
    assert source.data == bytes(byte for _, byte in expected)
    assert len(source.normalised()) == len(source.data)
    for position, (index, _) in enumerate(expected):
        assert source.origin(position, position + 1) == (index, index + 1)


@given(MIXED, st.data())
def test_a_stretch_goes_back_to_exactly_the_characters_it_came_from(text: str, data: st.DataObject) -> None:
    source = Source(text)
    if not source.data:
        return
    start = data.draw(st.integers(0, len(source.data) - 1))
    end = data.draw(st.integers(start + 1, len(source.data)))
    first, last = source.origin(start, end)
    assert source.data[start:end] in folded(text[first:last])
    # It neither begins nor ends with what is not seen.
    assert folded(text[first])
    assert folded(text[last - 1])
    assert source.value(start, end) == plain(text[first:last])


def test_what_stands_for_ascii() -> None:
    assert plain("ｂｏｂ＠ｅｘ．ｃｏｍ") == "bob@ex.com"
    assert plain("٤١۴১४") == "41414"  # of five scripts
    assert plain("4\u00a01\u20091\u20021") == "4 1 1 1"
    assert plain("1‐2‑3‒4–5—6―7−8﹣9") == "1-2-3-4-5-6-7-8-9"
    assert plain("a\u200bb\u200d\u2060c\u00add\ufe0fe\u034f\ufeff\u3164") == "abcde"
    assert plain("1️⃣2️⃣") == "12"
    assert plain("a\u2028b\u2029c\u0085d") == "a\nb\nc\nd"
    assert plain("½") == "1/2"


def test_letters_are_folded_by_their_script() -> None:
    assert folded("éßжαქ") == LETTER * 5
    assert folded("卡あ한ไعאक") == OTHER_LETTER * 7
    assert folded("😀→§\ud800") == OTHER * 4


def test_every_code_point_can_be_folded() -> None:
    for code in range(0, 0x110000, 97):
        character = chr(code)
        assert len(folded(character)) == len(plain(character))
        if unicodedata.category(character) == "Cf":
            assert not folded(character)
