"""The plain switches of the environment: what they stand for, and what is told when one is wrong."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.config import compile as compiled
from extproc.config.loader import ConfigError, load
from extproc.limits.limit import Limit, Measure, Only, Scope
from extproc.model import Catalogue
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway
from tests.support.limits import CHAT, PATHS, Client, limited

ALONE = {
    "SLUICE__BACKENDS__SWE__DIALECT": "openai",
    "SLUICE__BACKENDS__SWE__URL": "https://swe.example",
    "SLUICE__MODELS__GPT_4O__TARGETS": "[[{backend: swe}]]",
}
AZURE = PATHS["azure"]
ON = {"ENABLE_AI_RATE_LIMIT": "true"}
FILE = """\
backends: {swe: {dialect: openai, url: "https://swe.example"}}
models: {gpt-4o: {targets: [[{backend: swe}]]}}
"""


def _catalogue(environ: Mapping[str, str]) -> Catalogue:
    return compiled.catalogue(load(None, {**ALONE, **environ}))


def _problems(environ: Mapping[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(None, {**ALONE, **environ})
    return str(caught.value).splitlines()


def _limits(measure: Measure, high: int, low: int, sliding: int, status: int, message: str) -> tuple[Limit, ...]:
    return tuple(
        Limit(
            name,
            measure,
            amount,
            scope=(Scope.KEY,),
            sliding=sliding,
            only=Only(low_route=low_route),
            status=status,
            message=message,
            hard=measure is not Measure.TOKENS,
        )
        for name, amount, low_route in (("ai-rate-limit-high", high, False), ("ai-rate-limit-low", low, True))
    )


@pytest.mark.parametrize("value", [None, "false", "False", "0"])
def test_while_it_is_off_the_others_are_ignored(value: str | None) -> None:
    wrong = {
        "AI_RATE_LIMIT_STRATEGY": "x",
        "AI_RATE_LIMIT_WINDOW_SECONDS": "x",
        "AI_RATE_LIMIT_HIGH_LIMIT": "x",
        "AI_RATE_LIMIT_LOW_LIMIT": "x",
        "AI_RATE_LIMIT_REJECT_CODE": "x",
        "AI_RATE_LIMIT_REJECT_MESSAGE": "\n",
        "AI_RATE_LIMIT_HIGHLIMIT": "5",
        "GATEWAY_E2E_TEST_MODE": "true",
    }
    catalogue = _catalogue(wrong | ({} if value is None else {"ENABLE_AI_RATE_LIMIT": value}))
    assert (catalogue.limits, catalogue.low_prefix, catalogue.tells_priority) == ((), "", False)


@pytest.mark.parametrize("value", ["true", "TRUE", "1"])
def test_what_it_stands_for_by_default(value: str) -> None:
    catalogue = _catalogue({"ENABLE_AI_RATE_LIMIT": value})
    assert catalogue.limits == _limits(Measure.TOKENS, 200, 20, 60_000, 503, "rate limited")
    assert (catalogue.low_prefix, catalogue.tells_priority) == ("/prioritization-simple", False)


def test_every_switch() -> None:
    catalogue = _catalogue(
        ON
        | {
            "AI_RATE_LIMIT_STRATEGY": "req",
            "AI_RATE_LIMIT_WINDOW_SECONDS": "10",
            "AI_RATE_LIMIT_HIGH_LIMIT": "7",
            "AI_RATE_LIMIT_LOW_LIMIT": "3",
            "AI_RATE_LIMIT_REJECT_CODE": "429",
            "AI_RATE_LIMIT_REJECT_MESSAGE": "later: please, ${USER}",
            "GATEWAY_E2E_TEST_MODE": "true",
        }
    )
    assert catalogue.limits == _limits(Measure.REQUESTS, 7, 3, 10_000, 429, "later: please, ${USER}")
    assert catalogue.tells_priority


WHOLE = "must be a whole number from"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ENABLE_AI_RATE_LIMIT", "yes", "must be true or false"),
        ("ENABLE_AI_RATE_LIMIT", "", "is empty: give it a value, or unset it"),
        ("AI_RATE_LIMIT_STRATEGY", "tokens", "must be total_tokens or req"),
        ("AI_RATE_LIMIT_WINDOW_SECONDS", "0", f"{WHOLE} 1 to 2678400"),
        ("AI_RATE_LIMIT_WINDOW_SECONDS", "2678401", f"{WHOLE} 1 to 2678400"),
        ("AI_RATE_LIMIT_WINDOW_SECONDS", "60s", f"{WHOLE} 1 to 2678400"),
        ("AI_RATE_LIMIT_HIGH_LIMIT", "1.5", f"{WHOLE} 1 to 9007199254740991"),
        ("AI_RATE_LIMIT_HIGH_LIMIT", "9007199254740992", f"{WHOLE} 1 to 9007199254740991"),
        ("AI_RATE_LIMIT_LOW_LIMIT", "-1", f"{WHOLE} 1 to 9007199254740991"),
        ("AI_RATE_LIMIT_LOW_LIMIT", "٣", f"{WHOLE} 1 to 9007199254740991"),
        ("AI_RATE_LIMIT_REJECT_CODE", "200", f"{WHOLE} 400 to 599"),
        ("AI_RATE_LIMIT_REJECT_CODE", " ", "is empty: give it a value, or unset it"),
        ("AI_RATE_LIMIT_REJECT_MESSAGE", "a\nb", "must be printable characters on one line, at most 200 of them"),
        ("AI_RATE_LIMIT_REJECT_MESSAGE", "a" * 201, "must be printable characters on one line, at most 200 of them"),
        ("GATEWAY_E2E_TEST_MODE", "on", "must be true or false"),
        ("AI_RATE_LIMIT_HIGHLIMIT", "5", "unknown variable (did you mean AI_RATE_LIMIT_HIGH_LIMIT?)"),
        ("AI_RATE_LIMIT_X", "", "unknown variable"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, value: str, told: str) -> None:
    assert _problems(ON | {name: value}) == [f"{name}: {told}"]


def test_all_wrong_values_are_told_at_once() -> None:
    wrong = [
        "AI_RATE_LIMIT_STRATEGY",
        "AI_RATE_LIMIT_WINDOW_SECONDS",
        "AI_RATE_LIMIT_LOW_LIMIT",
        "GATEWAY_E2E_TEST_MODE",
    ]
    told = _problems(ON | dict.fromkeys(wrong, "x") | {"SLUICE__WORKERS": "0"})
    assert sorted(line.partition(":")[0] for line in told) == sorted([*wrong, "SLUICE__WORKERS"])


@given(st.text(max_size=20))
def test_no_value_gives_anything_but_limits_or_a_problem_of_its_variable(text: str) -> None:
    name = "AI_RATE_LIMIT_HIGH_LIMIT"
    try:
        high, _ = _catalogue(ON | {name: text}).limits
    except ConfigError as error:
        assert str(error).startswith(f"{name}: ")  # noqa: PT017 - or there is none
    else:
        assert high.amount == int(text)


# ---- beside the file and other variables ----------------------------------------------------------


def test_limits_of_the_file_stay_beside_them(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE + "policies: {limits: {day: {requests: 5, per: day}, ai-rate-limit-low: {mode: shadow}}}\n")
    catalogue = compiled.catalogue(load(file, ON))
    assert [(limit.name, limit.mode) for limit in catalogue.limits] == [
        ("day", "enforce"),
        ("ai-rate-limit-low", "shadow"),
        ("ai-rate-limit-high", "enforce"),
    ]


def test_a_prefix_of_the_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE + "listener: {low_priority_prefix: /batch, port: 9090}\n")
    gateway = load(file, ON | {"GATEWAY_E2E_TEST_MODE": "1"})
    assert (gateway.listener.low_priority_prefix, gateway.listener.port) == ("/batch", 9090)
    assert gateway.listener.tells_priority


def test_settings_of_the_tree_win_over_the_switches() -> None:
    catalogue = _catalogue(
        ON
        | {
            "AI_RATE_LIMIT_HIGH_LIMIT": "100",
            "SLUICE__POLICIES__LIMITS__AI_RATE_LIMIT_HIGH__TOKENS": "300",
            "SLUICE__LISTENER__LOW_PRIORITY_PREFIX": "/low",
        }
    )
    assert [limit.amount for limit in catalogue.limits] == [300, 20]
    assert catalogue.low_prefix == "/low"


def test_several_workers_need_a_store_for_them_too() -> None:
    (told,) = _problems(ON | {"SLUICE__WORKERS": "2"})
    assert "each of the 2 workers would count by itself" in told


@pytest.mark.parametrize("text", ["policies: 5\n", "listener: []\n"])
def test_they_do_not_hide_what_is_wrong_with_the_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE + text)
    with pytest.raises(ConfigError, match="must be a mapping"):
        load(file, ON)


# ---- by default, through the whole gateway --------------------------------------------------------


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of a gateway with the one switch set, and nothing else."""
    with FakeProvider("openai", "azure", "anthropic") as fake:
        settings = limited(fake, {}, models={"m": {"targets": [[{"backend": "openai"}]]}})
        with RunningGateway(settings, ON) as running:
            yield Client(running)


@pytest.mark.parametrize(("prefix", "limit"), [("", 200), ("/prioritization-simple", 20)])
def test_calls_pass_while_anything_is_left_and_then_none_does(client: Client, prefix: str, limit: int) -> None:
    """The low limit is less than any chat can use: one that were hard would refuse them all."""
    used: list[int] = []
    while (answer := client.call("m", path=prefix + CHAT, cap=None, x_fake={"length": 30})).status_code == 200:
        used.append(answer.json()["usage"]["total_tokens"])
        client.record(answer)  # then it is booked, or about to be
        assert sum(used) < limit + 3 * used[0]
    assert sum(used) >= limit
    for refused in (
        answer,
        client.call("m", cap=1, path=prefix + CHAT),
        client.call("m", "azure", path=prefix + AZURE),
    ):
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, "rate limited")
