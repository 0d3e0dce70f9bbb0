"""Audio and images: transcription, translation, speech, generation and edits."""

from collections.abc import Iterator
from hashlib import shake_256

import orjson

from loadtest.fake_llm import tokenizer, turn
from loadtest.fake_llm.answer import CREATED, EVENT_STREAM, Answer, Event, Json, event
from loadtest.fake_llm.errors import missing
from loadtest.fake_llm.inquiry import Inquiry

_BYTES_PER_SECOND = 32_000  # as 16-bit mono at 16 kHz, whatever the file really is
_AUDIO_TOKENS_PER_SECOND = 10
_SPEECH_BYTES_PER_TOKEN = 512
_IMAGE_OUTPUT_TOKENS = 272
_SPEECH_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def transcribe(inquiry: Inquiry) -> Answer:
    """Answer a transcription or translation of a file. `whisper` models bill seconds, the others tokens."""
    model = inquiry.model
    if "file" not in inquiry.files:
        raise missing("file")
    name, data = inquiry.files["file"]
    text = inquiry.faults.text if inquiry.faults.text is not None else f"Transcript of {name} ({len(data)} bytes)."
    seconds = max(1, -(-len(data) // _BYTES_PER_SECOND))
    pieces = tokenizer.split(text)
    read = 0 if model.startswith("whisper") else seconds * _AUDIO_TOKENS_PER_SECOND
    usage = _usage(seconds, read, len(pieces))
    if inquiry.body.get("stream") == "true":
        events = _transcript_events(inquiry, text, pieces, usage)
        return Answer(content_type=EVENT_STREAM, events=events, input_tokens=read)
    if inquiry.body.get("response_format") == "text":
        return Answer(200, f"{text}\n".encode(), "text/plain; charset=utf-8", (), read, len(pieces))
    whole: Json = {"text": text}
    if inquiry.body.get("response_format") == "verbose_json":
        whole = _verbose(text, seconds)
    for reported in turn.reported(usage, inquiry.faults):
        whole["usage"] = reported
    return Answer(body=orjson.dumps(whole), input_tokens=read, output_tokens=len(pieces))


def speak(inquiry: Inquiry) -> Answer:
    """Answer a speech call with bytes that depend on the text alone, 512 for each of its tokens."""
    text = inquiry.need("input")
    _ = inquiry.model
    tokens = tokenizer.count(text)
    sound = shake_256(text.encode()).digest(_SPEECH_BYTES_PER_TOKEN * tokens)
    kind = _SPEECH_TYPES.get(inquiry.body.get("response_format", "mp3"), "audio/mpeg")
    return Answer(body=b"ID3" + sound, content_type=kind, input_tokens=tokens)


def paint(inquiry: Inquiry) -> Answer:
    """Answer an image generation or edit with `n` images of one pixel."""
    prompt = inquiry.need("prompt")
    count = int(inquiry.body.get("n") or 1)
    text_tokens = tokenizer.count(prompt)
    image_tokens = turn.IMAGE_TOKENS * len(inquiry.files)
    read, written = text_tokens + image_tokens, _IMAGE_OUTPUT_TOKENS * count
    whole: Json = {
        "created": CREATED,
        "data": [{"b64_json": _PNG}] * count,
        "output_format": "png",
        "quality": "low",
        "size": "1024x1024",
    }
    usage = {
        "total_tokens": read + written,
        "input_tokens": read,
        "output_tokens": written,
        "input_tokens_details": {"text_tokens": text_tokens, "image_tokens": image_tokens},
    }
    for reported in turn.reported(usage, inquiry.faults):
        whole["usage"] = reported
    return Answer(body=orjson.dumps(whole), input_tokens=read, output_tokens=written)


def _usage(seconds: int, read: int, written: int) -> Json:
    if not read:
        return {"type": "duration", "seconds": seconds}
    return {
        "type": "tokens",
        "input_tokens": read,
        "input_token_details": {"text_tokens": 0, "audio_tokens": read},
        "output_tokens": written,
        "total_tokens": read + written,
    }


def _verbose(text: str, seconds: int) -> Json:
    segment = {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": float(seconds),
        "text": text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": -0.25,
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }
    return {
        "task": "transcribe",
        "language": "english",
        "duration": float(seconds),
        "text": text,
        "segments": [segment],
    }


def _transcript_events(inquiry: Inquiry, text: str, pieces: list[str], usage: Json) -> Iterator[Event]:
    for piece in pieces:
        yield event({"type": "transcript.text.delta", "delta": piece}, 1)
    done: Json = {"type": "transcript.text.done", "text": text}
    figures = turn.reported(usage, inquiry.faults)
    for reported in figures:
        yield event(done | {"usage": reported})
    if not figures:
        yield event(done)
