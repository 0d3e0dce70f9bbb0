"""What goes to the providers: the legs of a chain, the edited body, and the headers that stay behind."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from extproc.call import Call, Leg, Pass, Route
from extproc.contract import ASKING_HEADERS
from extproc.dialects import json_spans, paths
from extproc.dialects.form_texts import FormTexts
from extproc.dialects.multipart import FormReader
from extproc.dialects.translate import directions
from extproc.edits import Edit, Span
from extproc.headers import Headers
from extproc.model import Backend, Chain, CleanPrompt, Prompt, Target
from extproc.surfaces import Place, Surface

# A list of what may pass, so that no spelling of an internal header can slip through.
_PASS = frozenset(
    {
        "accept",
        "content-length",
        "content-type",
        "idempotency-key",
        "openai-beta",
        "transfer-encoding",
        "user-agent",
        "x-client-request-id",
        "x-forwarded-proto",  # Envoy finds no route without it; the clusters remove it
        "x-request-id",
    }
)
_LONGEST_KEPT = 1024  # characters of names: what a caller chooses must not fill the memory
_FREE = frozenset({"accept", "content-type", "idempotency-key", "openai-beta", "user-agent", "x-client-request-id"})
OWN = frozenset({"idempotency-key", "x-client-request-id", "x-ms-client-request-id"})
"""Those that a provider sees, and that are each call's own."""
_FREE_PREFIXES = ("anthropic-", "x-stainless-", "x-claude-code-", "x-ms-client-")
_PASS_PREFIXES = (":", "anthropic-", "x-stainless-", "x-claude-code-", "x-ms-client-")


def stripped(headers: Headers) -> tuple[str, ...]:
    """The request headers that no provider may see: credentials, cookies, and whatever is ours or unknown."""
    return _sorted_by_use(headers).stripped


def free(headers: Headers) -> Mapping[str, str]:
    """Those that a provider sees, and in which a caller writes what it likes."""
    return {name: headers.get(name) or "" for name in _sorted_by_use(headers).free}


def is_free(name: str) -> bool:
    """Whether a header of this name is one of those."""
    return name in _FREE or name.startswith(_FREE_PREFIXES)


def versions(headers: Headers) -> tuple[tuple[str, str], ...]:
    """All headers in which a caller tells a provider how to answer, with every value of each, by their names."""
    return tuple([(name, value) for name in _sorted_by_use(headers).versions for value in headers.all(name)])


class _Names(NamedTuple):
    """Names of the headers of a call, by what becomes of them."""

    stripped: tuple[str, ...]
    free: tuple[str, ...]
    versions: tuple[str, ...]


def _sorted_by_use(headers: Headers) -> _Names:
    """A client sends the same ones with each call, so that they are sorted once; not those of one who sends many."""
    names = tuple(headers)
    return _names_often(names) if sum(map(len, names)) <= _LONGEST_KEPT else _names(names)


def _names(names: tuple[str, ...]) -> _Names:
    return _Names(
        tuple([name for name in names if name not in _PASS and not name.startswith(_PASS_PREFIXES)]),
        tuple([name for name in names if is_free(name)]),
        tuple(sorted([name for name in names if name == "openai-beta" or name.startswith("anthropic-")])),
    )


_names_often = lru_cache(maxsize=512)(_names)


def asking(headers: Headers) -> tuple[tuple[str, str], ...]:
    """The headers in which the caller asks for a version of its surface's own API."""
    return tuple([(name, headers.get(name) or "") for name in ASKING_HEADERS if name in headers])


def legs(chain: Chain, place: Place, query: str, in_body: str | None, stream: bool = False) -> tuple[Leg, ...]:
    """One leg per target. `in_body`: the model as the body names it, None where it names none."""
    return tuple([_leg(target, place, query, in_body, stream) for target in chain.targets])


def _leg(target: Target, place: Place, query: str, in_body: str | None, stream: bool) -> Leg:
    backend, model = target.backend, target.model
    by = id(backend), id(place), model, query, in_body, stream
    known = _LEGS.get(by)
    if known is not None:
        return known[0]
    leg = _made(backend, model, place, query, in_body, stream)
    if len(query) + len(in_body or "") + len(leg.path) <= _LONGEST_KEPT:
        if len(_LEGS) >= _MOST_KEPT:
            _LEGS.clear()
        _LEGS[by] = leg, backend, place
    return leg


def _made(backend: Backend, model: str, place: Place, query: str, in_body: str | None, stream: bool) -> Leg:
    surface = place.surface
    path = directions.path(Target(backend, model), place, query, stream)
    if directions.needed(backend, surface) is not None:
        return Leg(backend.name, path, model, translate=surface.value)
    is_said = in_body is None or model == in_body or paths.names_model_in_path(backend, surface)
    return Leg(backend.name, path, model, None if is_said else model)


_MOST_KEPT = 512
_LEGS: dict[tuple[int, int, str, str, str | None, bool], tuple[Leg, Backend, Place]] = {}
"""Legs that were made; with what is known by its id beside them, so that this is nobody else's."""


def asks_usage(prompt: Prompt, chain: Chain, place: Place) -> bool:
    """Whether the gateway asks for the usage of a stream that the caller did not ask for."""
    if prompt.usage_edit is None:
        return False
    return all(
        paths.reports_stream_usage(target.backend) or directions.needed(target.backend, place.surface) is not None
        for target in chain.targets
    )


def body_route(  # noqa: PLR0913 - a route is made once: to change it would cost as much again
    clean: CleanPrompt,
    chain: Chain,
    place: Place,
    query: str,
    remove: tuple[str, ...],
    cap: int | None = None,
    *,
    asking: tuple[tuple[str, str], ...] = (),
    first_byte: float | None = None,
    identity: str | None = None,
) -> Route:
    """The route of a call with a JSON body: only the spans that must change are changed.

    `cap`: the bound on the output that the request shall say, in tokens; None leaves what it says. The others: see
    Route.
    """
    prompt = clean.prompt
    ask = prompt.usage_edit if asks_usage(prompt, chain, place) else None
    write = _model_edit(prompt, chain, place)
    ours = [edit for edit in (ask, *_cap_edits(prompt, chain, place, cap), write) if edit is not None]
    edits = [*clean.edits, *ours]
    body = json_spans.splice(prompt.body, edits) if edits else None
    named = chain.model.name if write is not None else prompt.model
    at, to = _model_position(prompt, edits, write, chain.model.name)
    tried = legs(chain, place, query, named, prompt.stream)
    return Route(
        legs=tried,
        remove=remove,
        body=body,
        length=len(prompt.body if body is None else body),
        at=at,
        to=to,
        identity=identity,
        asking=asking if any(leg.translate for leg in tried) else (),
        first_byte=first_byte,
    )


def _cap_edits(prompt: Prompt, chain: Chain, place: Place, cap: int | None) -> list[Edit]:
    """Write the cap over what the request says, in every field that says it, and where no backend reads that, anew."""
    if cap is None:
        return []
    edits = [Edit(span, b"%d" % cap) for span in prompt.cap.spans]
    native = [target for target in chain.targets if directions.needed(target.backend, place.surface) is None]
    backend = (native or chain.targets)[0].backend
    if edits and backend.reads_cap(prompt.cap.names):
        return edits
    field = backend.cap_field if place.surface is Surface.CHAT else prompt.cap.field or ""
    return [*edits, _first_field(prompt.body, b'"%b":%d' % (field.encode(), cap))]


def _first_field(body: bytes, field: bytes) -> Edit:
    """A field before all others."""
    first = body.index(b"{") + 1
    empty = body[first:].lstrip().startswith(b"}")
    return Edit(Span(first, first), field + (b"" if empty else b","))


def _model_edit(prompt: Prompt, chain: Chain, place: Place) -> Edit | None:
    """Write a model where the body names none: in place of a null, or as a new first field.

    Needed only where a target does not read the model from its path.
    """
    if prompt.model is not None:
        return None
    if all(paths.names_model_in_path(target.backend, place.surface) for target in chain.targets):
        return None
    name = b'"%s"' % chain.model.name.encode()
    if prompt.model_span is not None:
        return Edit(prompt.model_span, name)
    return _first_field(prompt.body, b'"model":' + name)


def _model_position(prompt: Prompt, edits: list[Edit], write: Edit | None, name: str) -> tuple[int, int]:
    """Where the model's name stands, without its quotes, in the body that is sent; (0, 0) where it has none.

    `edits` in the order in which those at one place come: `write`, where the model is written, is the last.
    """
    span = write.span if write is not None else prompt.model_span
    if span is None or (write is None and prompt.model is None):
        return 0, 0
    start = span.start
    for edit in edits:
        if edit is not write and edit.span.start <= span.start:
            start += len(edit.text) - (edit.span.end - edit.span.start)
    if write is None:
        return start + 1, start + span.end - span.start - 1
    at = start + write.text.rindex(b'"' + name.encode()) + 1
    return at, at + len(name)


def same_cap_field(chain: Chain, place: Place) -> Chain:
    """The targets that read a cap in the field in which the first one reads it: a body is written once, for all.

    What is translated is read in any field.
    """
    if place.surface is not Surface.CHAT:
        return chain
    native = [target for target in chain.targets if directions.needed(target.backend, place.surface) is None]
    others = [target for target in native if target.backend.cap_field != native[0].backend.cap_field]
    return replace(chain, targets=tuple([target for target in chain.targets if target not in others]))


def same_form(chain: Chain, place: Place) -> Chain:
    """The targets that can take one and the same form: a streamed body is changed once, for all attempts.

    A target that reads the model from its path takes any form; of the others, those with the first one's name.
    """
    by_body = [target for target in chain.targets if not paths.names_model_in_path(target.backend, place.surface)]
    if not by_body:
        return chain
    kept = [target for target in chain.targets if target not in by_body or target.model == by_body[0].model]
    return replace(chain, targets=tuple(kept))


def form_pass(call: Call, chain: Chain, place: Place, form: FormReader, held: bytes) -> Pass:
    """The route of a multipart call with the start of its body, in which the model has the targets' name."""
    by_body = [target for target in chain.targets if not paths.names_model_in_path(target.backend, place.surface)]
    edit = _form_edit(form, by_body[0].model) if by_body else None
    body = json_spans.splice(held, [edit]) if edit else held
    length = None
    changes = isinstance(form, FormTexts) and form.changes
    if call.content_length is not None and not changes:  # else nobody knows it yet: the form goes in chunks
        length = call.content_length + len(body) - len(held)
    sent = Route(legs(chain, place, call.query, None), call.stripped, length=length)
    return Pass(body, call.request_ended, sent)


def _form_edit(form: FormReader, name: str) -> Edit | None:
    """Write the model's name over another one, or as a new first field; None where it stands there already."""
    if form.model is None:
        return Edit(Span(0, 0), form.part("model", name))
    return None if form.model.model == name else Edit(form.model.span, name.encode())
