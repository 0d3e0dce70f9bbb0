"""Candidates of a GenerateContentResponse as deltas of a chat completion, and its usage.

    {responseId, modelVersion, candidates: [{index, content: {role, parts}, finishReason, logprobsResult}],
     promptFeedback?: {blockReason}, usageMetadata: {promptTokenCount, cachedContentTokenCount, candidatesTokenCount,
     thoughtsTokenCount, toolUsePromptTokenCount, totalTokenCount, promptTokensDetails: [{modality, tokenCount}],
     candidatesTokensDetails}}

An event of a stream is such an answer with what is new; its usage counts from the beginning. Parts are those of
requests; one with `thought: true` is a summary of the model's thoughts. Of other parts, as of code that Google runs,
there are none without tools that chat cannot ask for.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from extproc.dialects.translate.direction import Json

Object = dict[str, object]

_MAX = 2**53
_REASONS = {"STOP": "stop", "MAX_TOKENS": "length"}


class Said(NamedTuple):
    """What a candidate says in one part. `logprobs`: of all it says in this event, with the last part."""

    candidate: int
    delta: dict[str, Any]
    logprobs: Object | None


class Candidates:
    """Those of one answer, as far as it is known. `identity`: for an answer that has none of its own."""

    __slots__ = ("_calls", "_identified", "_images", "_reasons", "_signatures", "_usage", "identity", "model")

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self._identified = False
        self.model = ""
        self._calls: Counter[int] = Counter()  # how many each candidate has made
        self._images: Counter[int] = Counter()
        self._signatures: dict[int, str] = {}  # of its text, the last
        self._reasons: dict[int, str] = {}  # of all candidates; empty while they go on
        self._usage: Object = {}

    @property
    def any(self) -> bool:
        """Whether there is one, or Google's word why there is none."""
        return bool(self._reasons)

    @property
    def complete(self) -> bool:
        """Whether each candidate has said why it stopped."""
        return bool(self._reasons) and all(self._reasons.values())

    def read(self, answer: Json) -> Iterator[Said]:
        """What an answer or an event of it says. Of a candidate without parts nothing comes out, but it is known."""
        if not self._identified:
            self.identity = _text(answer, "responseId") or self.identity
            self._identified = True  # by the first event, as its calls are named after it
        self.model = self.model or _text(answer, "modelVersion")
        reported = answer.get("usageMetadata")
        if isinstance(reported, dict):
            self._usage.update(reported)
        for place, candidate in enumerate(_objects(answer, "candidates")):
            yield from self._candidate(candidate, place)
        feedback = answer.get("promptFeedback")
        blocked = _text(feedback, "blockReason") if isinstance(feedback, dict) else ""
        if blocked and not self._reasons:
            self._reasons[0] = blocked

    def _candidate(self, candidate: Json, place: int) -> Iterator[Said]:
        at = _count(candidate, "index") if "index" in candidate else place
        self._reasons[at] = _text(candidate, "finishReason") or self._reasons.get(at, "")
        content = candidate.get("content")
        parts = _objects(content, "parts") if isinstance(content, dict) else []
        deltas = [delta for part in parts if (delta := self._delta(part, at))]
        logprobs = _logprobs(candidate.get("logprobsResult"))
        if logprobs and not deltas:
            deltas = [{}]
        for nth, delta in enumerate(deltas, start=1):
            yield Said(at, delta, logprobs if nth == len(deltas) else None)

    def _delta(self, part: Json, at: int) -> Object:
        text, call, media = _text(part, "text"), part.get("functionCall"), part.get("inlineData")
        signature = _text(part, "thoughtSignature")
        if isinstance(call, dict):
            return {"tool_calls": [self._call(call, at) | _signed(signature)]}
        if signature:
            self._signatures[at] = signature
        if text:
            return {"reasoning_content" if part.get("thought") is True else "content": text}
        if isinstance(media, dict) and _text(media, "mimeType").startswith("image/"):
            return {"images": [self._image(media, at)]}
        return {}

    def _image(self, media: Json, at: int) -> Object:
        """An image, where those who serve such models as chat put it."""
        nth = self._images[at]
        self._images[at] += 1
        url = f"data:{_text(media, 'mimeType')};base64,{_text(media, 'data')}"
        return {"index": nth, "type": "image_url", "image_url": {"url": url}}

    def _call(self, call: Json, at: int) -> Object:
        """A tool call, which Gemini always gives whole. Its older models give none an id."""
        nth = self._calls[at]
        self._calls[at] += 1
        args = call.get("args")
        arguments = orjson.dumps(args if isinstance(args, dict) else {}).decode()
        identity = _text(call, "id") or f"call_{self.identity}_{at}_{nth}"
        function = {"name": _text(call, "name"), "arguments": arguments}
        return {"index": nth, "id": identity, "type": "function", "function": function}

    def rest(self) -> Iterator[Said]:
        """What is said behind all else: the signature of a candidate's text, once, as clients join what comes twice."""
        for at, signature in self._signatures.items():
            yield Said(at, _signed(signature), None)

    def finishes(self) -> Iterator[tuple[int, Object]]:
        """Each candidate's number, and the fields of its choice that say why it stopped.

        All reasons but two say that Google kept something back, for safety or as a tool call that is none.
        """
        for at, reason in sorted(self._reasons.items()):
            word = _REASONS.get(reason, "content_filter" if reason else None)
            if word == "stop" and self._calls[at]:
                word = "tool_calls"
            native = {"native_finish_reason": reason} if word == "content_filter" else {}
            yield at, {"finish_reason": word, **native}

    def usage(self) -> Object | None:
        """Chat's usage; None where the answer has told none.

        Chat counts thoughts in the completion; Gemini does not, nor in the prompt what its own tools brought.
        """
        said = self._usage
        prompt = _count(said, "promptTokenCount") + _count(said, "toolUsePromptTokenCount")
        thoughts = _count(said, "thoughtsTokenCount")
        completion = _count(said, "candidatesTokenCount") + thoughts
        if not prompt and not completion:
            return None
        given, made = _modalities(said, "promptTokensDetails"), _modalities(said, "candidatesTokensDetails")
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": max(prompt + completion, _count(said, "totalTokenCount")),
            "prompt_tokens_details": {"cached_tokens": _count(said, "cachedContentTokenCount"), **given},
            "completion_tokens_details": {"reasoning_tokens": thoughts, **made},
        }


def _signed(signature: str) -> Object:
    return {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}


_MODALITIES = {"AUDIO": "audio_tokens", "IMAGE": "image_tokens"}


def _modalities(said: Json, name: str) -> Object:
    """The tokens that are priced by themselves."""
    counts = {_text(detail, "modality"): _count(detail, "tokenCount") for detail in _objects(said, name)}
    return {ours: counts[theirs] for theirs, ours in _MODALITIES.items() if theirs in counts}


def _logprobs(result: object) -> Object | None:
    """Of the tokens chosen, each with its alternatives: `{chosenCandidates: [...], topCandidates: [{candidates}]}`."""
    if not isinstance(result, dict):
        return None
    tops = _objects(result, "topCandidates")
    content = []
    for nth, chosen in enumerate(_objects(result, "chosenCandidates")):
        others = _objects(tops[nth], "candidates") if nth < len(tops) else []
        content.append({**_token(chosen), "top_logprobs": [_token(other) for other in others]})
    return {"content": content, "refusal": None} if content else None


def _token(candidate: Json) -> Object:
    text, logprob = _text(candidate, "token"), candidate.get("logProbability")
    is_number = isinstance(logprob, int | float) and not isinstance(logprob, bool)
    return {"token": text, "logprob": logprob if is_number else 0.0, "bytes": list(text.encode())}


def _text(source: Json, name: str) -> str:
    value = source.get(name)
    return value if isinstance(value, str) else ""


def _count(source: Json, name: str) -> int:
    value = source.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX else 0


def _objects(source: Json, name: str) -> list[Mapping[str, object]]:
    value = source.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
