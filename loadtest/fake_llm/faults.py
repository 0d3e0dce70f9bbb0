"""What a call is asked to suffer: the `x_fake` object of a body, an `x-fake` header or a script."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

_UsageFault = Literal["none", "double", "decreasing"]


class FaultsError(Exception):
    """The fault object is not understood: a mistake of the test, answered as a 400 and never ignored."""


_Count = Annotated[int, Field(ge=0)]
_Positive = Annotated[int, Field(ge=1)]
_Duration = Annotated[float, Field(ge=0)]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class Faults:
    """Every field is optional; none set is a normal call.

    Counts of SSE events (`reset`, `stall_after`, `error_event_after`, `held`) include every event of the stream,
    with text or without. For an answer that is no stream a number as `reset` counts bytes of the body; `head` is within
    the head of an answer.
    """

    # Instead of an answer
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    retry_after: int | float | str | None = None
    retry_after_ms: int | float | None = None
    headers: Mapping[str, str] | None = None  # of the answer, beside its own
    error_body: str | None = None
    error_content_type: str = "application/json"
    html: bool = False
    error_in_200: bool = False
    hang: bool = False
    reset: _Count | Literal["before", "head"] | None = None
    # How it is sent
    delay_ms: _Duration | None = None
    held: _Count | None = None  # waits, after so many events, until the control path `release` is called
    tokens_per_second: _Duration | None = None
    stall_after: _Count | None = None
    error_event_after: _Count | None = None
    chunk_bytes: _Positive | None = None
    content_length: bool | None = None
    gzip: bool = False
    crlf: bool = False
    comments: bool = False
    malformed_sse: bool = False
    done: bool = True
    # What it says
    text: str | None = None
    events: _Count | None = None
    length: _Count | None = None  # tokens of each answer, where no cap ends it before
    ignores_cap: bool = False
    refusal: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    usage: _UsageFault | Mapping[str, Any] | None = None
    tokens_percent: Annotated[float, Field(ge=1, le=1000)] = 100  # of our count is what its own tokenizer makes
    template_tokens: _Count = 0  # that it counts around what it was told, as chat templates have them
    reasoning_tokens: _Count = 0  # hidden output on top of what a cap allows
    cached_tokens: _Count = 0
    cache_write_tokens: _Count = 0
    cache_write_1h_tokens: _Count = 0  # of those, so many for an hour
    served_tier: str | None = None  # the service tier that the answer names; None: the usual one
    audio_input_tokens: _Count = 0
    audio_output_tokens: _Count = 0  # of what it says, so many
    pad_bytes: _Count = 0


NONE = Faults()
_READER = TypeAdapter(Faults)


def parse(given: object) -> Faults:
    """Read one decoded fault object. Raises FaultsError for an unknown field or a value of a wrong type."""
    try:
        return _READER.validate_python(given)
    except ValidationError as problem:
        first = problem.errors()[0]
        raise FaultsError(f"x_fake {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
