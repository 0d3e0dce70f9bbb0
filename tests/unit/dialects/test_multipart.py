"""Reading the model of a form: whole, byte by byte, and where two readers could read two models."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import multipart
from extproc.dialects.multipart import MAX_HEADER, MAX_MODEL, PREFIX, Field, FormReader
from extproc.edits import Span
from extproc.refusals import BAD_REQUEST, DUPLICATE_FIELD, INVALID_VALUE, MISSING_MODEL, Kind, Refused

B = b"--B"
FILE = 'form-data; name="file"; filename="a.wav"'
SOUND = b"RIFF\r\n--\r\n--A\r\nmodel"


def part(disposition: str, value: bytes, *more: str) -> bytes:
    header = "\r\n".join([f"Content-Disposition: {disposition}", *more])
    return b"--B\r\n" + header.encode() + b"\r\n\r\n" + value + b"\r\n"


def named(name: str, value: bytes | str) -> bytes:
    return part(f'form-data; name="{name}"', value.encode() if isinstance(value, str) else value)


MODEL = named("model", "whisper-1")
SOUND_FILE = part(FILE, SOUND, "Content-Type: audio/wav")
END = b"--B--\r\n"


def read(chunks: Iterable[bytes], required: bool = True) -> Field | Kind | None:
    """The model of a form, or the kind of refusal."""
    reader = FormReader(B, required)
    whole = list(chunks)
    try:
        for number, chunk in enumerate(whole, 1):
            reader.feed(chunk, number == len(whole))
    except Refused as refused:
        return refused.refusal.kind
    assert reader.decided
    assert reader.model is not None or not required
    return reader.model


def chunked(raw: bytes, cuts: Sequence[int]) -> list[bytes]:
    return [raw[start:end] for start, end in pairwise([0, *sorted(cuts), len(raw)])]


TAKEN = {
    "model first": MODEL + SOUND_FILE + END,
    "model after a field": named("language", "en") + MODEL + SOUND_FILE + END,
    "fields behind the file": MODEL + SOUND_FILE + named("prompt", "x") + END,
    "two files": MODEL + SOUND_FILE + SOUND_FILE + END,
    "no file": MODEL + named("prompt", "x") + END,
    "an empty field": named("prompt", "") + MODEL + END,
    "unquoted name": part("form-data; name=model", b"whisper-1") + SOUND_FILE + END,
    "headers in another case": MODEL.replace(b"Content-Disposition", b"content-disposition") + SOUND_FILE + END,
    "more headers": part('form-data; name="model"', b"whisper-1", "Content-Type: text/plain; charset=utf-8") + END,
    "disposition second": MODEL.replace(b"Content-D", b"Content-Type: text/plain\r\nContent-D") + END,
    "encoded file name": MODEL + part("form-data; name=file; filename=a.wav; filename*=utf-8''a%20b.wav", b"x") + END,
    "file name first": MODEL + part('form-data; filename="model"; name="file"', b"x") + END,
    "quotes in a file name": MODEL + part(r'form-data; name="file"; filename="a\";name=\"model\".wav"', b"x") + END,
    "windows file name": MODEL + part(r'form-data; name="file"; filename="C:\a.wav"', b"x") + END,
    "model in an epilogue": MODEL + SOUND_FILE + END + MODEL,
    "not ended": MODEL + SOUND_FILE,
    "cut in the file": MODEL + SOUND_FILE[:-10],
    "cut behind the model": MODEL + B,
    "the delimiter of another form inside": MODEL + part(FILE, b"\r\n--C\r\n" + named("model", "x")[5:]) + END,
}


@pytest.mark.parametrize("body", TAKEN.values(), ids=TAKEN)
def test_the_model_is_read_with_its_place(body: bytes) -> None:
    at = body.index(b"whisper-1")
    assert read([body]) == Field("whisper-1", Span(at, at + 9))


SPELT_TWICE = [
    named("Model", "whisper-1"),
    named("MODEL", "whisper-1"),
    part("form-data; name=model", b"other"),
    part('form-data; name="model"; filename="x"', b"other"),
    part('form-data; filename="x"; name="model"', b"other"),
    MODEL,
]
ODD_HEADERS = {
    "no header": b"--B\r\n\r\nx\r\n",
    "no disposition": b"--B\r\nContent-Type: text/plain\r\n\r\nx\r\n",
    "another header's disposition": b'--B\r\nX-Content-Disposition: form-data; name="x"\r\n\r\nx\r\n',
    "two dispositions": part('form-data; name="x"', b"x", 'Content-Disposition: form-data; name="model"'),
    "not form-data": part('attachment; name="x"', b"x"),
    "no name": part("form-data", b"x"),
    "only a file name": part('form-data; filename="x"', b"x"),
    "two names": part('form-data; name="x"; name="model"', b"x"),
    "an encoded name": part("form-data; name*=utf-8''model", b"x"),
    "backslash in the name": part(r'form-data; name="m\odel"', b"x"),
    "quote in the name": part(r'form-data; name="x\"; name=\"model"', b"x"),
    "open quote": part('form-data; name="model', b"x"),
    "blanks around the sign": part('form-data; name = "model"', b"x"),
    "unknown parameter": part('form-data; x="y"; name="z"', b"x"),
    "folded header": part('form-data;\r\n name="x"', b"x"),
    "bare LF": part('form-data; name="x"\nContent-Disposition: form-data; name="model"', b"x"),
    "bare CR": part('form-data; name="x"\rContent-Disposition: form-data; name="model"', b"x"),
    "NUL": part('form-data; name="x\0"', b"x"),
    "blank before the colon": b'--B\r\nContent-Disposition : form-data; name="x"\r\n\r\nx\r\n',
    "no value": b'--B\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + MODEL,
    "blanks behind the delimiter": MODEL.replace(b"--B", b"--B "),
    "a longer delimiter": MODEL.replace(b"--B", b"--BC"),
    "one dash": b"--B-\r\n",
    "LF only": MODEL.replace(b"\r\n", b"\n"),
    "long headers": part('form-data; name="x"', b"x", "X: " + "y" * MAX_HEADER),
}
REFUSED = {
    "model behind the file": (SOUND_FILE + MODEL + END, MISSING_MODEL),
    "no model": (SOUND_FILE + END, MISSING_MODEL),
    "no model and no file": (named("prompt", "x") + END, MISSING_MODEL),
    "model as a file": (part('form-data; name="model"; filename="m"', b"x") + END, MISSING_MODEL),
    "no part": (END, MISSING_MODEL),
    "nothing": (b"", MISSING_MODEL),
    "cut in the delimiter": (b"--", MISSING_MODEL),
    "cut in the headers": (MODEL[:20], MISSING_MODEL),
    "cut in the model": (MODEL[:-4], MISSING_MODEL),
    "cut before the delimiter": (MODEL, MISSING_MODEL),
    "a preamble": (b"This is a form.\r\n" + MODEL + END, BAD_REQUEST),
    "an empty line before": (b"\r\n" + MODEL + END, BAD_REQUEST),
    "another boundary": (MODEL.replace(b"--B", b"--C"), BAD_REQUEST),
    "JSON": (b'{"model":"whisper-1"}', BAD_REQUEST),
    "only another spelling": (named("Model", "whisper-1") + SOUND_FILE + END, DUPLICATE_FIELD),
    "empty": (named("model", "") + SOUND_FILE + END, INVALID_VALUE),
    "with blanks": (named("model", "whisper 1") + SOUND_FILE + END, INVALID_VALUE),
    "with a line end": (named("model", "whisper-1\r\n") + SOUND_FILE + END, INVALID_VALUE),
    "not ASCII": (named("model", "whisp\u00e9r") + SOUND_FILE + END, INVALID_VALUE),
    "too long": (named("model", "m" * (MAX_MODEL + 1)) + SOUND_FILE + END, INVALID_VALUE),
    "endless": (named("model", "m" * PREFIX) + SOUND_FILE + END, INVALID_VALUE),
    "prompt beyond the prefix": (named("prompt", "x" * PREFIX) + MODEL + END, MISSING_MODEL),
    **{f"before the file: {again[5:60]!r}": (MODEL + again + SOUND_FILE, DUPLICATE_FIELD) for again in SPELT_TWICE},
    **{f"behind the file: {again[5:60]!r}": (MODEL + SOUND_FILE + again, DUPLICATE_FIELD) for again in SPELT_TWICE},
    **{f"{name}, first": (odd + MODEL + SOUND_FILE + END, BAD_REQUEST) for name, odd in ODD_HEADERS.items()},
    **{f"{name}, last": (MODEL + SOUND_FILE + odd + MODEL, BAD_REQUEST) for name, odd in ODD_HEADERS.items()},
}


@pytest.mark.parametrize(("body", "kind"), REFUSED.values(), ids=REFUSED)
def test_what_names_no_model_or_could_name_two_is_refused(body: bytes, kind: Kind) -> None:
    assert read([body]) is kind


SMALL = {
    name: body for name, body in (TAKEN | {key: made[0] for key, made in REFUSED.items()}).items() if len(body) < 999
}


@pytest.mark.parametrize("body", SMALL.values(), ids=SMALL)
def test_every_split_reads_the_same(body: bytes) -> None:
    whole = read([body])
    assert all(read([body[:at], body[at:]]) == whole for at in range(len(body) + 1))
    assert read([*(body[at : at + 1] for at in range(len(body))), b""]) == whole


@given(st.sampled_from([*TAKEN.values(), *(body for body, _ in REFUSED.values())]), st.data())
def test_any_chunking_reads_the_same(body: bytes, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=6))
    assert read(chunked(body, cuts)) == read([body])


@given(
    st.lists(
        st.sampled_from([B, b"\r\n", b"--", b": ", MODEL, SOUND_FILE, b'Content-Disposition: form-data; name="'])
        | st.binary(max_size=5),
        max_size=12,
    ).map(b"".join),
    st.data(),
)
def test_any_bytes_are_read_or_refused_however_they_are_cut(body: bytes, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=6))
    assert read(chunked(body, cuts)) == read([body])


@pytest.mark.parametrize("spare", [0, 1])
def test_the_model_must_stand_within_the_prefix_however_it_is_cut(spare: int) -> None:
    """Its delimiter is the last byte that counts."""
    filling = PREFIX - len(named("prompt", "")) - len(MODEL) - len(B) + 1 - spare
    body = named("prompt", "x" * filling) + MODEL + SOUND_FILE + END
    expected = MISSING_MODEL if spare == 0 else Field("whisper-1", Span(body.index(b"whis"), body.index(b"whis") + 9))
    assert read([body]) == expected
    assert read(chunked(body, range(PREFIX - 20, PREFIX + 20))) == expected


def test_the_decision_falls_before_the_file_has_come() -> None:
    reader = FormReader(B)
    reader.feed(MODEL, end=False)
    assert not reader.decided
    reader.feed(SOUND_FILE[: SOUND_FILE.index(b"RIFF") + len(B)], end=False)
    assert reader.decided


def test_a_form_without_a_file_is_decided_by_its_end_or_by_the_prefix() -> None:
    reader = FormReader(B)
    reader.feed(MODEL + b"--B--", end=False)
    assert reader.decided
    reader = FormReader(B)
    reader.feed(MODEL + named("prompt", "x" * PREFIX), end=False)
    assert reader.decided


def test_a_file_in_one_chunk_is_watched_beyond_the_prefix() -> None:
    body = MODEL + part(FILE, b"x" * 2 * PREFIX)
    assert read([body + END]) == read([MODEL + END])
    assert read([body + MODEL + END]) is DUPLICATE_FIELD


def test_a_streaming_file_is_not_held() -> None:
    reader = FormReader(B)
    reader.feed(MODEL + SOUND_FILE[:-2], end=False)
    for _ in range(100):
        reader.feed(b"\r\n" * 5_000, end=False)
        assert len(reader._held) <= len(B) + 2
    with pytest.raises(Refused):
        reader.feed(b"\r\n" + MODEL + b"--B--", end=True)


def test_single_bytes_are_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: headers and fields that come in single bytes are not searched again from their start."""
    searched = 0

    class Counted(bytearray):
        def find(self, wanted: bytes, start: int = 0) -> int:  # type: ignore[override]
            nonlocal searched
            searched += len(self) - start
            return super().find(wanted, start)

    reader = FormReader(B)
    reader._held = Counted()
    body = part('form-data; name="x"', b"x" * 5000, "X: " + "y" * 5000) + MODEL + SOUND_FILE + END
    for at in range(len(body)):
        reader.feed(body[at : at + 1], end=False)
    assert reader.decided
    assert type(reader._held) is Counted
    assert searched <= 8 * len(body)


# ---- a model that the path names already -----------------------------------------------------------------

FIELDS = named("prompt", "x") + SOUND_FILE
NOT_REQUIRED: dict[str, tuple[bytes, Field | Kind | None]] = {
    "absent": (FIELDS + END, None),
    "absent, no file": (named("prompt", "x") + END, None),
    "given": (MODEL + FIELDS + END, Field("whisper-1", Span(53, 62))),
    "behind the file": (FIELDS + MODEL + END, DUPLICATE_FIELD),
    "beyond the prefix": (named("prompt", "x" * PREFIX) + MODEL + END, DUPLICATE_FIELD),
    "across the prefix": (named("prompt", "x" * (PREFIX - 120)) + MODEL + END, MISSING_MODEL),
    "twice": (MODEL + MODEL + END, DUPLICATE_FIELD),
    "another spelling": (named("Model", "x") + FIELDS, DUPLICATE_FIELD),
    "as a file": (part('form-data; name="model"; filename="m"', b"x") + END, DUPLICATE_FIELD),
    "cut in its value": (MODEL[:-4], MISSING_MODEL),
    "with blanks": (named("model", "whisper 1") + FIELDS, INVALID_VALUE),
}


@pytest.mark.parametrize(("body", "expected"), NOT_REQUIRED.values(), ids=NOT_REQUIRED)
def test_a_model_named_by_the_path_may_be_absent_but_not_late(body: bytes, expected: Field | Kind | None) -> None:
    for size in (1, 7, 1000, len(body)):
        chunks = [*chunked(body, range(size, len(body), size)), b""]
        assert read(chunks, required=False) == expected


def test_a_field_of_a_form_is_read_as_what_it_says() -> None:
    first = FormReader(B).part("model", "whisper-1")
    assert read([first + FIELDS + END]) == Field("whisper-1", Span(len(first) - 11, len(first) - 2))


# ---- the images that a form asks for ---------------------------------------------------------------------


def asked(body: bytes, size: int = 10**9) -> int | None:
    reader = FormReader(B)
    for at in range(0, len(body), size):
        reader.feed(body[at : at + size], end=at + size >= len(body))
    return reader.images


COUNTED: dict[str, tuple[bytes, int | None]] = {
    "absent": (SOUND_FILE, None),
    "before the file": (named("n", "10") + SOUND_FILE, 10),
    "without a file": (named("n", "1"), 1),
    "behind the file": (SOUND_FILE + named("n", "10"), None),
    "behind the file, twice": (SOUND_FILE + named("n", "1") + named("n", "10"), None),
    "beyond the prefix": (named("prompt", "x" * PREFIX) + named("n", "1"), None),
    "as a file": (part('form-data; name="n"; filename="n"', b"1"), None),
    "another spelling": (named("N", "1"), None),
    "another spelling first": (named("N", "10") + named("n", "1"), None),
    "unreadable first": (named("n", " 10") + named("n", "1"), None),
    "empty": (named("n", ""), None),
    "zero": (named("n", "0"), None),
    "signed": (named("n", "+1"), None),
    "with a point": (named("n", "1.0"), None),
    "long": (named("n", "1000"), None),
    "endless": (named("n", "1" * 5_000), None),
}


@pytest.mark.parametrize(("rest", "images"), COUNTED.values(), ids=COUNTED)
def test_the_images_are_known_where_one_plain_number_stands_before_the_file(rest: bytes, images: int | None) -> None:
    body = MODEL + rest + END
    assert [asked(body, size) for size in (1, 7, 1000, 10**9)] == [images] * 4


@pytest.mark.parametrize(
    "again",
    [named("n", "1"), named("N", "10"), SOUND_FILE + named("n", "10"), SOUND_FILE + named("N", "")],
)
def test_a_number_that_was_taken_is_not_followed_by_another(again: bytes) -> None:
    assert read([MODEL + named("n", "1") + again + END]) is DUPLICATE_FIELD


# ---- the content-type header ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "delimiter"),
    [
        ("multipart/form-data; boundary=B", b"--B"),
        ("Multipart/Form-Data;BOUNDARY=B", b"--B"),
        ('multipart/form-data; boundary="a b:c"', b"--a b:c"),
        (
            "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
            b"------WebKitFormBoundary7MA4YWxkTrZu0gW",
        ),
        ("multipart/form-data; charset=utf-8; boundary=B", b"--B"),
        ("multipart/form-data ; boundary=B ; charset=utf-8;", b"--B"),
        (" multipart/form-data; boundary=a=b/c?d ", b"--a=b/c?d"),
        ('multipart/form-data; x="; boundary=A"; boundary=B', b"--B"),
        ("multipart/form-data; xboundary=A; boundary=B", b"--B"),
        ("multipart/form-data; boundary=" + "b" * 70, b"--" + b"b" * 70),
    ],
)
def test_the_delimiter_is_the_boundary_of_the_header(content_type: str, delimiter: bytes) -> None:
    assert multipart.delimiter(content_type) == delimiter


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "multipart/form-data",
        "multipart/form-data;",
        "multipart/form-data; boundary",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        'multipart/form-data; boundary="B',
        'multipart/form-data; boundary="B "',
        r'multipart/form-data; boundary="a\b"',
        "multipart/form-data; boundary=A; boundary=B",
        "multipart/form-data; boundary=A; Boundary=A",
        "multipart/form-data; boundary=A; boundary*=utf-8''B",
        "multipart/form-data; Boundary*0=A; boundary=A",
        "multipart/form-data; boundary=A, multipart/form-data; boundary=B",
        "multipart/form-data; boundary=a b",
        "multipart/form-data; boundary=\u00e9",
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/form-data; xboundary=A",
        "multipart/form-data boundary=A",
        "multipart/mixed; boundary=A",
    ],
)
def test_a_header_without_one_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(Refused) as caught:
        multipart.delimiter(content_type)
    assert caught.value.refusal.kind is BAD_REQUEST


# ---- what the SDK sends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("azure", [False, True])
def test_the_openai_sdk_puts_the_model_before_the_files(azure: bool) -> None:
    found = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        reader = FormReader(multipart.delimiter(request.headers["content-type"]))
        body = request.read()
        first_file = re.search(rb"filename=", body)
        assert first_file is not None
        reader.feed(body[: body.index(b"\r\n\r\n", first_file.start()) + 100], end=False)
        assert reader.decided
        found.append(reader.model and reader.model.model)
        return httpx2.Response(200, json={"text": "", "created": 1, "data": []})

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as transport:
        client = (
            openai.AzureOpenAI(azure_endpoint="http://a", api_version="2024-10-21", api_key="k", http_client=transport)
            if azure
            else openai.OpenAI(base_url="http://o/v1", api_key="k", http_client=transport)
        )
        sound, picture = ("a.wav", b"x" * 200), ("a.png", b"x" * 200)
        client.audio.transcriptions.create(file=sound, model="one", timestamp_granularities=["word"])
        with pytest.deprecated_call():
            client.audio.translations.create(file=sound, model="two")
        client.images.edit(image=picture, prompt="p" * 32_000, model="three")
        client.images.edit(image=[picture, picture], mask=picture, prompt="p", model="four", n=2)
    assert found == ["one", "two", "three", "four"]
