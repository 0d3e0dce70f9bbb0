"""Our subset of Envoy's services against Envoy's own types, and the checked-in code against its source.

`envoy_data_plane` is generated from Envoy's whole API by another compiler, so agreement is no accident.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from envoy_data_plane.envoy.config.core.v3 import HeaderMap as EnvoyHeaderMap
from envoy_data_plane.envoy.config.core.v3 import HeaderValue as EnvoyHeaderValue
from envoy_data_plane.envoy.config.core.v3 import Metadata as EnvoyMetadata
from envoy_data_plane.envoy.service.accesslog import v3 as envoy_log
from envoy_data_plane.envoy.service.ext_proc import v3 as envoy
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from extproc.adapter import codec
from extproc.call import BodyMode, Emit, Leg, Pass, Relay, Reply, Route
from protos import access_log_pb2, ext_proc_pb2

ROOT = Path(__file__).resolve().parents[2]

# Ours by name: the class of Envoy. What they hold is reached from them.
ROOTS: dict[type[Message], Any] = {
    ext_proc_pb2.ProcessingRequest: envoy.ProcessingRequest,
    ext_proc_pb2.ProcessingResponse: envoy.ProcessingResponse,
    ext_proc_pb2.Metadata: EnvoyMetadata,
    access_log_pb2.StreamAccessLogsMessage: envoy_log.StreamAccessLogsMessage,
    access_log_pb2.StreamAccessLogsResponse: envoy_log.StreamAccessLogsResponse,
}


# Fields that we keep as bytes, and the message in them.
SEALED: dict[str, type[Message]] = {
    "envoy.service.ext_proc.v3.ProcessingRequest.metadata_context": ext_proc_pb2.Metadata,
    "envoy.service.accesslog.v3.AccessLogCommon.metadata": ext_proc_pb2.Metadata,
}


# ---- messages with every field set ------------------------------------------------------------------


def _fill_scalar(field: Any, number: int) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return f"{field.name}-{number}"
    if field.full_name in SEALED:
        inner = SEALED[field.full_name]()
        _fill(inner, {})
        return inner.SerializeToString()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return b"\x00\xff" + field.name.encode()
    if field.type == FieldDescriptor.TYPE_BOOL:
        return True
    if field.type == FieldDescriptor.TYPE_ENUM:
        return field.enum_type.values[-1].number
    return 400 + number


def _is_map(field: Any) -> bool:
    entry: bool = field.message_type is not None and field.message_type.GetOptions().map_entry
    return entry


def _fill(message: Message, choices: dict[str, str]) -> None:
    """Set every field; of a oneof the one that `choices` names, else its last."""
    if message.DESCRIPTOR.full_name.startswith("google.protobuf."):
        _fill_well_known(message)
        return
    for field in message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        if oneof is not None and choices.get(oneof.full_name, oneof.fields[-1].name) != field.name:
            continue
        if _is_map(field):
            _fill_map(getattr(message, field.name), field, choices)
        elif field.message_type is not None and field.is_repeated:
            for _ in range(2):
                _fill(getattr(message, field.name).add(), choices)
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            _fill(getattr(message, field.name), choices)
        elif field.is_repeated:
            getattr(message, field.name).extend([_fill_scalar(field, 1), _fill_scalar(field, 2)])
        else:
            setattr(message, field.name, _fill_scalar(field, field.number))


def _fill_map(container: Any, field: Any, choices: dict[str, str]) -> None:
    if field.message_type.fields_by_name["value"].message_type is None:
        container["key"] = "value"
    else:
        _fill(container["key"], choices)


def _fill_well_known(message: Any) -> None:
    kind = message.DESCRIPTOR.name
    if kind == "Struct":
        message.update({"text": "é", "number": 1.5, "flag": True, "list": [None, {"inner": "x"}]})
    elif kind in ("Timestamp", "Duration"):
        message.seconds, message.nanos = 1_760_000_000, 123_456_000
    else:
        message.value = 429


def _oneofs(kind: Any, seen: frozenset[str] = frozenset()) -> Iterator[tuple[str, list[str]]]:
    """Every oneof below a message, with the names of its alternatives."""
    if kind.full_name in seen or kind.full_name.startswith("google.protobuf."):
        return
    for oneof in kind.oneofs:
        yield oneof.full_name, [field.name for field in oneof.fields]
    for field in kind.fields:
        if field.message_type is not None:
            yield from _oneofs(field.message_type, seen | {kind.full_name})


def _variants() -> Iterator[tuple[str, type[Message], dict[str, str]]]:
    for kind in ROOTS:
        yield kind.DESCRIPTOR.name, kind, {}
        for oneof, names in dict(_oneofs(kind.DESCRIPTOR)).items():
            for name in names:
                reached = _reaching(kind, oneof)
                yield f"{kind.DESCRIPTOR.name}-{oneof.rpartition('.')[2]}-{name}", kind, reached | {oneof: name}


def _reaching(kind: type[Message], oneof: str) -> dict[str, str]:
    """Choices on the way to a oneof that only one alternative of another holds."""
    return {"envoy.service.ext_proc.v3.ProcessingResponse.response": "request_body"} if "BodyMutation" in oneof else {}


VARIANTS = list(_variants())


# ---- comparing ours with Envoy's, field by field ----------------------------------------------------


def _assert_same(ours: Any, theirs: Any, path: str) -> None:
    """Every field that we set has our value under the same name at Envoy."""
    if ours.DESCRIPTOR.full_name.startswith("google.protobuf."):
        assert theirs is not None, path  # its content is compared as bytes, on the way back
        return
    for field, value in ours.ListFields():
        there = getattr(theirs, field.name)
        where = f"{path}.{field.name}"
        if _is_map(field):
            assert set(there) == set(value), where
        elif field.message_type is not None and field.is_repeated:
            assert len(there) == len(value), where
            for mine, their in zip(value, there, strict=True):
                _assert_same(mine, their, where)
        elif field.message_type is not None:
            _assert_same(value, there, where)
        elif field.full_name in SEALED:
            _assert_same(SEALED[field.full_name].FromString(value), there, where)
        elif field.enum_type is not None:
            assert int(there) == value, where
            assert there.name == field.enum_type.values_by_number[value].name, where
        else:
            assert there == (list(value) if field.is_repeated else value), where


@pytest.mark.parametrize(
    ("kind", "choices"), [(kind, choices) for _, kind, choices in VARIANTS], ids=[name for name, _, _ in VARIANTS]
)
def test_a_message_is_read_alike_by_both_codecs(kind: type[Message], choices: dict[str, str]) -> None:
    ours = kind()
    _fill(ours, choices)
    theirs = ROOTS[kind].parse(ours.SerializeToString())
    _assert_same(ours, theirs, kind.DESCRIPTOR.name)
    assert kind.FromString(bytes(theirs)) == ours, "and back"


def test_the_variants_choose_every_alternative() -> None:
    names = {name for name, _, _ in VARIANTS}
    for chosen in ("immediate_response", "request_headers", "response_trailers"):
        assert f"ProcessingResponse-response-{chosen}" in names
    for chosen in ("body", "clear_body", "streamed_response"):
        assert f"ProcessingResponse-mutation-{chosen}" in names


def test_fields_that_we_leave_out_are_skipped() -> None:
    theirs = envoy.ProcessingRequest(
        request_headers=envoy.HttpHeaders(
            headers=EnvoyHeaderMap(headers=[EnvoyHeaderValue(key=":path", raw_value=b"/\xff")]), end_of_stream=True
        ),
        observability_mode=True,
        protocol_config=envoy.ProtocolConfiguration(send_body_without_waiting_for_header_response=True),
    )
    ours = ext_proc_pb2.ProcessingRequest.FromString(bytes(theirs))
    assert ours.WhichOneof("request") == "request_headers"
    assert ours.request_headers.end_of_stream
    assert [(pair.key, pair.raw_value) for pair in ours.request_headers.headers.headers] == [(":path", b"/\xff")]


# ---- what we really send ----------------------------------------------------------------------------

LEGS = (Leg("one", "/v1/x", "a"), Leg("two", "/y", "m", "m"))
REPLIES = {
    "proceed": codec.PROCEED_REQUEST_HEADERS,
    "request trailers": codec.PROCEED_REQUEST_TRAILERS,
    "response trailers": codec.PROCEED_RESPONSE_TRAILERS,
    "route after headers": codec.route_after_headers(Route(LEGS, ("cookie",))),
    "route after body": codec.route_after_body(Route(LEGS, ("cookie",), b"body", 4, 1, 3)),
    "route with an identity": codec.route_after_body(Route(LEGS, length=4, identity="signed")),
    "chunk": codec.request_chunk(Pass(b"chunk", True)),
    "reply": codec.reply(Reply(404, (("content-type", "application/json"),), b"{}", "sluice_x")),
    "emit": codec.emit(Emit(b"new")),
    "emit nothing": codec.emit(Emit(b"")),
    "unchanged": codec.emit(Emit()),
    **{f"relay {mode.name} {sized}": codec.relay(Relay(mode, sized)) for mode in BodyMode for sized in (True, False)},
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES.keys())
def test_every_reply_says_the_same_to_both_codecs(reply: bytes) -> None:
    ours = ext_proc_pb2.ProcessingResponse.FromString(reply)
    _assert_same(ours, envoy.ProcessingResponse.parse(ours.SerializeToString()), "reply")


# ---- names of the services, and the generated code --------------------------------------------------


@pytest.mark.parametrize(
    ("service", "method", "streams"),
    [
        (ext_proc_pb2.DESCRIPTOR.services_by_name["ExternalProcessor"], "Process", (True, True)),
        (access_log_pb2.DESCRIPTOR.services_by_name["AccessLogService"], "StreamAccessLogs", (True, False)),
    ],
)
def test_a_service_has_envoys_name_and_streams(service: Any, method: str, streams: tuple[bool, bool]) -> None:
    package = {"ExternalProcessor": "envoy.service.ext_proc.v3", "AccessLogService": "envoy.service.accesslog.v3"}
    assert service.full_name == f"{package[service.name]}.{service.name}"
    found = service.methods_by_name[method]
    assert (found.client_streaming, found.server_streaming) == streams


def test_the_checked_in_code_is_what_its_source_compiles_to(tmp_path: Path) -> None:
    sources = sorted(path.relative_to(ROOT) for path in (ROOT / "protos").glob("*.proto"))
    assert len(sources) == 2
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, *map(str, sources)], cwd=ROOT, check=True)
    fresh = {path.name: path.read_text() for path in (tmp_path / "protos").iterdir()}
    checked_in = {path.name: path.read_text() for path in (ROOT / "protos").glob("*_pb2.py*")}
    assert checked_in == fresh, "protos/ is out of date; run: make protos"
