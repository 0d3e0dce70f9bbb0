"""Every field of the answers that the SDKs know: it is told to the caller in the words of its own API, or it is not.

The tables are compared with the SDKs' own types, so that a new field turns them red, a new class of usage above all.
`content[text].text` is of those objects in `content` that have the type `text`; of a kind that is not told, the fields
are left out.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import orjson
import pytest
from anthropic.types import Message
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from extproc.dialects.translate.chat_to_anthropic import CHAT_TO_ANTHROPIC
from extproc.dialects.translate.direction import Asked, Direction
from extproc.dialects.translate.messages_to_chat import MESSAGES_TO_CHAT
from extproc.dialects.translate.responses_to_chat import RESPONSES_TO_CHAT

Json = dict[str, Any]

MESSAGE: Json = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-1",
    "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "text", "text": "So.", "citations": None},
        {
            **{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}},
            **{"caller": {"type": "direct"}, "toolset_name": "eyes"},
        },
        {"type": "redacted_thinking", "data": "x"},
    ],
    "container": {"id": "c", "expires_at": "2030-01-01T00:00:00Z"},
    "diagnostics": None,
    "stop_reason": "tool_use",
    "stop_sequence": "END",
    "stop_details": {"type": "refusal", "category": "cyber", "explanation": "No."},
    "usage": {
        "input_tokens": 500,
        "cache_read_input_tokens": 300,
        "cache_creation_input_tokens": 200,
        "cache_creation": {"ephemeral_1h_input_tokens": 200, "ephemeral_5m_input_tokens": 0},
        "output_tokens": 90,
        "output_tokens_details": {"thinking_tokens": 40},
        "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 1},
        "service_tier": "priority",
        "inference_geo": "eu",
        "speed": "fast",
    },
}
REFUSED: Json = {**MESSAGE, "content": [{"type": "text", "text": ""}], "stop_reason": "refusal"}
PROBABLE: Json = {"token": "So", "bytes": [83], "logprob": -0.1}
CHAT: Json = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_800_000_000,
    "model": "gpt-1",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "logprobs": {
                "content": [{**PROBABLE, "top_logprobs": [PROBABLE]}],
                "refusal": [{**PROBABLE, "top_logprobs": []}],
            },
            "message": {
                "role": "assistant",
                "content": "So.",
                "refusal": "No.",
                "annotations": [
                    {
                        "type": "url_citation",
                        "url_citation": {"start_index": 1, "end_index": 2, "title": "T", "url": "https://u.example"},
                    }
                ],
                "audio": {"id": "a", "data": "AA==", "expires_at": 1, "transcript": "So."},
                "function_call": {"name": "look", "arguments": "{}"},
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}},
                    {"id": "call_2", "type": "custom", "custom": {"name": "see", "input": "x"}},
                ],
            },
        }
    ],
    "metadata": {"run": "1"},
    "moderation": None,
    "service_tier": "flex",
    "system_fingerprint": "fp",
    "usage": {
        "prompt_tokens": 1000,
        "completion_tokens": 90,
        "total_tokens": 1090,
        "prompt_tokens_details": {
            **{"cached_tokens": 300, "cache_write_tokens": 200},
            **{"audio_tokens": 7, "image_tokens": 8, "text_tokens": 9},
        },
        "completion_tokens_details": {
            **{"reasoning_tokens": 40, "audio_tokens": 6, "text_tokens": 5},
            **{"accepted_prediction_tokens": 4, "rejected_prediction_tokens": 3},
        },
    },
}
SAID: Json = {
    **CHAT,
    "choices": [{"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "So."}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 3},
}


@dataclass(frozen=True, slots=True)
class Reading:
    """How one direction reads answers: what it tells of them, and what it does not."""

    direction: Direction
    type: type[BaseModel]
    examples: tuple[Json, ...]
    told: frozenset[str]
    untold: frozenset[str]
    asked: Mapping[str, object]


def named(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNTOLD_BLOCKS = named(
    """content[redacted_thinking] content[server_tool_use] content[web_search_tool_result]
    content[web_fetch_tool_result] content[code_execution_tool_result] content[bash_code_execution_tool_result]
    content[text_editor_code_execution_tool_result] content[tool_search_tool_result] content[container_upload]"""
)
_CHAT_TOLD = named(
    """id model choices choices.finish_reason choices.message choices.message.content choices.message.refusal
    choices.message.tool_calls choices.message.tool_calls[function] choices.message.tool_calls[function].id
    choices.message.tool_calls[function].function choices.message.tool_calls[function].function.name
    choices.message.tool_calls[function].function.arguments
    usage usage.prompt_tokens usage.completion_tokens
    usage.prompt_tokens_details usage.prompt_tokens_details.cached_tokens
    usage.prompt_tokens_details.cache_write_tokens
    usage.completion_tokens_details usage.completion_tokens_details.reasoning_tokens"""
)
_IN_RESPONSES_ONLY = named(
    """service_tier choices.message.annotations
    choices.message.annotations.url_citation choices.message.annotations.url_citation.title
    choices.message.annotations.url_citation.url choices.message.annotations.url_citation.start_index
    choices.message.annotations.url_citation.end_index
    choices.logprobs choices.logprobs.content choices.logprobs.content.token choices.logprobs.content.bytes
    choices.logprobs.content.logprob choices.logprobs.content.top_logprobs
    choices.logprobs.content.top_logprobs.token choices.logprobs.content.top_logprobs.bytes
    choices.logprobs.content.top_logprobs.logprob
    usage.prompt_tokens_details.audio_tokens usage.prompt_tokens_details.image_tokens
    usage.prompt_tokens_details.text_tokens
    usage.completion_tokens_details.audio_tokens usage.completion_tokens_details.text_tokens
    usage.completion_tokens_details.accepted_prediction_tokens
    usage.completion_tokens_details.rejected_prediction_tokens"""
)
_INSIDE = ("choices.logprobs.", "choices.message.annotations.")
_CHAT_UNTOLD = named(
    """created object metadata moderation system_fingerprint choices.index
    choices.message.role choices.message.audio choices.message.function_call
    choices.message.tool_calls[function].type choices.message.tool_calls[custom]
    usage.total_tokens"""
)  # the total is read where the input is not told

READINGS = {
    "Message as chat": Reading(
        CHAT_TO_ANTHROPIC,
        Message,
        (MESSAGE, REFUSED),
        named(
            """id model content stop_reason stop_details stop_details.explanation
            content[text] content[text].type content[text].text
            content[thinking] content[thinking].type content[thinking].thinking
            content[tool_use] content[tool_use].type content[tool_use].id content[tool_use].name content[tool_use].input
            usage usage.input_tokens usage.cache_read_input_tokens usage.cache_creation_input_tokens usage.output_tokens
            usage.output_tokens_details usage.output_tokens_details.thinking_tokens usage.service_tier
            usage.cache_creation usage.cache_creation.ephemeral_1h_input_tokens"""
        ),
        named(
            """type role container diagnostics stop_sequence stop_details.type stop_details.category
            content[text].citations content[thinking].signature content[tool_use].caller content[tool_use].toolset_name
            usage.cache_creation.ephemeral_5m_input_tokens usage.server_tool_use usage.inference_geo usage.speed"""
        )
        | _UNTOLD_BLOCKS,
        {},
    ),
    "chat as Message": Reading(
        MESSAGES_TO_CHAT,
        ChatCompletion,
        (CHAT, SAID),
        _CHAT_TOLD,
        _CHAT_UNTOLD | {name for name in _IN_RESPONSES_ONLY if not name.startswith(_INSIDE)},
        {},
    ),
    "chat as Response": Reading(
        RESPONSES_TO_CHAT,
        ChatCompletion,
        (CHAT, SAID),
        _CHAT_TOLD | _IN_RESPONSES_ONLY,
        _CHAT_UNTOLD | {"choices.logprobs.refusal", "choices.message.annotations.type"},
        {"input": "hi"},
    ),
}


def fields(hint: Any, at: str, untold: frozenset[str]) -> Iterator[str]:
    """The dotted names of the fields of a type, those inside what is not told left out."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        for name, field in hint.model_fields.items():
            inner = f"{at}.{name}" if at else name
            yield inner
            if inner not in untold:
                yield from fields(field.annotation, inner, untold)
    elif get_origin(hint) is not Literal:
        kinds = [one for one in get_args(hint) if kind(one)]
        for one in get_args(hint):
            place = f"{at}[{kind(one)}]" if len(kinds) > 1 and one in kinds else at
            if place != at:
                yield place
            if place not in untold:
                yield from fields(one, place, untold)


def kind(hint: Any) -> str:
    """The value of the field `type` of an object; empty where it has none."""
    of_type = hint.model_fields.get("type") if isinstance(hint, type) and issubclass(hint, BaseModel) else None
    return str(get_args(of_type.annotation)[0]) if of_type is not None and get_args(of_type.annotation) else ""


_STEP = re.compile(r"(\w+)(?:\[(\w+)\])?")


def without(value: Any, steps: list[tuple[str, str]]) -> Any:
    """A copy without a field, or without the objects of a type."""
    (name, of_type), *rest = steps
    if not isinstance(value, dict) or name not in value:
        return value
    inner = value[name]
    if not rest and not of_type:
        return {key: one for key, one in value.items() if key != name}
    if isinstance(inner, list):
        meant = [one for one in inner if not of_type or one.get("type") == of_type]
        left = [without(one, rest) if rest else None for one in meant]
        changed = iter(left)
        inner = [next(changed) if one in meant else one for one in inner]
        return {**value, name: [one for one in inner if one is not None]}
    return {**value, name: without(inner, rest)}


def answered(reading: Reading, answer: Json) -> Any:
    asked = Asked({"model": "m", **reading.asked}, "m", 1_800_000_000)
    return json.loads(reading.direction.answer(asked).document(orjson.dumps(answer)))


EACH = [(name, field) for name, reading in READINGS.items() for field in sorted(reading.told | reading.untold)]


@pytest.mark.parametrize("name", READINGS)
def test_every_field_of_the_sdk_is_in_the_table(name: str) -> None:
    reading = READINGS[name]
    assert not reading.told & reading.untold
    assert set(fields(reading.type, "", reading.untold)) == reading.told | reading.untold


@pytest.mark.parametrize("name", READINGS)
def test_the_examples_are_answers_of_the_sdk(name: str) -> None:
    for example in READINGS[name].examples:
        READINGS[name].type.model_validate(example)


@pytest.mark.parametrize(("name", "field"), EACH)
def test_a_field_changes_what_the_caller_is_told_or_does_not(name: str, field: str) -> None:
    reading = READINGS[name]
    steps = [(match[1], match[2] or "") for match in _STEP.finditer(field)]
    lacking = [(example, without(example, steps)) for example in reading.examples]
    changes = [answered(reading, example) != answered(reading, less) for example, less in lacking]
    assert any(changes) is (field in reading.told)
