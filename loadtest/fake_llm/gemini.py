"""Google's Gemini API: generated content, whole and streamed.

A stream has no event that ends it. Each of its events is an answer with what is new, and with the usage so far.
"""

from collections.abc import Iterator, Sequence

import orjson

from loadtest.fake_llm import errors, gemini_request, tokenizer, turn
from loadtest.fake_llm.answer import EVENT_STREAM, Answer, Event, Json
from loadtest.fake_llm.errors import ApiError
from loadtest.fake_llm.inquiry import Inquiry
from loadtest.fake_llm.turn import Counts, Turn

_THOUGHT = tuple(tokenizer.split("The user said something, so I repeat it."))
_SIGNATURE = "ZmFrZSBzaWduYXR1cmU="
_OVERLOADED = ApiError(503, "The model is overloaded. Please try again later.")


def answer(inquiry: Inquiry) -> Answer:
    """Answer a request for content, streamed where its `action` is `stream`. Raises ApiError as Google would."""
    ask = gemini_request.read(inquiry.body, inquiry.model)
    generation = inquiry.body.get("generationConfig") or {}
    turns = [turn.compose(ask, inquiry.faults, at) for at in range(generation.get("candidateCount") or 1)]
    thinking = generation.get("thinkingConfig") or {}
    thinks = bool(thinking.get("thinkingBudget") or thinking.get("thinkingLevel"))
    counts = turn.count(ask, turns, inquiry.faults, len(_THOUGHT) if thinks else 0)
    content = _Content(inquiry, turns, counts, thinks)
    if inquiry.action == "stream":
        return Answer(
            content_type=EVENT_STREAM,
            events=content.events(),
            input_tokens=counts.input,
            error_event=Event(orjson.dumps({"error": errors.google_error(_OVERLOADED)})),
        )
    body = orjson.dumps(content.whole(), option=orjson.OPT_INDENT_2)
    return Answer(body=body, content_type=errors.GOOGLE_JSON, input_tokens=counts.input, output_tokens=counts.output)


class _Content:
    """One answer: its candidates, whole or as events."""

    def __init__(self, inquiry: Inquiry, turns: Sequence[Turn], counts: Counts, thinks: bool) -> None:
        self._inquiry, self._turns, self._counts = inquiry, turns, counts
        self._generation: Json = inquiry.body.get("generationConfig") or {}
        self._signs = not gemini_request.is_older(inquiry.model)
        tells = thinks and bool(self._generation["thinkingConfig"].get("includeThoughts"))
        self._told = _THOUGHT if tells else ()
        thought = len(_THOUGHT) if thinks else 0
        self._hidden = thought - len(self._told) + inquiry.faults.reasoning_tokens
        self._thoughts = turn.scaled(thought + inquiry.faults.reasoning_tokens, inquiry.faults)
        self._media = gemini_request.media_tokens(inquiry.body)

    def whole(self) -> Json:
        """The answer as one JSON object."""
        whole = self._envelope([self._candidate(at, said) for at, said in enumerate(self._turns)])
        for reported in turn.reported(self._usage(), self._inquiry.faults):
            whole["usageMetadata"] = reported
        return whole

    def events(self) -> Iterator[Event]:
        """The answer as the events of its stream."""
        hidden = self._hidden
        for payload, tokens in self._payloads():
            yield Event(orjson.dumps(payload), tokens + hidden)
            hidden = 0

    def _envelope(self, candidates: list[Json]) -> Json:
        return {
            "candidates": candidates,
            "modelVersion": self._inquiry.model,
            "responseId": self._inquiry.id("gemini"),
        }

    # ---- candidates ----------------------------------------------------------------------------------

    def _candidate(self, at: int, said: Turn) -> Json:
        parts: list[Json] = [{"text": "".join(self._told), "thought": True}] if self._told and at == 0 else []
        if said.calls:
            parts += self._calls(at, said)
        else:
            parts.append(self._signed({"text": said.text}))
        return _says(at, parts) | self._logprobs(said.pieces) | {"finishReason": _reason(said)}

    def _calls(self, at: int, said: Turn) -> Iterator[Json]:
        """Each whole, and the first of them signed. Older models name none."""
        for place, call in enumerate(said.calls):
            made: Json = {"name": call.name, "args": orjson.loads(call.arguments)}
            if self._signs:
                made["id"] = self._inquiry.id("call", at * 100 + place)
            yield self._signed({"functionCall": made}) if place == 0 else {"functionCall": made}

    def _signed(self, part: Json) -> Json:
        return part | {"thoughtSignature": _SIGNATURE} if self._signs else part

    def _logprobs(self, pieces: Sequence[str]) -> Json:
        if not self._generation.get("responseLogprobs") or not pieces:
            return {}
        chosen = [{"token": piece, "tokenId": len(piece), "logProbability": -0.25} for piece in pieces]
        others = [{"candidates": [one][: self._generation.get("logprobs", 0)]} for one in chosen]
        return {"logprobsResult": {"chosenCandidates": chosen, "topCandidates": others}}

    # ---- events --------------------------------------------------------------------------------------

    def _payloads(self) -> Iterator[tuple[Json, int]]:
        """Events, each with the tokens that were generated for it."""
        spoken = 0
        for piece in self._told:
            yield self._event(_says(0, [{"text": piece, "thought": True}]), spoken), 1
        for at, said in enumerate(self._turns):
            for candidate, tokens in self._said(at, said):
                spoken += tokens
                yield self._event(candidate, spoken), tokens
        ends = [self._end(at, said) for at, said in enumerate(self._turns)]
        for end in ends[:-1]:
            yield self._event(end, spoken), 0
        yield from self._last(ends[-1])

    def _said(self, at: int, said: Turn) -> Iterator[tuple[Json, int]]:
        for piece in said.pieces:
            yield _says(at, [{"text": piece}]) | self._logprobs((piece,)), 1
        for part, call in zip(self._calls(at, said), said.calls, strict=True):
            yield _says(at, [part]), call.tokens

    def _end(self, at: int, said: Turn) -> Json:
        empty: Json = {"text": ""}
        part = empty if said.calls else self._signed(empty)
        return _says(at, [part]) | {"finishReason": _reason(said)}

    def _event(self, candidate: Json, spoken: int) -> Json:
        event = self._envelope([candidate])
        if self._inquiry.faults.usage != "none":
            event["usageMetadata"] = self._usage(turn.scaled(spoken, self._inquiry.faults))
        return event

    def _last(self, end: Json) -> Iterator[tuple[Json, int]]:
        """The last event, and what a fault adds to its usage as further ones."""
        figures = turn.reported(self._usage(), self._inquiry.faults)
        yield self._envelope([end]) | ({"usageMetadata": figures[0]} if figures else {}), 0
        for usage in figures[1:]:
            yield {"usageMetadata": usage}, 0

    # ---- usage ---------------------------------------------------------------------------------------

    def _usage(self, spoken: int | None = None) -> Json:
        """The usage when so many tokens were spoken; without a number that of the whole answer.

        Google leaves out a figure that is 0. Thoughts are in the total alone.
        """
        if spoken is None:
            spoken = self._counts.output - self._thoughts
        media = {name: turn.scaled(tokens, self._inquiry.faults) for name, tokens in self._media.items()}
        by_modality = {"TEXT": self._counts.input - sum(media.values()), **media}
        figures: Json = {
            "promptTokenCount": self._counts.input,
            "candidatesTokenCount": spoken,
            "thoughtsTokenCount": self._thoughts,
            "cachedContentTokenCount": self._counts.cached,
            "totalTokenCount": self._counts.input + spoken + self._thoughts,
            "promptTokensDetails": [
                {"modality": name, "tokenCount": tokens} for name, tokens in by_modality.items() if tokens
            ],
        }
        return {name: figure for name, figure in figures.items() if figure}


def _says(at: int, parts: list[Json]) -> Json:
    return {"index": at, "content": {"role": "model", "parts": parts}}


def _reason(said: Turn) -> str:
    if said.refuses:
        return "SAFETY"
    return "MAX_TOKENS" if said.cut else "STOP"
