"""Every way to say no, as each surface says it."""

import json
from typing import Any

import pytest

from extproc import refusals
from extproc.refusals import Blame, Kind, Refusal, Refused, encode
from extproc.surfaces import Face

# code: status, blame, x-should-retry, OpenAI's type, Anthropic's type. The codes are public: a change breaks callers.
TABLE: dict[str, tuple[int, str, bool, str, str]] = {
    "unknown_url": (404, "client", False, "invalid_request_error", "not_found_error"),
    "method_not_allowed": (405, "client", False, "invalid_request_error", "invalid_request_error"),
    "missing_api_key": (401, "client", False, "invalid_request_error", "authentication_error"),
    "invalid_api_key": (401, "client", False, "invalid_request_error", "authentication_error"),
    "ambiguous_credentials": (400, "client", False, "invalid_request_error", "invalid_request_error"),
    "invalid_token": (401, "client", False, "invalid_request_error", "authentication_error"),
    "no_team": (403, "client", False, "invalid_request_error", "permission_error"),
    "ambiguous_team": (400, "client", False, "invalid_request_error", "invalid_request_error"),
    "permission_denied": (403, "client", False, "invalid_request_error", "permission_error"),
    "ip_not_allowed": (403, "client", False, "invalid_request_error", "permission_error"),
    "price_unknown": (403, "client", False, "invalid_request_error", "permission_error"),
    "stopped": (403, "client", False, "invalid_request_error", "permission_error"),
    "unsupported_media_type": (415, "client", False, "invalid_request_error", "invalid_request_error"),
    "request_too_large": (413, "client", False, "invalid_request_error", "request_too_large"),
    "invalid_json": (400, "client", False, "invalid_request_error", "invalid_request_error"),
    "invalid_value": (400, "client", False, "invalid_request_error", "invalid_request_error"),
    "duplicate_field": (400, "client", False, "invalid_request_error", "invalid_request_error"),
    "missing_model": (400, "client", False, "invalid_request_error", "invalid_request_error"),
    "model_not_found": (404, "client", False, "invalid_request_error", "not_found_error"),
    "unsupported_by_model": (400, "client", False, "invalid_request_error", "invalid_request_error"),
    "state_not_found": (404, "client", False, "invalid_request_error", "not_found_error"),
    "websocket_not_served": (426, "client", False, "invalid_request_error", "invalid_request_error"),
    "request_timeout": (408, "client", False, "invalid_request_error", "invalid_request_error"),
    "bad_request": (400, "client", False, "invalid_request_error", "invalid_request_error"),
    "rate_limit_exceeded": (429, "client", True, "rate_limit_error", "rate_limit_error"),
    "insufficient_quota": (429, "client", False, "rate_limit_error", "rate_limit_error"),
    "idempotency_conflict": (409, "client", True, "invalid_request_error", "conflict_error"),
    "sensitive_data": (400, "client", False, "invalid_request_error", "invalid_request_error"),
    "policy_violation": (400, "client", False, "invalid_request_error", "invalid_request_error"),
    "unreadable_text": (400, "client", False, "invalid_request_error", "invalid_request_error"),
    "upstream_rate_limited": (429, "upstream", True, "rate_limit_error", "rate_limit_error"),
    "upstream_unavailable": (503, "upstream", True, "api_error", "overloaded_error"),
    "not_cached": (504, "client", False, "api_error", "timeout_error"),
    "upstream_timeout": (504, "upstream", True, "api_error", "timeout_error"),
    "stateful_backend_unavailable": (503, "upstream", False, "api_error", "overloaded_error"),
    "not_ready": (503, "gateway", True, "api_error", "overloaded_error"),
    "overloaded": (503, "gateway", True, "api_error", "overloaded_error"),
    "store_unavailable": (503, "gateway", True, "api_error", "overloaded_error"),
    "issuer_unavailable": (503, "gateway", True, "api_error", "overloaded_error"),
    "model_unpriced": (503, "gateway", False, "api_error", "overloaded_error"),
    "policy_unknown": (503, "gateway", False, "api_error", "overloaded_error"),
    "policy_failed": (503, "gateway", True, "api_error", "overloaded_error"),
    "gateway_error": (500, "gateway", False, "api_error", "api_error"),
}
KINDS = {value.code: value for value in vars(refusals).values() if isinstance(value, Kind)}
MESSAGE = 'Say "no".\n'


def test_the_set_is_closed() -> None:
    assert set(KINDS) == set(TABLE)
    assert len(KINDS) == sum(isinstance(value, Kind) for value in vars(refusals).values()), "a code is used twice"


@pytest.mark.parametrize("code", TABLE)
def test_a_kind_is_what_callers_were_promised(code: str) -> None:
    status, blame, retry, _, _ = TABLE[code]
    assert KINDS[code] == Kind(code, status, Blame(blame), retry)
    assert Refusal(KINDS[code], MESSAGE).status == status


@pytest.mark.parametrize("face", Face)
@pytest.mark.parametrize("code", TABLE)
def test_each_face_says_it_in_its_own_shape(code: str, face: Face) -> None:
    status, _, retry, openai, anthropic = TABLE[code]
    body, headers = encode(Refusal(KINDS[code], MESSAGE, "field"), face, "r-1")
    shapes: dict[Face, dict[str, Any]] = {
        Face.OPENAI: {
            "error": {"message": MESSAGE, "type": openai, "param": "field", "code": code},
            "request_id": "r-1",
        },
        Face.AZURE: {
            "error": {"code": code, "message": MESSAGE, "param": "field", "status": status},
            "request_id": "r-1",
        },
        Face.ANTHROPIC: {
            "type": "error",
            "error": {"type": anthropic, "message": MESSAGE, "code": code},
            "request_id": "r-1",
        },
    }
    if code == "insufficient_quota":  # Anthropic's own word for it, which its clients look for
        shapes[Face.ANTHROPIC]["error"]["details"] = {"error_code": "enforced_spend_limit_reached"}
    assert json.loads(body) == shapes[face]
    more = [("request-id", "r-1")] if face is Face.ANTHROPIC else []
    wanted = [("content-type", "application/json"), ("x-should-retry", "true" if retry else "false"), *more]
    assert headers == wanted, "above all no retry-after: some SDKs sleep whatever it says"


def test_a_field_that_nobody_is_to_blame_for_is_null() -> None:
    body, _ = encode(Refusal(refusals.INVALID_JSON, MESSAGE), Face.OPENAI, "")
    assert b'"param":null' in body


def test_only_what_may_help_is_worth_a_retry() -> None:
    soon_over = {refusals.RATE_LIMIT, refusals.UPSTREAM_RATE_LIMITED, refusals.IDEMPOTENCY_CONFLICT}
    for kind in KINDS.values():
        if kind not in soon_over:
            assert not (kind.retry and kind.blame is Blame.CLIENT)
            assert not kind.retry or kind.status >= 500


def test_headers_of_one_refusal_are_sent_with_it() -> None:
    refusal = Refusal(refusals.NOT_READY, MESSAGE, headers=(("retry-after-ms", "100"),))
    assert ("retry-after-ms", "100") in encode(refusal, Face.OPENAI, "r")[1]


@pytest.mark.parametrize("face", Face)
def test_one_refusal_may_differ_from_its_kind(face: Face) -> None:
    mine = Refusal(refusals.RATE_LIMIT, MESSAGE, type="tokens", own_retry=False, own_status=503)
    body, headers = encode(mine, face, "r")
    assert (mine.status, mine.retry) == (503, False)
    assert ("x-should-retry", "false") in headers
    error = json.loads(body)["error"]
    assert error["code"] == "rate_limit_exceeded"
    told = {Face.OPENAI: ("type", "tokens"), Face.AZURE: ("status", 503), Face.ANTHROPIC: ("type", "overloaded_error")}
    name, value = told[face]
    assert error[name] == value


@pytest.mark.parametrize(("wait", "seconds"), [(1, "1"), (999, "1"), (1_000, "1"), (1_001, "2"), (60_000, "60")])
def test_a_wait_is_told_in_both_units_and_never_too_short(wait: int, seconds: str) -> None:
    assert refusals.after(wait) == (("retry-after-ms", str(wait)), ("retry-after", seconds))


def test_the_exception_of_a_refusal_shows_its_code_alone() -> None:
    refused = Refused(refusals.INVALID_VALUE, "secret", "field")
    assert str(refused) == "invalid_value"
    assert refused.refusal == Refusal(refusals.INVALID_VALUE, "secret", "field")
