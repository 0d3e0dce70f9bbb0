"""What the gateway tells of itself: lists of models, in the shape of the API that was asked, and who the caller is."""

from collections.abc import Sequence
from datetime import UTC, datetime

import orjson

from extproc.model import Caller, CredentialKind, PublicModel
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


def me(caller: Caller, listed: Sequence[PublicModel]) -> bytes:
    """Who the caller is for the gateway, and what it may do."""
    team = caller.team
    return orjson.dumps(
        {
            "object": "caller",
            "credential": _credential(caller),
            "user": caller.user,
            "service_account": caller.service_account,
            "team": team.name if team else None,
            "area": team.area if team else None,
            "tier": team.tier if team else None,
            "tags": dict(team.tags) if team else {},
            "roles": sorted(caller.roles),
            "models": [model.name for model in listed],
            "policies": {
                "surfaces": None if caller.surfaces is None else sorted(caller.surfaces),
                "ip_ranges": {
                    "key": [str(network) for network in caller.networks],
                    "team": [str(network) for network in team.networks] if team else [],
                },
            },
        }
    )


def _credential(caller: Caller) -> dict[str, object]:
    if caller.kind is CredentialKind.TOKEN:
        return {"kind": "token", "id": caller.key_id, "issuer": caller.issuer}
    expires = None if caller.expires is None else datetime.fromtimestamp(caller.expires, UTC).isoformat()
    environment = caller.environment
    return {
        "kind": "key",
        "id": caller.key_id,
        "name": caller.name,
        "environment": environment,
        "expires_at": expires,
    }


def _entry(listed: PublicModel, face: Face) -> dict[str, object]:
    modality = {} if listed.modality is None else {"modality": listed.modality.value}
    if face is Face.ANTHROPIC:
        return {
            "type": "model",
            "id": listed.name,
            "display_name": listed.name,
            "created_at": _CREATED_AT,
            **_lifecycle(listed),
            **modality,
        }
    return {"id": listed.name, "object": "model", "created": _CREATED, "owned_by": "sluice", **modality}


def _lifecycle(listed: PublicModel) -> dict[str, object]:
    """Listed means served, and that its own name may be on the way out."""
    retirement = listed.retired.get(listed.name)
    if retirement is None:
        return {"lifecycle": "active"}
    told: dict[str, object] = {"lifecycle": "deprecated", "deprecated_at": _moment(retirement.since)}
    if retirement.sunset is not None:
        told["retires_at"] = _moment(retirement.sunset)
    return told


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
