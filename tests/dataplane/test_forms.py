"""Forms under a policy: their texts are redacted on the way, their files stream through, in chunks to the backend."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway
from tests.support.raw_http import Answer, Connection, chunked, head, request
from tests.support.replay import Asked, Recorded, ReplayBackend

MIB = 2**20
PATHS = ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits")
BOUNDARY = "boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
SECRET = "bob.miller@example.com"
CLEAN = "<EMAIL_ADDRESS_1>"
TARGETS = {"plain": "plain", "renamed": "a-much-longer-deployed-name"}


@dataclass(frozen=True, slots=True)
class Bench:
    """A gateway with a policy, and one backend behind."""

    gateway: RunningGateway
    client: httpx.Client
    backend: ReplayBackend

    def post(self, body: bytes, path: str = PATHS[0]) -> httpx.Response:
        self.backend.asked.clear()
        return self.client.post(path, content=body, headers={"content-type": FORM})

    def exchange(self, raw: bytes) -> Answer:
        """Send a request as it is written."""
        self.backend.asked.clear()
        with Connection(self.gateway.port) as connection:
            connection.send(raw)
            return connection.answer()

    @property
    def seen(self) -> Asked:
        """The one request that the backend got whole."""
        (asked,) = self.backend.asked
        return asked


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with ReplayBackend(
        Recorded(200, (("content-type", "application/json"),), (b'{"text":"<EMAIL_ADDRESS_1>"}',))
    ) as one:
        config = {
            "backends": {
                "replay": {"dialect": "openai", "url": one.url},
                "dead": {"dialect": "openai", "url": "http://127.0.0.1:9"},
            },
            "models": {
                **{name: {"targets": [[{"backend": "replay", "model": there}]]} for name, there in TARGETS.items()},
                "chain": {"targets": [[{"backend": "dead", "model": "m"}], [{"backend": "replay", "model": "m"}]]},
            },
            "policies": {
                "redaction": {
                    "default": {
                        "entities": {"EMAIL_ADDRESS": "placeholder", "IBAN_CODE": "mask", "CREDIT_CARD": "block"}
                    }
                }
            },
        }
        with RunningGateway(config) as running, running.client() as client:
            yield Bench(running, client, one)


def part(disposition: str, value: bytes | str, *more: str) -> bytes:
    header = "\r\n".join([f"Content-Disposition: form-data; {disposition}", *more])
    return (
        f"--{BOUNDARY}\r\n{header}\r\n\r\n".encode() + (value.encode() if isinstance(value, str) else value) + b"\r\n"
    )


def form(sound: bytes, prompt: str = "Hello", model: str = "plain", behind: str = "", name: str = "a.wav") -> bytes:
    """A prompt, the model, a file of any bytes, and another field."""
    return (
        part('name="prompt"', prompt)
        + part('name="model"', model)
        + part(f'name="file"; filename="{name}"', sound, "Content-Type: audio/wav")
        + part('name="user"', behind)
        + f"--{BOUNDARY}--\r\n".encode()
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", TARGETS)
def test_texts_are_redacted_before_and_behind_the_file_and_restored(bench: Bench, path: str, model: str) -> None:
    answer = bench.post(form(b"\xff" * 1000, f"ask {SECRET}", model, SECRET, f"{SECRET}.wav"), path)
    assert (answer.status_code, answer.json()) == (200, {"text": SECRET})
    assert bench.seen.body == form(b"\xff" * 1000, f"ask {CLEAN}", TARGETS[model], CLEAN, f"{CLEAN}.wav")
    assert bench.seen.header("content-length") == []
    assert bench.seen.header("transfer-encoding") == ["chunked"]


@given(sound=st.binary(max_size=3000), prompt=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20))
@settings(max_examples=40, deadline=None)
def test_a_form_in_which_nothing_is_found_passes_as_it_is(bench: Bench, sound: bytes, prompt: str) -> None:
    assert bench.post(form(sound, prompt)).status_code == 200
    assert bench.seen.body == form(sound, prompt)


@pytest.mark.parametrize("size", [1000, 70_000, 3 * MIB])
def test_a_body_in_pieces_of_any_size_comes_out_the_same(bench: Bench, size: int) -> None:
    sound = bytes(range(256)) * (5 * MIB // 256)
    body = form(sound, f"{'x ' * 20_000}{SECRET}", "renamed", SECRET)
    assert bench.exchange(chunked(PATHS[0], body, bench.gateway.key, size, FORM)).status == 200
    assert bench.seen.body == form(sound, f"{'x ' * 20_000}{CLEAN}", TARGETS["renamed"], CLEAN)


def test_the_next_backend_gets_the_same_form(bench: Bench) -> None:
    sound = b"\xff" * MIB
    assert bench.post(form(sound, SECRET, "chain")).status_code == 200
    assert bench.seen.body == form(sound, CLEAN, "m")


def test_what_must_not_leave_blocks_before_the_file_and_behind_it(bench: Bench) -> None:
    card = "4111 1111 1111 1111"
    for body in (form(b"\xff", f"pay {card}"), form(b"\xff" * 1000, behind=card), form(b"", name=card)):
        answer = bench.post(body)
        assert answer.status_code == 400
        assert "CREDIT_CARD" in answer.text
        assert card not in answer.text
        assert bench.backend.asked == []


REFUSED = {
    "a prompt in Latin 1": (part('name="prompt"', b"\xe4"), 400),
    "a charset": (part('name="prompt"', "x", "Content-Type: text/plain; charset=utf-16"), 400),
    "an encoding": (part('name="prompt"', "x", "Content-Transfer-Encoding: base64"), 400),
    "a large text": (part('name="prompt"', "x" * 200_000), 413),
    "texts": (part('name="prompt"', "x" * 100_000) * 3, 413),
}


@pytest.mark.parametrize(("bad", "status"), REFUSED.values(), ids=REFUSED)
def test_a_form_that_cannot_be_looked_through_never_comes_whole(bench: Bench, bad: bytes, status: int) -> None:
    model, end = part('name="model"', "plain"), f"--{BOUNDARY}--\r\n".encode()
    sound = part('name="file"; filename="a"', b"\xff" * 100_000)
    for body in (model + bad + sound + end, model + sound + bad + end):
        answer = bench.exchange(request(PATHS[0], body, bench.gateway.key, FORM))
        assert answer.status == status
        assert bench.backend.asked == []


def test_a_form_that_ends_too_early_never_comes_whole(bench: Bench) -> None:
    body = form(b"\xff" * 1000)
    assert bench.post(body[:-6]).status_code == 400
    assert bench.backend.asked == []


def test_a_client_that_waits_for_a_go_ahead_gets_one(bench: Bench) -> None:
    body = form(b"\xff" * 1000, SECRET)
    headers = {"content-type": FORM, "content-length": str(len(body)), "expect": "100-continue"}
    with Connection(bench.gateway.port) as connection:
        bench.backend.asked.clear()
        connection.send(head("POST", PATHS[0], headers, bench.gateway.key))
        connection.send(body)
        assert connection.answer().status == 200
    assert bench.seen.body == form(b"\xff" * 1000, CLEAN)


# ---- what an SDK sends, to a provider that reads it -----------------------------------------------------


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai", "azure") as fake:
        yield fake


@pytest.fixture(scope="module")
def sdk(provider: FakeProvider) -> Iterator[openai.OpenAI]:
    azure = {"dialect": "azure-openai", "url": provider.url("azure"), "api_version": "2024-10-21"}
    config: dict[str, Any] = {
        "backends": {"openai": {"dialect": "openai", "url": provider.url("openai")}, "azure": azure},
        "models": {
            "gpt-4o-transcribe": {"targets": [[{"backend": "openai"}]]},
            "gpt-image-1": {"targets": [[{"backend": "openai"}]]},
            "whisper": {"targets": [[{"backend": "azure"}]]},
        },
        "policies": {"redaction": {"default": {}}},
    }
    with RunningGateway(config) as running:
        yield openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0)


def test_an_sdk_is_served(sdk: openai.OpenAI, provider: FakeProvider) -> None:
    provider.reset()
    sound = (f"{SECRET}.wav", b"\xff" * MIB)
    told = sdk.audio.transcriptions.create(
        file=sound, model="gpt-4o-transcribe", prompt=f"from {SECRET}", timestamp_granularities=["word"]
    )
    assert told.text == f"Transcript of {SECRET}.wav ({MIB} bytes)."
    whisper = sdk.audio.transcriptions.create(file=sound, model="whisper", prompt=f"from {SECRET}")
    assert whisper.text == told.text
    picture = ("a.png", b"\x89PNG\xff", "image/png")
    drawn = sdk.images.edit(image=[picture, picture], mask=picture, prompt=f"as {SECRET}", model="gpt-image-1", n=2)
    assert len(drawn.data or []) == 2
    calls = provider.calls("openai") + provider.calls("azure")
    assert [(call["complete"], call["malformed"]) for call in calls] == [(True, False)] * 3
    assert SECRET not in json.dumps(calls)


def test_a_stream_of_a_transcript_is_restored(sdk: openai.OpenAI) -> None:
    stream = sdk.audio.transcriptions.create(
        file=(f"{SECRET}.wav", b"\xff" * 100), model="gpt-4o-transcribe", prompt="x", stream=True
    )
    events = [event.model_dump() for event in stream]
    assert "".join(event.get("delta", "") for event in events) == f"Transcript of {SECRET}.wav (100 bytes)."
    assert events[-1]["text"] == f"Transcript of {SECRET}.wav (100 bytes)."


# ---- a policy that only looks ---------------------------------------------------------------------------


def test_in_shadow_mode_a_form_passes_as_it_came_and_is_counted() -> None:
    """Even one that cannot be read: such a policy refuses nothing."""
    with ReplayBackend() as backend:
        config: dict[str, Any] = {
            "backends": {"replay": {"dialect": "openai", "url": backend.url}},
            "models": {"plain": {"targets": [[{"backend": "replay", "model": "plain"}]]}},
            "policies": {"redaction": {"default": {"mode": "shadow", "entities": {"DEFAULT": "block"}}}},
        }
        with RunningGateway(config) as running, running.client() as client:
            seen = Bench(running, client, backend)
            for body, found, unread in (
                (form(b"\xff" * 1000, SECRET, behind=SECRET), 2, None),
                (part('name="user"', SECRET) + form(b"\xff").replace(b"Hello", b"H\xe4llo"), 1, ["redaction"]),
            ):
                answer = seen.post(body)
                assert answer.status_code == 200
                assert (seen.seen.body, seen.seen.header("content-length")) == (body, [str(len(body))])
                record = running.record(answer.headers["x-request-id"])
                assert record["redaction"]["found"] == {"EMAIL_ADDRESS": found}
                assert record.get("unscreened") == unread
