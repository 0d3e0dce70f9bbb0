"""Paths upstream: which backend serves what, and under which path and query."""

import pytest

from extproc.dialects import paths
from extproc.model import Backend, Dialect, Target
from extproc.surfaces import Face, Place, Surface, locate

OPENAI = Backend("openai", Dialect.OPENAI)
PREFIXED = Backend("prefixed", Dialect.OPENAI, "/api")
V1 = Backend("azure-v1", Dialect.AZURE)
LEGACY = Backend("azure", Dialect.AZURE, "", "2024-10-21")
CLAUDE = Backend("claude", Dialect.ANTHROPIC, "/anthropic")

ONLY_OPENAI = {Surface.MODERATIONS, Surface.RERANK}
ANTHROPIC = {Surface.MESSAGES, Surface.COUNT_TOKENS}
OWN = {Surface.ME, Surface.MODELS, Surface.MODEL_ITEM, Surface.READY}  # the gateway answers these itself


@pytest.mark.parametrize("surface", list(Surface))
def test_a_backend_serves_the_operations_of_its_dialect(surface: Surface) -> None:
    shared = surface not in ONLY_OPENAI | ANTHROPIC | OWN
    assert paths.serves(OPENAI, surface) is (shared or surface in ONLY_OPENAI)
    assert paths.serves(V1, surface) is shared
    assert paths.serves(LEGACY, surface) is shared
    assert paths.serves(CLAUDE, surface) is (surface in ANTHROPIC)


def upstream(backend: Backend, path: str, query: str = "", model: str = "deployed") -> str:
    place = locate(path)
    assert place is not None
    return paths.upstream(Target(backend, model), place, query)


@pytest.mark.parametrize(
    ("backend", "path", "query", "expected"),
    [
        (OPENAI, "/v1/chat/completions", "", "/v1/chat/completions"),
        (OPENAI, "/v1/chat/completions", "beta=true&x=%2F", "/v1/chat/completions?beta=true&x=%2F"),
        (OPENAI, "/openai/v1/embeddings", "", "/v1/embeddings"),
        (OPENAI, "/openai/deployments/d/chat/completions", "api-version=2024-10-21", "/v1/chat/completions"),
        (OPENAI, "/openai/deployments/d/embeddings", "a=b%20c&api-version=1&d=", "/v1/embeddings?a=b%20c&d="),
        (OPENAI, "/openai/responses", "api-version=1", "/v1/responses"),
        (OPENAI, "/v1/responses/resp_1/cancel", "", "/v1/responses/resp_1/cancel"),
        (OPENAI, "/v1/responses/resp_1/input_items", "after=x", "/v1/responses/resp_1/input_items?after=x"),
        (OPENAI, "/v1/rerank", "", "/v1/rerank"),
        (PREFIXED, "/v1/completions", "", "/api/v1/completions"),
        (V1, "/v1/chat/completions", "", "/openai/v1/chat/completions"),
        (V1, "/openai/v1/chat/completions", "api-version=preview", "/openai/v1/chat/completions?api-version=preview"),
        (V1, "/openai/v1/chat/completions", "api-version=2024-10-21", "/openai/v1/chat/completions"),
        (V1, "/openai/deployments/d/audio/speech", "a=1&api-version=2024-10-21", "/openai/v1/audio/speech?a=1"),
        (V1, "/openai/responses/resp_1", "", "/openai/v1/responses/resp_1"),
        (LEGACY, "/v1/chat/completions", "", "/openai/deployments/deployed/chat/completions?api-version=2024-10-21"),
        (LEGACY, "/v1/responses", "", "/openai/responses?api-version=2024-10-21"),
        (LEGACY, "/v1/responses/resp_1", "stream=true", "/openai/responses/resp_1?stream=true&api-version=2024-10-21"),
        (
            LEGACY,
            "/openai/deployments/d/images/edits",
            "api-version=2025-01-01-preview&x=1",
            "/openai/deployments/deployed/images/edits?x=1&api-version=2024-10-21",
        ),
        (CLAUDE, "/v1/messages", "beta=true", "/anthropic/v1/messages?beta=true"),
        (CLAUDE, "/anthropic/v1/messages/count_tokens", "", "/anthropic/v1/messages/count_tokens"),
    ],
)
def test_the_path_that_a_backend_is_asked_under(backend: Backend, path: str, query: str, expected: str) -> None:
    assert upstream(backend, path, query) == expected


@pytest.mark.parametrize(
    ("model", "segment"), [("gpt-4o", "gpt-4o"), ("a/../b", "a%2F..%2Fb"), ("a?b#c", "a%3Fb%23c"), ("\u00e9", "%C3%A9")]
)
def test_a_deployment_s_name_stays_one_segment(model: str, segment: str) -> None:
    path = upstream(LEGACY, "/v1/embeddings", model=model)
    assert path == f"/openai/deployments/{segment}/embeddings?api-version=2024-10-21"


def test_an_api_version_is_replaced_wherever_it_stands() -> None:
    for query in (
        "api-version=x",
        "api-version=x&api-version=preview",
        "api%2Dversion=x",
        "API-Version=x",
        "&api-version=",
    ):
        assert upstream(V1, "/v1/embeddings", query) == "/openai/v1/embeddings"
        assert upstream(OPENAI, "/v1/embeddings", query) == "/v1/embeddings"
        assert upstream(LEGACY, "/v1/responses", query) == "/openai/responses?api-version=2024-10-21"


@pytest.mark.parametrize(
    ("backend", "surface", "named"),
    [
        (LEGACY, Surface.CHAT, True),
        (LEGACY, Surface.TRANSCRIPTIONS, True),
        (LEGACY, Surface.RESPONSES, False),
        (LEGACY, Surface.RESPONSE_ITEM, False),
        (V1, Surface.CHAT, False),
        (OPENAI, Surface.CHAT, False),
        (CLAUDE, Surface.MESSAGES, False),
    ],
)
def test_only_azure_s_legacy_paths_name_the_model(backend: Backend, surface: Surface, named: bool) -> None:
    assert paths.names_model_in_path(backend, surface) is named


@pytest.mark.parametrize(
    ("version", "reports"),
    [
        (None, True),
        ("2023-05-15", False),
        ("2024-06-01", False),
        ("2024-08-01-preview", False),
        ("2024-09-01-preview", True),
        ("2024-10-21", True),
        ("2025-04-01-preview", True),
        ("preview", True),
    ],
)
def test_old_azure_api_versions_do_not_report_usage_on_streams(version: str | None, reports: bool) -> None:
    assert paths.reports_stream_usage(Backend("azure", Dialect.AZURE, "", version)) is reports


def test_a_place_made_by_hand_is_as_good_as_a_located_one() -> None:
    place = Place(Surface.RESPONSE_ITEM, Face.OPENAI, item="resp_1", action="/cancel")
    assert paths.upstream(Target(OPENAI, "m"), place, "") == "/v1/responses/resp_1/cancel"
