"""What Envoy's token filter found on a call, out of the metadata of a message."""

from collections.abc import Mapping

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct, Value

from extproc.contract import TOKENS, token_failure_of, token_header_of
from extproc.identity.claims import FailedToken, VerifiedToken
from protos.ext_proc_pb2 import Metadata

# jwt_verify_lib's Status. Before these the token was not read, or no issuer of ours was recognised.
_EARLY_OR_LATE = frozenset({2, 3})
_FIRST_OF_AN_ISSUER = 25


def read(metadata: bytes) -> VerifiedToken | FailedToken | None:
    """The token of the call; None where there is none of a known issuer.

    None, too, for what Envoy never sends or Python cannot read (claims nested 50 deep): such a call has no token.
    """
    if not metadata:
        return None
    try:
        tree = Metadata.FromString(metadata)
    except DecodeError:
        return None
    if TOKENS not in tree.filter_metadata:
        return None
    found = tree.filter_metadata[TOKENS].fields
    verified = [name for name in found if ":" not in name]
    if not verified:
        return _failed(found)
    issuer, *others = verified
    header = token_header_of(issuer)
    if others or header not in found:
        return None
    return VerifiedToken(issuer, _plain(found[issuer].struct_value), _plain(found[header].struct_value))


def _failed(found: Mapping[str, Value]) -> FailedToken | None:
    """With one issuer configured, Envoy fails its name for whatever is no token; with several, for none."""
    for name, value in found.items():
        issuer = name.partition(":")[0]
        told = value.struct_value.fields
        code = told["code"].number_value
        if name == token_failure_of(issuer) and (code in _EARLY_OR_LATE or code >= _FIRST_OF_AN_ISSUER):
            return FailedToken(issuer, told["message"].string_value)
    return None


def _plain(struct: Struct) -> dict[str, object]:
    return {name: _value(value) for name, value in struct.fields.items()}


def _value(value: Value) -> object:
    """As JSON has it; every number is a float."""
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "list_value":
        return [_value(one) for one in value.list_value.values]
    if kind == "struct_value":
        return _plain(value.struct_value)
    if kind == "number_value":
        return value.number_value
    return value.bool_value if kind == "bool_value" else None
