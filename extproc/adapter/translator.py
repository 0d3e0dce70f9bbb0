"""Envoy's ExternalProcessor service as clusters of another dialect use it: one stream for each attempt's request.

Nothing is known here but what comes with the attempt. The rule of external_processor.py is this file's, too: until
the body is replaced, an end without an error would send it on as the client wrote it.
"""

import logging
import traceback
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol, cast

import grpc
import grpc.aio
import orjson

from extproc import beside, contract
from extproc.adapter import codec
from extproc.call import ProtocolViolation
from extproc.dialects.translate.direction import Direction, Json
from extproc.dialects.translate.directions import DIRECTIONS, name_cap
from extproc.model import Dialect
from extproc.surfaces import Surface
from protos.ext_proc_pb2 import (
    BodyMutation,
    BodyResponse,
    CommonResponse,
    HeaderMutation,
    HeaderValue,
    HeaderValueOption,
    HttpHeaders,
    Metadata,
    ProcessingRequest,
    ProcessingResponse,
)

log = logging.getLogger(__name__)

_OF_A_SURFACE = ("anthropic-", "openai-")  # what a client asks of its surface's own provider
_VERSION = {Dialect.ANTHROPIC: {"anthropic-version": contract.ANTHROPIC_VERSION}}


class Stream(Protocol):
    """What we use of grpc.aio's servicer context."""

    def invocation_metadata(self) -> Iterable[tuple[str, str]] | None: ...
    async def read(self) -> ProcessingRequest: ...
    async def write(self, message: bytes) -> None: ...
    async def abort(self, code: grpc.StatusCode, details: str) -> None: ...


class _Ordered(NamedTuple):
    """What the policy ordered for this attempt."""

    direction: Direction
    model: str


async def translate(_requests: object, stream: Stream) -> None:
    """Serve one attempt: its headers pass, its body is replaced. Whatever fails, fails the call."""
    try:
        await _translate(stream)
    except Exception as error:
        _failed(error)
        await stream.abort(grpc.StatusCode.INTERNAL, "translation error")


async def _translate(stream: Stream) -> None:
    attempt = dict(stream.invocation_metadata() or ())
    cluster, dialect = attempt[contract.CLUSTER_KEY], Dialect(attempt[contract.DIALECT_KEY])
    head = await stream.read()
    if head is grpc.aio.EOF:
        return
    if not head.HasField("request_headers") or head.request_headers.end_of_stream:
        raise ProtocolViolation("a request without a body cannot be translated")
    await stream.write(codec.PROCEED_REQUEST_HEADERS)
    message = await stream.read()
    if message is grpc.aio.EOF:
        return  # Envoy gave the attempt up
    if not message.HasField("request_body"):
        raise ProtocolViolation("no request body follows the headers")
    order = _ordered(message.metadata_context, cluster, dialect)
    cap = attempt[contract.CAP_KEY] if dialect in (Dialect.OPENAI, Dialect.AZURE) else None
    body = message.request_body.body
    body = await beside.loop(len(body), _translated, order, body, cap)
    await stream.write(_replaced(body, _strange(head.request_headers), _VERSION.get(dialect, {})))


def _translated(order: _Ordered, body: bytes, cap: str | None) -> bytes:
    """The body for the backend; with its bound on the output in the field `cap`, where it is a chat's."""
    request = order.direction.request(_parsed(body), order.model)
    if cap is not None:
        name_cap(request, cap)
    return orjson.dumps(request)


def _ordered(metadata: bytes, cluster: str, dialect: Dialect) -> _Ordered:
    """Raises where the policy ordered no translation, or one that there is not."""
    chain = Metadata.FromString(metadata).filter_metadata[contract.CHAIN].fields
    surface = chain["translate"].struct_value.fields[cluster].string_value
    model = chain["deployed"].struct_value.fields[cluster].string_value
    if not model:
        raise ProtocolViolation("the order names no model")
    return _Ordered(DIRECTIONS[Surface(surface), dialect], model)


def _parsed(body: bytes) -> Json:
    request = orjson.loads(body)
    if not isinstance(request, dict):
        raise ProtocolViolation("a request that is no object cannot be translated")
    return cast(Json, request)


def _strange(headers: HttpHeaders) -> list[str]:
    """The names of headers that mean nothing to a provider of another dialect, or another thing."""
    return [pair.key for pair in headers.headers.headers if pair.key.startswith(_OF_A_SURFACE)]


def _replaced(body: bytes, remove: list[str], headers: Mapping[str, str]) -> bytes:
    """A new body, with its length. Envoy removes before it sets."""
    values = {**headers, "content-length": str(len(body))}
    mutation = HeaderMutation(
        set_headers=[
            HeaderValueOption(
                header=HeaderValue(key=name, raw_value=value.encode()),
                append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
            )
            for name, value in values.items()
        ],
        remove_headers=remove,
    )
    common = CommonResponse(header_mutation=mutation, body_mutation=BodyMutation(body=body))
    return ProcessingResponse(request_body=BodyResponse(response=common)).SerializeToString()


def _failed(error: Exception) -> None:
    """Log where it failed, not what: the text of an exception may hold text of the call."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-6:]))
    log.error("translation failed: %s at %s", type(error).__name__, where)
