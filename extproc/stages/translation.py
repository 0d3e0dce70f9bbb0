"""An answer of a backend that speaks another dialect than the caller: how it is turned into the caller's."""

from dataclasses import replace

import orjson

from extproc.call import BodyMode, Call, Relay
from extproc.dialects.translate import directions
from extproc.dialects.translate.direction import Asked
from extproc.dialects.translate.reading import Overlong, Translated, TranslatedStream, TranslatedWhole
from extproc.headers import Headers, content_length
from extproc.refusals import GATEWAY_ERROR, Refused
from extproc.stages import usage

_JSON = b"application/json"
_TOO_LARGE = "The backend's answer is larger than what the gateway translates: see limits.json_answer."


def begin(call: Call, headers: Headers, now: int) -> Headers:
    """Make ready what translates the answer, where who served speaks another dialect.

    Returns the answer's headers as they are then: whatever is no stream becomes JSON. `now`: Unix time. Raises Refused
    where the answer is known to be too large.
    """
    target = usage.served(call)
    direction = None if target is None or call.place is None else directions.needed(target.backend, call.place.surface)
    if target is None or direction is None:
        return headers
    answer = direction.answer(Asked(orjson.loads(call.sent), target.model, now))
    cap = call.catalogue.answer_cap
    status = call.status
    call.hides_usage = not call.asked_usage
    if status < 400 and _kind(headers) == "text/event-stream":
        call.translated = TranslatedStream(answer, cap)
        return headers
    if (content_length(headers) or 0) > cap:
        raise Refused(GATEWAY_ERROR, _TOO_LARGE)
    convert = answer.document if status < 400 else lambda body: answer.error(status, body)
    call.translated = TranslatedWhole(convert, cap)
    return headers.replaced("content-type", _JSON)


def error(call: Call, headers: Headers) -> Relay:
    """How the body of an error shall come: untranslated ones pass as they are."""
    if call.translated is None:
        return Relay(BodyMode.NONE)
    length = content_length(headers)
    is_small = length is not None and length <= call.catalogue.answer_cap
    return Relay(BodyMode.BUFFERED if is_small else BodyMode.STREAMED)


def relayed(call: Call, order: Relay) -> Relay:
    """The head of the answer with what translating changes in it."""
    if call.translated is None or order.mode is BodyMode.NONE:
        return order
    kind = () if isinstance(call.translated, TranslatedStream) else (("content-type", _JSON.decode()),)
    return replace(order, resized=True, headers=(*order.headers, *kind))


def feed(translated: Translated, chunk: bytes, end: bool) -> bytes:
    """A piece of the answer. Raises Refused where it cannot be translated, as it is too large."""
    try:
        return translated.feed(chunk, end)
    except Overlong:
        raise Refused(GATEWAY_ERROR, _TOO_LARGE) from None


def _kind(headers: Headers) -> str:
    return (headers.get("content-type") or "").partition(";")[0].strip().lower()
