"""Lists of models, in the shape of the API that was asked."""

from collections.abc import Sequence

import orjson

from extproc.model import PublicModel
from extproc.surfaces import Face

# The gateway does not know when a provider made a model; the SDKs want the field.
_CREATED = 0
_CREATED_AT = "1970-01-01T00:00:00Z"


def models(listed: Sequence[PublicModel], face: Face) -> bytes:
    """The models that a caller may use."""
    data = [_entry(model, face) for model in listed]
    if face is Face.ANTHROPIC:
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        return orjson.dumps({"data": data, "has_more": False, **ends})
    return orjson.dumps({"object": "list", "data": data})


def model(listed: PublicModel, face: Face) -> bytes:
    """One model."""
    return orjson.dumps(_entry(listed, face))


def _entry(listed: PublicModel, face: Face) -> dict[str, object]:
    if face is Face.ANTHROPIC:
        return {
            "type": "model",
            "id": listed.name,
            "display_name": listed.name,
            "created_at": _CREATED_AT,
            "lifecycle": "active",  # listed means served
        }
    return {"id": listed.name, "object": "model", "created": _CREATED, "owned_by": "sluice"}
