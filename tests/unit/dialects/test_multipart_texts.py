"""The texts of a form, looked at before they pass: which they are, how they are put back, and what is refused."""

import base64
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects.form_texts import MAX_TEXT, MAX_TEXTS, FormTexts
from extproc.dialects.multipart import MAX_MODEL, PREFIX, Field
from extproc.edits import Span
from extproc.refusals import (
    BAD_REQUEST,
    DUPLICATE_FIELD,
    INVALID_VALUE,
    MISSING_MODEL,
    TOO_LARGE,
    Kind,
    Refused,
)

TYPE = "multipart/form-data; boundary=B"
SECRET = "bob@example.com"
CLEAN = "<EMAIL_ADDRESS_1>"
SOUND = b"RIFF\r\n--\r\n--A\r\n\xff\x00 " + SECRET.encode()


def part(disposition: str, value: bytes | str, *more: str) -> bytes:
    header = "\r\n".join([f"Content-Disposition: {disposition}", *more])
    return b"--B\r\n" + header.encode() + b"\r\n\r\n" + (value.encode() if isinstance(value, str) else value) + b"\r\n"


def named(name: str, value: bytes | str, *more: str) -> bytes:
    return part(f'form-data; name="{name}"', value, *more)


def file(name: str = "a.wav", field: str = "file", value: bytes = SOUND, *more: str) -> bytes:
    return part(f'form-data; name="{field}"; filename="{name}"', value, *(more or ("Content-Type: audio/wav",)))


MODEL = named("model", "whisper-1")
FILE = file()
END = b"--B--\r\n"


def clean(text: str) -> str:
    return text.replace(SECRET, CLEAN)


class Looker:
    """What a policy does to texts, and which it was shown."""

    def __init__(self, look: Callable[[str], str] = clean) -> None:
        self.seen: list[str] = []
        self._look = look

    def pass_through(self, reader: FormTexts, chunks: Iterable[bytes]) -> bytes:
        whole = list(chunks)
        return b"".join([self.feed(reader, chunk, number == len(whole)) for number, chunk in enumerate(whole, 1)])

    def feed(self, reader: FormTexts, chunk: bytes, end: bool = False) -> bytes:
        texts = reader.texts(chunk, end)
        given: str | None = None
        while True:
            try:
                text = next(texts) if given is None else texts.send(given)
            except StopIteration as done:
                passes: bytes = done.value
                return passes
            self.seen.append(text)
            given = self._look(text)


def passed(body: bytes, look: Callable[[str], str] = clean) -> bytes:
    return Looker(look).pass_through(FormTexts(TYPE), [body])


def seen(body: bytes) -> list[str]:
    looker = Looker()
    looker.pass_through(FormTexts(TYPE), [body])
    return looker.seen


def outcome(
    chunks: Iterable[bytes],
    required: bool = True,
    look: Callable[[str], str] = clean,
    changes: bool = True,
    lenient: bool = False,
) -> Kind | tuple[bytes, list[str], Field | None, int | None]:
    reader, looker = FormTexts(TYPE, required, changes=changes, lenient=lenient), Looker(look)
    try:
        sent = looker.pass_through(reader, chunks)
    except Refused as refused:
        return refused.refusal.kind
    if reader.model is not None:
        assert sent[reader.model.span.start : reader.model.span.end] == reader.model.model.encode()
    return sent, looker.seen, reader.model, reader.images


def chunked(raw: bytes, cuts: Sequence[int]) -> list[bytes]:
    return [raw[start:end] for start, end in pairwise([0, *sorted(cuts), len(raw)])]


# ---- what is looked at, and what passes -----------------------------------------------------------------

UNCHANGED = {
    "a plain form": MODEL + FILE + END,
    "settings": MODEL + named("response_format", "verbose_json") + named("temperature", "0.2") + FILE + END,
    "texts in which nothing is found": MODEL + named("prompt", "Grüße, 世界\r\n--\r\n") + FILE + END,
    "an empty text": MODEL + named("prompt", "") + FILE + END,
    "a typed text": MODEL + named("prompt", "x", "Content-Type: text/plain; charset=UTF-8") + FILE + END,
    "odd spellings": MODEL.replace(b"Content-Disposition: ", b"content-disposition:") + FILE + END,
    "no content type": MODEL + part('form-data; name="file"; filename="a.wav"', SOUND) + END,
    "parameters of a type": MODEL + file("a.webm", "file", SOUND, 'Content-Type: audio/webm;codecs="opus"') + END,
    "two images and a mask": MODEL
    + b"".join(file("a.png", field, SOUND, "Content-Type: image/png") for field in ("image[]", "image[1]", "mask"))
    + END,
    "as .NET writes it": MODEL
    + part("form-data; name=file; filename=a.wav; filename*=utf-8''a.wav", SOUND)
    + named("prompt", "x", "Content-Type: text/plain; charset=utf-8")
    + END,
    "a name in base64": MODEL + file("=?utf-8?B?w6Qud2F2?=") + END,
    "odd characters of a name": MODEL + file("what=?.wav") + END,
    "UTF-8 by name": named("_charset_", "UTF-8") + MODEL + FILE + END,
    "a voice": MODEL + named("known_speaker_references[]", "data:audio/wav;base64,UklGRg==") + FILE + END,
    "a long voice": MODEL + named("x", b"data:audio/wav;base64," + b"UklG" * 2 * MAX_TEXTS) + FILE + END,
    "nothing in a voice": MODEL + named("x", "data:audio/wav;base64,") + FILE + END,
}


@pytest.mark.parametrize("body", UNCHANGED.values(), ids=UNCHANGED)
def test_a_form_in_which_nothing_is_found_passes_as_it_is(body: bytes) -> None:
    assert passed(body) == body


def test_the_found_values_alone_are_changed_before_and_behind_the_file() -> None:
    body = named("prompt", f"Ask {SECRET}!") + MODEL + FILE + named("user", SECRET) + END
    expected = named("prompt", f"Ask {CLEAN}!") + MODEL + FILE + named("user", CLEAN) + END
    assert passed(body) == expected


def test_a_longer_text_and_a_shorter_one_move_the_model() -> None:
    sent, _, model, _ = outcome([named("prompt", SECRET) + MODEL + FILE + END])  # type: ignore[misc]
    at = sent.index(b"whisper-1")
    assert model == Field("whisper-1", Span(at, at + 9))
    assert at == (named("prompt", CLEAN) + MODEL).index(b"whisper-1")


def test_the_values_are_shown_in_their_order() -> None:
    body = named("prompt", "one") + MODEL + named("language", "two three") + FILE + named("prompt", "four") + END
    assert seen(body) == ["one", "two three", "a.wav", "four"]


TEXTS = {
    "without a file name": named("prompt", SECRET),
    "as bytes": named("prompt", SECRET, "Content-Type: application/octet-stream"),
    "as a sound": named("prompt", SECRET, "Content-Type: audio/wav"),
    "an unknown field": named("x", SECRET),
    "a setting": named("language", SECRET),
    "a number of images": named("n", SECRET),
    "a prompt as a file": file("p.bin", "prompt", SECRET.encode(), "Content-Type: application/octet-stream"),
    "an empty file name": part('form-data; name="file"; filename=""', SECRET),
    "one empty file name of two": part('form-data; name="file"; filename="a"; filename=""', SECRET),
    "only an encoded file name": part("form-data; name=\"file\"; filename*=utf-8''a.wav", SECRET),
    "a file of text": file("a.txt", "file", SECRET.encode(), "Content-Type: text/plain"),
    "a file of JSON": file("a.json", "file", SECRET.encode(), "Content-Type: application/json; charset=utf-8"),
    "a drawing": file("a.svg", "image", SECRET.encode(), "Content-Type: image/svg+xml"),
    "another spelling of a file's field": file("a.wav", "File", SECRET.encode()),
    "a type in other words": file("a.txt", "file", SECRET.encode(), "content-type:TEXT/markdown"),
    "near a data URL": named("prompt", f"data:text/plain;base64,{SECRET}"),
    "beside a binary encoding": named("prompt", SECRET, "Content-Transfer-Encoding: 8BIT "),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_a_backend_could_read_as_a_text_is_looked_at(text: bytes) -> None:
    for body in (MODEL + text + FILE + END, MODEL + FILE + text + END):
        assert passed(body).count(SECRET.encode()) == 1  # in the sound
        assert CLEAN.encode() in passed(body)


HEADERS = {
    "a file's name": (file(f"call {SECRET}.wav"), file(f"call {CLEAN}.wav")),
    "a field's name": (named(SECRET, "x"), named(CLEAN, "x")),
    "a name without quotes": (
        part("form-data; name=file; filename=a555.wav", SOUND),
        part('form-data; name=file; filename="[555].wav"', SOUND),
    ),
    "an encoded name": (
        part("form-data; name=file; filename=a; filename*=UTF-8'en'%62ob%40example.com%20%C3%A4", SOUND),
        part("form-data; name=file; filename=a; filename*=utf-8''%3CEMAIL_ADDRESS_1%3E%20%C3%A4", SOUND),
    ),
    "a name in base64": (
        file(f"=?UTF-8?b?{base64.b64encode(f'ä {SECRET}'.encode()).decode()}?="),
        file(f"ä {CLEAN}"),
    ),
    "a parameter of a type": (
        file("a", "file", SOUND, f'Content-Type: audio/wav; by="{SECRET}"'),
        file("a", "file", SOUND, f"Content-Type: audio/wav; by=%22{CLEAN}%22"),
    ),
    "a type": (
        named("x", "x", "Content-Type: audio/a555"),
        named("x", "x", "Content-Type: audio/[555]"),
    ),
    "a header that nobody reads": (named("prompt", "x", f"X-Note: {SECRET}"), named("prompt", "x")),
    "a length": (named("prompt", SECRET, "Content-Length: 15"), named("prompt", CLEAN)),
}


@pytest.mark.parametrize(("given", "expected"), HEADERS.values(), ids=HEADERS)
def test_the_headers_of_a_part_are_looked_at(given: bytes, expected: bytes) -> None:
    def look(text: str) -> str:
        return clean(text).replace("a555", "[555]")

    assert passed(MODEL + given + END, look) == MODEL + expected + END


def test_what_is_put_into_a_name_cannot_end_it() -> None:
    sent = passed(MODEL + file("a b.wav") + END, lambda _: 'a"; name="x\r\n\\')
    assert b'filename="a%22; name=%22x%0D%0A%5C"' in sent


def test_what_stands_behind_the_last_boundary_does_not_pass() -> None:
    assert passed(MODEL + FILE + END + SECRET.encode()) == MODEL + FILE + END
    assert passed(MODEL + FILE + END[:-2]) == MODEL + FILE + END


def test_a_change_cannot_make_a_part() -> None:
    def look(text: str) -> str:
        return text.replace("x", "")

    assert outcome([MODEL + named("prompt", "a\r\n-x-B\r\n") + END], look=look) is BAD_REQUEST
    assert outcome([MODEL + named("prompt", "-x-B") + END], look=look) is BAD_REQUEST
    assert outcome([MODEL + named("prompt", "a-x-B") + END], look=look) == (
        MODEL + named("prompt", "a--B") + END,
        ["a-x-B"],
        Field("whisper-1", Span(53, 62)),
        None,
    )


# ---- what is refused ------------------------------------------------------------------------------------

LATIN = "Content-Type: text/plain; charset="
REFUSED = {
    "not UTF-8": (MODEL + named("prompt", b"\xe4"), BAD_REQUEST),
    "a sound that is no file": (MODEL + named("file", SOUND), BAD_REQUEST),
    "an encoded file name alone": (MODEL + part("form-data; name=file; filename*=utf-8''a", SOUND), BAD_REQUEST),
    "a name that is not UTF-8": (MODEL + file("A").replace(b'"A"', b'"\xe4"'), BAD_REQUEST),
    "a type that is not UTF-8": (MODEL + FILE.replace(b"audio/wav", b"audio/w\xe4"), BAD_REQUEST),
    "an encoded name that is not UTF-8": (MODEL + part("form-data; name=x; filename*=utf-8''%E4", b""), BAD_REQUEST),
    "an encoded name in Latin 1": (MODEL + part("form-data; name=x; filename*=iso-8859-1''a", b""), BAD_REQUEST),
    "an encoded name in quotes": (MODEL + part("form-data; name=x; filename*=\"utf-8''a\"", b""), BAD_REQUEST),
    "a backslash in a name": (MODEL + file(r"bob\@example.com"), BAD_REQUEST),
    "a word in Latin 1": (MODEL + file("=?iso-8859-1?B?5A==?="), BAD_REQUEST),
    "a quoted word": (MODEL + file("=?utf-8?Q?=C3=A4?="), BAD_REQUEST),
    "a word in a name": (MODEL + file("a =?utf-8?B?w6Q=?="), BAD_REQUEST),
    "a word that is no base64": (MODEL + file("=?utf-8?B?w6Q?="), BAD_REQUEST),
    "a word that is not UTF-8": (MODEL + file("=?utf-8?B?5A==?="), BAD_REQUEST),
    "two types": (MODEL + file("a", "file", SOUND, "Content-Type: audio/wav", "content-type: text/plain"), BAD_REQUEST),
    "no type": (MODEL + named("prompt", "x", "Content-Type: "), BAD_REQUEST),
    "an odd type": (MODEL + named("prompt", "x", "Content-Type: text/plain; charset = utf-16"), BAD_REQUEST),
    "another charset": (MODEL + named("prompt", "x", LATIN + "utf-16"), BAD_REQUEST),
    "another charset in quotes": (MODEL + named("prompt", "x", LATIN + '"UTF-7"'), BAD_REQUEST),
    "an encoded charset": (
        MODEL + named("prompt", "x", "Content-Type: text/plain; charset*=utf-8''utf-7"),
        BAD_REQUEST,
    ),
    "two charsets": (MODEL + named("prompt", "x", LATIN + "utf-8; charset=utf-7"), BAD_REQUEST),
    "a charset of all": (named("_charset_", "utf-16") + MODEL, BAD_REQUEST),
    "a text in base64": (MODEL + named("prompt", "Ym9i", "Content-Transfer-Encoding: base64"), BAD_REQUEST),
    "a data URL with more behind": (MODEL + named("x", f"data:audio/wav;base64,AAAA {SECRET}"), INVALID_VALUE),
    "a large text": (MODEL + named("prompt", "x" * (MAX_TEXT + 1)), TOO_LARGE),
    "many texts": (MODEL + named("prompt", "x" * 5000) * 60, TOO_LARGE),
    "more fields": (MODEL + named("x", "y") * 65, TOO_LARGE),
    "many headers": (MODEL + named("x", "") * 10_000, TOO_LARGE),
    "two models": (MODEL + MODEL, DUPLICATE_FIELD),
    "a second model behind the file": (MODEL + FILE + MODEL, DUPLICATE_FIELD),
    "a model behind the file": (FILE + MODEL, MISSING_MODEL),
    "a model that is none": (named("model", "a b"), INVALID_VALUE),
    "a long model": (named("model", "m" * (MAX_MODEL + 1)), INVALID_VALUE),
    "a model beyond the prefix": (named("prompt", "x" * (PREFIX - 100)) + MODEL, MISSING_MODEL),
}


@pytest.mark.parametrize(("body", "kind"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_looked_at_as_it_is_read_is_refused(body: bytes, kind: Kind) -> None:
    assert outcome([body + END]) is kind


@pytest.mark.parametrize("kept", [0.0, 0.05, 0.2, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("first", [MODEL, named("prompt", "x")])
def test_a_form_that_ends_too_early_is_refused(first: bytes, kept: float) -> None:
    body = first + FILE + END.rstrip()
    assert outcome([body[: int(len(body) * kept)]], required=False) in (BAD_REQUEST, MISSING_MODEL)
    assert outcome([body], required=False) == outcome([body + b"\r\n"], required=False)


def test_texts_up_to_the_limits_pass() -> None:
    def sized(more: int) -> bytes:
        """With so many bytes of texts and headers more than may be."""
        around = len("--B\r\n\r\n\r\n\r\n")
        first = MODEL + named("prompt", "x" * MAX_TEXT)
        spent = len(first) - 2 * around - len("whisper-1")
        left = MAX_TEXTS + more - spent - (len(named("prompt", "")) - around)
        return first + named("prompt", "x" * left) + END

    assert passed(sized(0)) == sized(0)
    assert outcome([sized(1)]) is TOO_LARGE


def test_what_the_policy_refuses_ends_the_form() -> None:
    def block(text: str) -> str:
        raise Refused(BAD_REQUEST, "blocked") if SECRET in text else AssertionError(text)

    assert outcome([MODEL + named("prompt", SECRET) + MODEL + END], look=block) is BAD_REQUEST


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=B; charset=utf-16",
        'multipart/form-data; charset="utf-7"; boundary=B',
        "multipart/form-data; boundary=B; charset*=utf-8''utf-7",
        "multipart/form-data",
    ],
)
def test_a_form_of_another_charset_is_refused(content_type: str) -> None:
    with pytest.raises(Refused) as caught:
        FormTexts(content_type)
    assert caught.value.refusal.kind is BAD_REQUEST


def test_a_form_that_says_that_it_is_utf_8_is_none() -> None:
    FormTexts('multipart/form-data; charset="UTF-8"; boundary=B')


# ---- where nothing is changed, and where nothing is refused ---------------------------------------------

READABLE = [*UNCHANGED.values(), *(MODEL + text + FILE + END for text in TEXTS.values())]
READABLE += [MODEL + given + END for given, _ in HEADERS.values()]
READABLE += [MODEL + FILE + END + b"an epilogue"]


@pytest.mark.parametrize("body", READABLE, ids=range(len(READABLE)))
def test_where_nothing_changes_a_form_passes_as_it_came_and_its_texts_are_told(body: bytes) -> None:
    told = outcome([body])
    assert isinstance(told, tuple)
    at = body.index(b"whisper-1")
    assert outcome([body], changes=False) == (body, told[1], Field("whisper-1", Span(at, at + 9)), told[3])
    assert outcome([body], lenient=True) == told


OF_THE_FORM = ("two models", "a second model", "a model", "a long model")
UNREAD = {name: body for name, (body, _) in REFUSED.items() if not name.startswith(OF_THE_FORM)}


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("bad", UNREAD.values(), ids=UNREAD)
def test_where_nothing_is_refused_what_cannot_be_looked_at_passes_as_it_is(bad: bytes, changes: bool) -> None:
    body = named("prompt", SECRET) + bad + named("user", SECRET) + FILE + END
    reader, looker = FormTexts(TYPE, changes=changes, lenient=True), Looker()
    passes = looker.pass_through(reader, [body[:80], body[80:]])
    assert passes == (body.replace(SECRET.encode(), CLEAN.encode(), 1) if changes else body)
    assert reader.unread
    assert reader.model is not None
    assert passes[reader.model.span.start : reader.model.span.end] == b"whisper-1"
    assert looker.seen[0] == SECRET


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in UNREAD])
def test_a_model_that_could_be_read_in_two_ways_is_always_refused(name: str) -> None:
    body, kind = REFUSED[name]
    assert outcome([body + END], changes=False, lenient=True) is kind


def test_where_nothing_is_refused_a_form_may_end_early_and_be_of_any_charset() -> None:
    body = MODEL + FILE[:-9]
    assert outcome([body], lenient=True) == (body, ["a.wav"], Field("whisper-1", Span(53, 62)), None)
    foreign = FormTexts("multipart/form-data; charset=utf-16; boundary=B", lenient=True)
    assert foreign.unread
    looker = Looker()
    body = MODEL + named("prompt", SECRET) + END
    assert looker.pass_through(foreign, [body]) == body
    assert looker.seen == []


# ---- on the way -----------------------------------------------------------------------------------------


def test_a_text_is_held_until_it_is_whole_and_a_file_is_not() -> None:
    reader, looker = FormTexts(TYPE), Looker()
    start = MODEL + b'--B\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'
    assert looker.feed(reader, start + b"bob@exam") == start
    assert looker.feed(reader, b"ple.com\r\n--") == b""
    assert looker.feed(reader, b"B\r\n") == CLEAN.encode() + b"\r\n--B"
    sound = FILE.removeprefix(b"--B\r\n")
    assert looker.feed(reader, sound[:-4]) == (b"\r\n" + sound[:-4])[: -len("\r\n--B") + 1]
    assert reader.decided
    size = sum(len(looker.feed(reader, b"\xff" * 9999)) for _ in range(100))
    assert abs(size - 100 * 9999) < 9
    assert len(reader._held) < 9


SMALL = [body for body in UNCHANGED.values() if len(body) < 900]
SMALL += [MODEL + text + FILE + END for text in TEXTS.values()]
SMALL += [MODEL + given + named("prompt", SECRET) + END for given, _ in HEADERS.values()]
SMALL += [body + END for body, _ in REFUSED.values() if len(body) < 900]


@pytest.mark.parametrize("body", SMALL, ids=range(len(SMALL)))
def test_every_split_gives_the_same(body: bytes) -> None:
    whole = outcome([body])
    assert all(outcome([body[:at], body[at:]]) == whole for at in range(len(body) + 1))
    assert outcome([*(body[at : at + 1] for at in range(len(body))), b""]) == whole


def _block(text: str) -> str:
    if "block" in text:
        raise Refused(TOO_LARGE, "stands for a block")
    return clean(text)


@given(
    st.lists(
        st.sampled_from(
            [
                *(b"--B", b"\r\n", b"--", MODEL, FILE, END, named("prompt", "block"), named("prompt", SECRET)),
                *(b'--B\r\nContent-Disposition: form-data; name="', b"; filename=", b"data:audio/wav;base64,AA"),
            ]
        )
        | st.binary(max_size=5),
        max_size=12,
    ).map(b"".join),
    st.data(),
)
def test_any_bytes_pass_or_are_refused_however_they_are_cut(body: bytes, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=6))
    ways = [data.draw(st.booleans()) for _ in range(3)]
    required, changes, lenient = ways
    cut = outcome(chunked(body, cuts), required, _block, changes, lenient)
    assert cut == outcome([body], required, _block, changes, lenient)


texts = st.lists(st.sampled_from([SECRET, "x", " ", "ä", "\r\n", "--", "B", '"', "世", "data:audio/wav;base64,"])).map(
    "".join
)


@given(st.lists(st.tuples(st.sampled_from(["prompt", "user", "n", "language", "x"]), texts), max_size=5), st.data())
def test_exactly_the_found_values_are_changed(fields: list[tuple[str, str]], data: st.DataObject) -> None:
    parts = [named(name, text) for name, text in fields if f"\r\n{text}".find("\r\n--B") < 0]
    expected = [named(name, clean(text)) for name, text in fields if f"\r\n{text}".find("\r\n--B") < 0]
    at = data.draw(st.integers(0, len(parts)))
    body = b"".join([*parts[:at], MODEL, FILE, *parts[at:], END])
    got = outcome(chunked(body, data.draw(st.lists(st.integers(0, len(body)), max_size=6))))
    if got not in (DUPLICATE_FIELD, INVALID_VALUE):
        assert isinstance(got, tuple)
        assert got[0] == b"".join([*expected[:at], MODEL, FILE, *expected[at:], END])
