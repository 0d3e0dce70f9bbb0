"""Envoy's log of calls: a line of JSON each, of what Envoy saw and of what the policy told it in dynamic metadata.

No path is logged, for a path that nobody serves holds whatever its caller wrote: the policy tells the surface.
"""

import betterproto2
from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog, AccessLogFilter, HeaderFilter
from envoy_data_plane.envoy.config.core.v3 import SubstitutionFormatString
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.access_loggers.file.v3 import FileAccessLog
from envoy_data_plane.envoy.extensions.access_loggers.stream.v3 import StdoutAccessLog
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any, Struct

from extproc import contract
from extproc.config.access_log import STDOUT
from extproc.config.access_log import AccessLog as Config

_OF_ENVOY = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",  # when the call began
    "request_id": "%REQ(X-REQUEST-ID):200%",
    "method": "%REQ(:METHOD):20%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "first_byte_ms": "%RESPONSE_DURATION%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "upstream_cluster": "%UPSTREAM_CLUSTER%",
    "upstream_host": "%UPSTREAM_HOST%",
}
_PROBES = HeaderMatcher(
    name=":path",
    string_match=StringMatcher(safe_regex=RegexMatcher(regex=r"/(healthz|readyz)(\?.*)?")),
    invert_match=True,
)


def json_log(config: Config) -> AccessLog:
    """The log of all calls but probes of health."""
    return AccessLog(
        name="sluice.access_log",
        filter=AccessLogFilter(header_filter=HeaderFilter(header=_PROBES)),
        typed_config=Any.pack(_writer(config)),
    )


def _writer(config: Config) -> betterproto2.Message:
    told = {name: f"%DYNAMIC_METADATA({contract.LOG}:{name})%" for name in contract.LOGGED}
    line: Struct = Struct.from_dict({"kind": "access", **_OF_ENVOY, **told})
    form = SubstitutionFormatString(json_format=line, omit_empty_values=True)
    return StdoutAccessLog(log_format=form) if config.to == STDOUT else FileAccessLog(path=config.to, log_format=form)
