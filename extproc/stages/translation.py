"""An answer of a backend that speaks another dialect than the caller: how it is turned into the caller's."""

from dataclasses import replace

import orjson

from extproc.call import BodyMode, Call, Emit, Relay
from extproc.dialects.translate import directions
from extproc.dialects.translate.direction import Asked
from extproc.dialects.translate.reading import TranslatedStream, TranslatedWhole
from extproc.headers import Headers, content_length
from extproc.model import Ending
from extproc.refusals import GATEWAY_ERROR, Refused, stream_error
from extproc.stages import relay, usage

_JSON = b"application/json"
_TOO_LARGE = "The backend's answer is larger than what the gateway translates: see limits.json_answer."


def begin(call: Call, headers: Headers, now: int) -> Headers:
    """Make ready what translates the answer, where who served speaks another dialect.

    Returns the answer's headers as they are then: whatever is no stream becomes JSON. `now`: Unix time. Raises Refused
    where the answer is known to be too large, or cannot be read.
    """
    target = usage.served(call)
    direction = None if target is None or call.place is None else directions.needed(target.backend, call.place.surface)
    if target is None or direction is None:
        return headers
    if relay.is_compressed(headers):
        raise Refused(GATEWAY_ERROR, "The backend's answer is compressed, though it was asked not to be.")
    answer = direction.answer(Asked(orjson.loads(call.sent), target.model, now))
    cap = call.catalogue.answer_cap
    status = call.status
    call.hides_usage = not call.asked_usage
    if status < 400 and relay.is_stream(call, headers):
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
    return Relay(BodyMode.BUFFERED if is_small else BodyMode.PARTIAL)


def relayed(call: Call, order: Relay) -> Relay:
    """The head of the answer with what translating changes in it."""
    if call.translated is None or order.mode is BodyMode.NONE:
        return order
    if isinstance(call.translated, TranslatedStream):
        return replace(order, resized=True)
    # Once a body flows, the head has gone out, and no error can take its place.
    mode = BodyMode.PARTIAL if order.mode is BodyMode.STREAMED else order.mode
    headers = (*order.headers, ("content-type", _JSON.decode()))
    return Relay(mode, resized=True, headers=headers, limited=order.limited, silence=order.silence)


def cut(call: Call, passed: bytes) -> Emit:
    """The end of an answer that has become too large to translate, after what of it may go out.

    Raises Refused where none of it has.
    """
    refused = Refused(GATEWAY_ERROR, _TOO_LARGE)
    if not isinstance(call.translated, TranslatedStream):
        raise refused
    call.ending, call.answer_ended = Ending.FAILED, True
    return Emit(passed + stream_error(refused.refusal, call.face, call.request_id), last=True)
