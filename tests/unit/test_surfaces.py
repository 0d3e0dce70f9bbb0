"""Which paths are served, and as what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.surfaces import OPERATION_PATHS, Face, Place, Surface, face_of, locate, suggestion

_OPENAI = {
    "/chat/completions": Surface.CHAT,
    "/completions": Surface.COMPLETIONS,
    "/embeddings": Surface.EMBEDDINGS,
    "/audio/transcriptions": Surface.TRANSCRIPTIONS,
    "/audio/translations": Surface.TRANSLATIONS,
    "/audio/speech": Surface.SPEECH,
    "/images/generations": Surface.IMAGES,
    "/images/edits": Surface.IMAGE_EDITS,
}
_V1_ONLY = {"/responses": Surface.RESPONSES, "/moderations": Surface.MODERATIONS, "/rerank": Surface.RERANK}
# The whole list of the product, written by hand: a path more or less is a decision.
SERVED: dict[str, Place] = {
    **{f"/v1{path}": Place(surface, Face.OPENAI) for path, surface in (_OPENAI | _V1_ONLY).items()},
    **{f"/openai/v1{path}": Place(surface, Face.AZURE) for path, surface in (_OPENAI | _V1_ONLY).items()},
    **{
        f"/openai/deployments/gpt-4o.eu_1{path}": Place(surface, Face.AZURE, deployment="gpt-4o.eu_1")
        for path, surface in _OPENAI.items()
    },
    "/openai/responses": Place(Surface.RESPONSES, Face.AZURE),
    "/v1/messages": Place(Surface.MESSAGES, Face.ANTHROPIC),
    "/anthropic/v1/messages": Place(Surface.MESSAGES, Face.ANTHROPIC),
    "/v1/messages/count_tokens": Place(Surface.COUNT_TOKENS, Face.ANTHROPIC),
    "/anthropic/v1/messages/count_tokens": Place(Surface.COUNT_TOKENS, Face.ANTHROPIC),
    "/v1/me": Place(Surface.ME, Face.OPENAI, ("GET",)),
    "/v1/models": Place(Surface.MODELS, Face.OPENAI, ("GET",)),
    "/openai/v1/models": Place(Surface.MODELS, Face.AZURE, ("GET",)),
    "/openai/models": Place(Surface.MODELS, Face.AZURE, ("GET",)),
    "/anthropic/v1/models": Place(Surface.MODELS, Face.ANTHROPIC, ("GET",)),
    "/v1/models/ft:gpt-4o:org::id": Place(Surface.MODEL_ITEM, Face.OPENAI, ("GET",), item="ft:gpt-4o:org::id"),
    "/v1/models/meta/llama-4": Place(Surface.MODEL_ITEM, Face.OPENAI, ("GET",), item="meta/llama-4"),
    "/openai/models/m": Place(Surface.MODEL_ITEM, Face.AZURE, ("GET",), item="m"),
    "/anthropic/v1/models/m": Place(Surface.MODEL_ITEM, Face.ANTHROPIC, ("GET",), item="m"),
    "/openai/v1/models/m": Place(Surface.MODEL_ITEM, Face.AZURE, ("GET",), item="m"),
    "/readyz": Place(Surface.READY, Face.OPENAI, ("GET", "HEAD")),
    **{
        f"{base}/responses/resp_1{action}": Place(Surface.RESPONSE_ITEM, face, methods, item="resp_1", action=action)
        for base, face in (("/v1", Face.OPENAI), ("/openai/v1", Face.AZURE), ("/openai", Face.AZURE))
        for action, methods in (("", ("GET", "DELETE")), ("/cancel", ("POST",)), ("/input_items", ("GET",)))
    },
}


@pytest.mark.parametrize(("path", "place"), SERVED.items(), ids=SERVED.keys())
def test_a_served_path_leads_to_its_place(path: str, place: Place) -> None:
    assert locate(path) == place


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v1",
        "/v1/",
        "/chat/completions",
        "/V1/chat/completions",
        "/v1/Chat/completions",
        "/v1/chat/completions/",
        "/v1//chat/completions",
        "//v1/chat/completions",
        "/v1/./chat/completions",
        "/v1/chat/completions/../../admin",
        "/v1/chat/completions;x=1",
        "/v1/chat/completions?x",
        "/v1/chat%2fcompletions",
        "/v1/chat/completions\n",
        "/v1/chat/completions\x00",
        "/v1\\chat\\completions",
        "http://host/v1/chat/completions",
        "/openai/deployments//chat/completions",
        "/openai/deployments/a/b/chat/completions",
        "/openai/deployments/../chat/completions/x",
        "/openai/deployments/a/chat/completions\n",
        "/openai/deployments/a/chat/completions;x=1",
        "/openai/deployments/a/chat/completions/",
        "/openai/deployments/a/responses",
        "/openai/deployments/a/moderations",
        "/openai/deployments/" + "a" * 129 + "/chat/completions",
        "/v1/responses/",
        "/v1/responses/a/b",
        "/v1/responses/a/cancel/",
        "/v1/responses/" + "a" * 129,
        "/v1/responses/a%2f",
        "/v1/responses/a\n",
        "/v1/responses/a/cancel\n",
        "/v1/models/",
        "/v1/models/a b",
        "/v1/models/é",
        "/v1/messages/",
        "/anthropic/messages",
        "/anthropic/v1/chat/completions",
        "/healthz",
        "/readyz/",
        "/metrics",
    ],
)
def test_any_other_path_is_not_served(path: str) -> None:
    assert locate(path) is None


@given(st.text(max_size=60) | st.from_regex(r"/(v1|openai|anthropic)(/[a-z_.%]{0,12}){0,5}", fullmatch=True))
def test_hostile_paths_are_located_or_not_without_trouble(path: str) -> None:
    place = locate(path)
    assert place is None or place.surface in Surface
    assert face_of(path) in Face
    meant = suggestion(path)
    assert meant is None or locate(meant) is not None


@given(st.from_regex(r"[A-Za-z0-9_.:\-]{1,128}", fullmatch=True))
def test_an_id_comes_out_of_its_path_as_it_went_in(given_id: str) -> None:
    item = locate(f"/v1/responses/{given_id}")
    assert item is not None
    assert item.item == given_id
    deployment = locate(f"/openai/deployments/{given_id}/embeddings")
    assert deployment is not None
    assert deployment.deployment == given_id


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("/messages", "/v1/messages"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/anthropic/v1/v1/messages", "/anthropic/v1/messages"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1/v1/v1/chat/completions", None),
        ("/nowhere", None),
        ("/v1/chat/completions", None),
    ],
)
def test_a_path_that_is_nearly_right_is_told(path: str, meant: str | None) -> None:
    assert suggestion(path) == meant


@pytest.mark.parametrize(
    ("path", "face"),
    [
        ("/openai/deployments/x/nothing", Face.AZURE),
        ("/anthropic/nothing", Face.ANTHROPIC),
        ("/v1/messages/batches", Face.ANTHROPIC),
        ("/v1/nothing", Face.OPENAI),
        ("", Face.OPENAI),
    ],
)
def test_an_error_has_the_shape_that_the_path_looks_like(path: str, face: Face) -> None:
    assert face_of(path) is face


def test_the_path_at_a_provider_is_the_one_that_we_serve() -> None:
    for surface, path in OPERATION_PATHS.items():
        place = locate(f"/v1{path}")
        assert place is not None
        assert place.surface is surface
