"""Copies of calls, for a backend that serves none of them: which calls, what it is asked, what it says it used."""

from collections.abc import Collection, Mapping
from dataclasses import field

import orjson

from extproc.call import Call
from extproc.dialects import paths, registry
from extproc.dialects.translate import directions
from extproc.dialects.translate.direction import Asked, Direction
from extproc.model import Backend, Dialect, Prompt, Target, Usage
from extproc.surfaces import Place, Surface
from extproc.values import frozen

SURFACES = frozenset({Surface.CHAT, Surface.COMPLETIONS, Surface.EMBEDDINGS, Surface.RESPONSES, Surface.MESSAGES})
"""Where a request is text and asks for nothing but an answer."""
LARGEST = 2**20
"""Bytes of a request that is copied."""
_FILE = b'"file_id"'
_STREAMED = ("stream", "stream_options")


@frozen
class Copy:
    """Of a call: its body as the call's own backends get it, and who gets it beside them."""

    request_id: str
    model: str  # its public name
    target: Target
    place: Place
    body: bytes = field(repr=False)


@frozen
class Question:
    """What a backend is asked; `request` is what it was before it was translated, if it was."""

    path: str
    body: bytes = field(repr=False)
    direction: Direction | None
    request: Mapping[str, object] = field(repr=False)


def fits(call: Call, place: Place, prompt: Prompt, body: bytes, backend: Backend, stops: Collection[object]) -> bool:
    """Whether a call may be copied to a backend: its team allows it, and asking twice does nothing twice.

    `body` as it is sent. What names something that another provider keeps can be asked of that one alone.
    """
    team = None if call.caller is None else call.caller.team
    is_alone = prompt.state is None and not prompt.background and not prompt.input.unseen and _FILE not in body
    runs_nothing = not prompt.hosted_calls and not prompt.searches and not prompt.images
    return (
        place.surface in SURFACES
        and len(body) <= LARGEST
        and is_alone
        and runs_nothing
        and not any(name.endswith("-beta") for name, _ in call.asking)  # a header that does not go along
        and (team is None or team.admits(backend))
        and ("backend", backend.name) not in stops
    )


def question(copy: Copy) -> Question | None:
    """As a whole answer, of which nothing is stored; None where the backend cannot be asked for it."""
    target, surface = copy.target, copy.place.surface
    direction = directions.needed(target.backend, surface)
    if direction is None and not paths.serves(target.backend, surface):
        return None
    request: dict[str, object] = orjson.loads(copy.body)
    for name in _STREAMED:
        request.pop(name, None)
    path = directions.path(target, copy.place, "", stream=False)
    if direction is None:
        if surface is Surface.RESPONSES or "store" in request:
            request["store"] = False
        return Question(path, orjson.dumps({**request, "model": target.model}), None, request)
    if direction.refused(request) is not None:
        return None
    translated = direction.request(request, target.model)
    if target.backend.dialect in (Dialect.OPENAI, Dialect.AZURE):
        directions.name_cap(translated, target.backend.cap_field)
    return Question(path, orjson.dumps(translated), direction, request)


def used(copy: Copy, asked: Question, answer: bytes, now: int) -> Usage | None:
    """The usage that an answer with status 200 reports; None where it is an error all the same, or cannot be read.

    `now`: Unix time.
    """
    if asked.direction is not None:
        translation = asked.direction.answer(Asked(asked.request, copy.target.model, now))
        answer = translation.document(answer)
    meter = registry.meter(copy.place.surface, hide_usage=False)
    try:
        parsed = orjson.loads(answer)
    except ValueError:
        return None
    if not isinstance(parsed, dict):
        return None
    meter.answer(parsed)
    return None if meter.failed else meter.total(0)
