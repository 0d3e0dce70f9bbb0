"""Text completions: a prompt, several prompts, or prompts as token numbers."""

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from loadtest.fake_llm import chat, tokenizer, turn
from loadtest.fake_llm.answer import CREATED, EVENT_STREAM, Answer, Event, Json
from loadtest.fake_llm.inquiry import Inquiry
from loadtest.fake_llm.turn import Ask, Counts, Turn


def answer(inquiry: Inquiry) -> Answer:
    """Answer a text completion, `n` choices for each prompt. Raises ApiError as the provider would."""
    body, model = inquiry.body, inquiry.model
    prompts = texts(body.get("prompt") or "")
    per_prompt = body.get("n") or 1
    ask = Ask("", sum(tokens for _, tokens in prompts))
    turns = [
        turn.compose(Ask(text, 0, body.get("max_tokens")), inquiry.faults, index)
        for text, _ in prompts
        for index in range(per_prompt)
    ]
    counts = turn.count(ask, turns, inquiry.faults)
    envelope = {"id": inquiry.id("cmpl-"), "object": "text_completion", "created": CREATED, "model": model}
    if body.get("stream"):
        events = _events(inquiry, envelope, turns, counts)
        return Answer(content_type=EVENT_STREAM, events=events, input_tokens=counts.input, classes=counts.classes)
    choices = [_choice(body, said.pieces, index, _finish(said)) for index, said in enumerate(turns)]
    whole = envelope | {"choices": choices}
    for reported in turn.reported(chat.usage(counts), inquiry.faults):
        whole["usage"] = reported
    return Answer(
        body=orjson.dumps(whole), input_tokens=counts.input, output_tokens=counts.output, classes=counts.classes
    )


def texts(given: Any) -> list[tuple[str, int]]:
    """Each text of an input with its count: a text, a list of texts, of tokens, or of lists of tokens."""
    if isinstance(given, str):
        return [(given, tokenizer.count(given))]
    if given and all(isinstance(token, int) for token in given):
        return [(_of_tokens(given), len(given))]
    return [pair for one in given for pair in texts(one)]


def _of_tokens(tokens: Sequence[int]) -> str:
    return " ".join(str(token) for token in tokens)


def _choice(body: Json, pieces: Sequence[str], index: int, finish: str | None, offset: int = 0) -> Json:
    logprobs = None if body.get("logprobs") is None else _logprobs(pieces, offset)
    return {"text": "".join(pieces), "index": index, "logprobs": logprobs, "finish_reason": finish}


def _logprobs(pieces: Sequence[str], offset: int) -> Json:
    starts = [offset + sum(map(len, pieces[:place])) for place in range(len(pieces))]
    return {
        "tokens": list(pieces),
        "token_logprobs": [-0.25] * len(pieces),
        "top_logprobs": [{piece: -0.25} for piece in pieces],
        "text_offset": starts,
    }


def _finish(said: Turn) -> str:
    return "length" if said.cut else "stop"


def _events(inquiry: Inquiry, envelope: Json, turns: Sequence[Turn], counts: Counts) -> Iterator[Event]:
    wants_usage = bool((inquiry.body.get("stream_options") or {}).get("include_usage"))
    usage: Json = {"usage": None} if wants_usage else {}
    hidden = inquiry.faults.reasoning_tokens
    for index, said in enumerate(turns):
        offset = 0
        for piece in said.pieces:
            choice = _choice(inquiry.body, (piece,), index, None, offset)
            yield Event(orjson.dumps(envelope | {"choices": [choice]} | usage), 1 + hidden)
            offset, hidden = offset + len(piece), 0
        yield Event(orjson.dumps(envelope | {"choices": [_choice({}, (), index, _finish(said))]} | usage))
    for reported in turn.reported(chat.usage(counts), inquiry.faults) if wants_usage else ():
        yield Event(orjson.dumps(envelope | {"choices": [], "usage": reported}))
    if inquiry.faults.done:
        yield chat.DONE
