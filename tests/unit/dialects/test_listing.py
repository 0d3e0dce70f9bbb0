"""Lists of models in the two shapes that SDKs read."""

import json

from anthropic.types import ModelInfo
from openai.types import Model

from extproc.dialects import listing
from extproc.model import PublicModel
from extproc.surfaces import Face

MODELS = [PublicModel("gpt-4o", ()), PublicModel("phi/4:latest", ())]


def test_openai_s_list() -> None:
    for face in (Face.OPENAI, Face.AZURE):
        listed = json.loads(listing.models(MODELS, face))
        assert listed["object"] == "list"
        assert [Model.model_validate(entry).id for entry in listed["data"]] == ["gpt-4o", "phi/4:latest"]


def test_openai_s_model() -> None:
    assert json.loads(listing.model(MODELS[0], Face.OPENAI)) == {
        "id": "gpt-4o",
        "object": "model",
        "created": 0,
        "owned_by": "sluice",
    }


def test_anthropic_s_list() -> None:
    listed = json.loads(listing.models(MODELS, Face.ANTHROPIC))
    assert [ModelInfo.model_validate(entry).id for entry in listed.pop("data")] == ["gpt-4o", "phi/4:latest"]
    assert listed == {"has_more": False, "first_id": "gpt-4o", "last_id": "phi/4:latest"}


def test_anthropic_s_model() -> None:
    assert json.loads(listing.model(MODELS[0], Face.ANTHROPIC)) == {
        "type": "model",
        "id": "gpt-4o",
        "display_name": "gpt-4o",
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
    }


def test_a_caller_without_models_gets_an_empty_list() -> None:
    assert json.loads(listing.models([], Face.OPENAI)) == {"object": "list", "data": []}
    assert json.loads(listing.models([], Face.ANTHROPIC)) == {
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }
