"""What clients read when Envoy itself answers: OpenAI's error shape, for it cannot know the surface.

The first mapper that matches wins. No text of Envoy's own gets out: its details name sockets and exceptions.
"""

from dataclasses import replace
from typing import cast

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    ExtensionFilter,
    HeaderFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import RuntimeUInt32, SubstitutionFormatString
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.google.protobuf import Any, Struct

from extproc.config.listener import Cors

from .edge import EXPOSED, allowed_origins
from .headers import overwriting

_CLIENT_ERROR = "invalid_request_error"
_GATEWAY_ERROR = "api_error"


def local_replies(cors: Cors | None) -> LocalReplyConfig:
    """The mappers, most particular first; for pages that may call, each with what lets them read the reply."""
    mappers = _mappers()
    if cors is None:
        return LocalReplyConfig(mappers=mappers)
    return LocalReplyConfig(mappers=[one for mapper in mappers for one in (_readable(mapper, cors), mapper)])


def _mappers() -> list[ResponseMapper]:
    return [
        ResponseMapper(filter=_details(".startsWith('sluice_')")),  # the policy's refusals stay as they are
        _upgrade_refused(),
        _address_refused(),
        _no_credential(),
        _reply(_status(408), _CLIENT_ERROR, "request_timeout", "The request did not arrive in time."),
        _reply(_status(413), _CLIENT_ERROR, "request_too_large", "The request body is too large."),
        _reply(_status(431), _CLIENT_ERROR, "headers_too_large", "The request headers are too large."),
        _policy_failed(),
        _reply(_from(500), _GATEWAY_ERROR, "gateway_error", "The gateway could not complete the call."),
        _reply(_from(400), _CLIENT_ERROR, "bad_request", "This is not a valid request to the gateway."),
    ]


def _readable(mapper: ResponseMapper, cors: Cors) -> ResponseMapper:
    """The same for a page that may call. A reply in the place of an answer goes past the CORS filter (Envoy 1.40)."""
    origin = HeaderMatcher(name="origin", string_match=allowed_origins(cors))
    page = AccessLogFilter(header_filter=HeaderFilter(header=origin))
    told = [
        overwriting("access-control-allow-origin", "%REQ(origin)%"),
        overwriting("access-control-expose-headers", EXPOSED),
    ]
    both = AndFilter(filters=[page, cast(AccessLogFilter, mapper.filter)])
    return replace(mapper, filter=AccessLogFilter(and_filter=both), headers_to_add=[*mapper.headers_to_add, *told])


def error(kind: str, code: str, message: str) -> dict[str, object]:
    """OpenAI's error object, with the id under which the logs know the call."""
    return {
        "error": {"message": message, "type": kind, "param": None, "code": code},
        "request_id": "%REQ(x-request-id)%",
    }


def json_body(tree: dict[str, object]) -> SubstitutionFormatString:
    return SubstitutionFormatString(content_type="application/json", json_format=Struct.from_dict(tree))


def _upgrade_refused() -> ResponseMapper:
    """Envoy answers 403 to an upgrade that is not configured; clients fall back to HTTP on 426 only."""
    text = "WebSocket is not served here: send the same request over HTTP."
    mapper = _reply(_details(" == 'upgrade_failed'"), _CLIENT_ERROR, "websocket_not_served", text)
    mapper.status_code = 426
    return mapper


def _address_refused() -> ResponseMapper:
    text = "Calls from your network address are not allowed."
    return _reply(_details(".startsWith('rbac_access_denied')"), _CLIENT_ERROR, "ip_not_allowed", text)


def _no_credential() -> ResponseMapper:
    """Envoy answers 401 when a backend's secret is missing, but the caller's key was right."""
    text = "The gateway has no credential for this backend."
    mapper = _reply(_details(" == 'failed_to_inject_credential'"), _GATEWAY_ERROR, "gateway_error", text)
    mapper.status_code = 502
    return mapper


def _policy_failed() -> ResponseMapper:
    """A worker died or hung: another one, or the same one restarted, may well answer."""
    text = "The gateway could not decide on the call. Try again."
    mapper = _reply(_details(".startsWith('ext_proc_error')"), _GATEWAY_ERROR, "gateway_error", text)
    mapper.headers_to_add = [overwriting("x-should-retry", "true")]
    return mapper


def _reply(matches: AccessLogFilter, kind: str, code: str, message: str) -> ResponseMapper:
    return ResponseMapper(filter=matches, body_format_override=json_body(error(kind, code, message)))


def _details(condition: str) -> AccessLogFilter:
    expression = Any.pack(ExpressionFilter(expression=f"response.code_details{condition}"))
    cel = ExtensionFilter(name="envoy.access_loggers.extension_filters.cel", typed_config=expression)
    return AccessLogFilter(extension_filter=cel)


def _status(code: int) -> AccessLogFilter:
    return _compared(ComparisonFilterOp.EQ, code)


def _from(code: int) -> AccessLogFilter:
    return _compared(ComparisonFilterOp.GE, code)


def _compared(op: ComparisonFilterOp, code: int) -> AccessLogFilter:
    value = RuntimeUInt32(default_value=code, runtime_key=f"sluice.local_reply.{code}")
    comparison = ComparisonFilter(op=op, value=value)
    return AccessLogFilter(status_code_filter=StatusCodeFilter(comparison=comparison))
