"""What every span and line of a log says of the process that it comes from, and values as OTLP has them."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector
from opentelemetry.sdk.resources import Resource as Attributes

SCOPE = InstrumentationScope(name="sluice")
_LONGEST_INT = 2**63


@cache
def resource() -> Resource:
    """Of this process. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES of the environment win."""
    ours = Attributes({SERVICE_NAME: "sluice", SERVICE_VERSION: _version(), SERVICE_INSTANCE_ID: str(uuid.uuid4())})
    return Resource(attributes=list(pairs(ours.merge(OTELResourceDetector().detect()).attributes)))


def _version() -> str:
    try:
        return version("sluice-gateway")
    except PackageNotFoundError:
        return ""


def pairs(values: Mapping[str, object]) -> Iterator[KeyValue]:
    """Attributes, without those that are None."""
    for name, value in values.items():
        if value is not None:
            yield KeyValue(key=name, value=any_value(value))


def any_value(value: object) -> AnyValue:
    """A value of a record. What OTLP has no kind for is told as text."""
    if isinstance(value, str):
        return AnyValue(string_value=_text(value))
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int) and -_LONGEST_INT <= value < _LONGEST_INT:
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, Mapping):
        return AnyValue(kvlist_value=KeyValueList(values=list(pairs(value))))
    if isinstance(value, Sequence):
        return AnyValue(array_value=ArrayValue(values=[any_value(one) for one in value]))
    return AnyValue(string_value=_text(str(value)))


def _text(value: str) -> str:
    """Protobuf takes no half of a surrogate pair."""
    return value.encode("utf-8", "replace").decode() if not value.isascii() else value
