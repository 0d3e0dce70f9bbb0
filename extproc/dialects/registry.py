"""Per surface: how its request is read, and how its answer is counted and changed."""

from collections.abc import Callable

from extproc.dialects.anthropic import read_messages, read_token_count
from extproc.dialects.deltas import BlockDeltas, ChatDeltas, TypedDeltas
from extproc.dialects.endings import AnthropicEnding, ChatEnding, ResponsesEnding
from extproc.dialects.meters import (
    AnthropicMeter,
    ChatMeter,
    Meter,
    PlainMeter,
    ResponsesMeter,
    UncountedMeter,
)
from extproc.dialects.openai_chat import read_chat, read_completion
from extproc.dialects.openai_plain import (
    read_embedding,
    read_generation,
    read_moderation,
    read_rerank,
    read_speech,
)
from extproc.dialects.openai_responses import read_response
from extproc.dialects.texts import EventTexts, Texts
from extproc.model import Prompt
from extproc.surfaces import Surface

READERS: dict[Surface, Callable[[bytes], Prompt]] = {
    Surface.CHAT: read_chat,
    Surface.COMPLETIONS: read_completion,
    Surface.EMBEDDINGS: read_embedding,
    Surface.RESPONSES: read_response,
    Surface.SPEECH: read_speech,
    Surface.IMAGES: read_generation,
    Surface.MODERATIONS: read_moderation,
    Surface.RERANK: read_rerank,
    Surface.MESSAGES: read_messages,
    Surface.COUNT_TOKENS: read_token_count,
}


def meter(surface: Surface, hide_usage: bool, searches: bool = False) -> Meter:
    """A fresh meter for one answer of this surface.

    `hide_usage`: only we asked for the usage event. `searches`: the prompt's, which no answer tells.
    """
    if surface in (Surface.CHAT, Surface.COMPLETIONS):
        return ChatMeter(hide_usage, searches)
    if surface is Surface.RESPONSES:
        return ResponsesMeter()
    if surface is Surface.MESSAGES:
        return AnthropicMeter()
    if surface in (Surface.COUNT_TOKENS, Surface.RESPONSE_ITEM):
        return UncountedMeter()
    return PlainMeter()


def event_texts(surface: Surface, texts: Texts, json_output: bool) -> EventTexts:
    """What changes the texts of one stream of this surface.

    `json_output`: the request asked for JSON, so that what is put into a message is escaped.
    """
    if surface in (Surface.CHAT, Surface.COMPLETIONS):
        return EventTexts(ChatDeltas(json_output), texts, ChatEnding())
    if surface is Surface.MESSAGES:
        return EventTexts(BlockDeltas(json_output), texts, AnthropicEnding())
    ending = ResponsesEnding() if surface in (Surface.RESPONSES, Surface.RESPONSE_ITEM) else None
    return EventTexts(TypedDeltas(json_output), texts, ending)
