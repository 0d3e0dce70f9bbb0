"""Why a model ended its answer, in a few words that are the same whoever serves.

Nothing that a provider wrote is passed on: a word that is not known here is `other`.
"""

from collections.abc import Mapping

STOPS = ("stop", "length", "tool_calls", "content_filter", "refusal", "pause_turn", "cancelled", "error", "other")
"""All there are."""

_WORDS = {
    **dict.fromkeys(("stop", "end_turn", "stop_sequence", "eos", "eos_token", "completed"), "stop"),
    **dict.fromkeys(
        ("length", "max_tokens", "max_output_tokens", "model_context_window_exceeded", "model_length"), "length"
    ),
    **dict.fromkeys(("tool_calls", "tool_use", "function_call"), "tool_calls"),
    **dict.fromkeys(("content_filter", "safety", "recitation"), "content_filter"),
    **dict.fromkeys(("cancelled", "abort"), "cancelled"),
    **dict.fromkeys(("error", "failed", "insufficient_system_resource"), "error"),
    "refusal": "refusal",
    "pause_turn": "pause_turn",
}
_UNDONE = frozenset({"queued", "in_progress"})  # what is made in the background


def stop(said: object) -> str | None:
    """A provider's word as one of STOPS; None where it says none."""
    return _WORDS.get(said, "other") if isinstance(said, str) and said else None


def response_stop(response: Mapping[str, object], tools: int, refused: bool) -> str | None:
    """That of a response: it has a status in place of such a word. `tools`: calls in it. `refused`: the model did."""
    status = response.get("status")
    if not isinstance(status, str) or status in _UNDONE:
        return None
    if status == "incomplete":
        details = response.get("incomplete_details")
        return stop(details.get("reason") if isinstance(details, dict) else None) or "other"
    if status == "completed" and tools:
        return "tool_calls"
    return "refusal" if status == "completed" and refused else stop(status)
