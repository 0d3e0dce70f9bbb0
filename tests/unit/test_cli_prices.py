"""`sluice prices`: what is in force, and how it differs from what the package genai-prices says."""

import datetime as dt
import json
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from genai_prices import data_snapshot, types
from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot
from typer.testing import CliRunner, Result

from extproc.cli import app

GATEWAY = """\
backends:
  openai: {dialect: openai, url: "https://api.openai.example/v1"}
  azure: {dialect: azure-openai, url: "https://swe.openai.azure.example"}
  proxy: {dialect: openai, url: "https://proxy.example/v1", provider: openai}
  local: {dialect: openai, url: "https://llm.example/v1"}
models:
"""
TIERED = types.TieredPrices(base=Decimal("2.5"), tiers=[types.Tier(start=272_000, price=Decimal(5))])
FOUR = types.ModelInfo(
    id="four",
    match=types.ClauseStartsWith(starts_with="four"),
    prices=types.ModelPrice(
        input_mtok=TIERED,
        output_mtok=Decimal(15),
        cache_read_mtok=Decimal("0.25"),
        web_searches_kcount=Decimal(10),
    ),
    price_variants=[
        types.PriceVariant(when={"service_tier": "default"}, prices=types.ModelPrice()),
        types.PriceVariant(
            when={"service_tier": "priority"},
            prices=types.ModelPrice(input_mtok=Decimal(7), output_mtok=Decimal(30), cache_read_mtok=Decimal(1)),
        ),
        types.PriceVariant(when={"processing": "batch"}, prices=types.ModelPrice(input_mtok=Decimal(1))),
        types.PriceVariant(when={"speed": "fast"}, prices=types.ModelPrice(output_mtok=Decimal(150))),
        types.PriceVariant(when={"route": "eu"}, prices=types.ModelPrice(output_mtok=Decimal(20))),
    ],
)
CHANGED = types.ModelInfo(
    id="changed",
    match=types.ClauseEquals(equals="changed"),
    prices=[
        types.ConditionalPrice(prices=types.ModelPrice(input_mtok=Decimal(2), output_mtok=Decimal(4))),
        types.ConditionalPrice(
            prices=types.ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(4), cache_write_1h_mtok=Decimal(2)),
            constraint=types.StartDateConstraint(start_date=dt.date(2026, 3, 1)),
        ),
    ],
)
HEARS = types.ModelInfo(
    id="hears", match=types.ClauseEquals(equals="hears"), prices=types.ModelPrice(audio_hours=Decimal("0.36"))
)
PROVIDERS = [
    types.Provider(
        id="openai", name="OpenAI", api_pattern=r"https://api\.openai\.example", models=[FOUR, CHANGED, HEARS]
    ),
    types.Provider(id="azure", name="Azure", api_pattern=r"https://nowhere\.example", models=[FOUR]),
]
EXACT = """\
  four:
    targets: [[{backend: openai, model: four-2026}]]
    price:
      input: 2.5
      cached_input: 0.25
      output: 15
      hosted_call: 0.01
      long_context: [{above: 272000, input: 5, cached_input: 0.25, output: 15}]
      service_tiers:
        priority: {input: 7, cached_input: 1, output: 30}
        batch: {input: 1, cached_input: 0.25, output: 15}
        fast:
          input: 2.5
          cached_input: 0.25
          output: 150
          long_context: [{above: 272000, input: 5, cached_input: 0.25, output: 150}]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLUICE_CONFIG", raising=False)


@pytest.fixture
def package() -> Iterator[None]:
    """The package with few prices, which no new release of it changes."""
    set_custom_snapshot(DataSnapshot(providers=PROVIDERS, from_auto_update=False))
    yield
    set_custom_snapshot(None)


def configure(models: str, policies: str = "{}") -> None:
    Path("gateway.yaml").write_text(f"{GATEWAY}{models}policies: {policies}\n")


def sluice(*words: str) -> Result:
    return CliRunner().invoke(app, ["prices", *words], catch_exceptions=False)


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


class TestList:
    MODELS = """\
  one:
    targets: [[{backend: openai, model: four}, {backend: azure, price: {request: 0.5, version: own}}]]
    price:
    - {version: old, input: 1, output: 2}
    - version: new
      from: 2026-03-01
      input: 3
      output: 4.125
      cached_input: 0
      long_context: [{above: 200000, input: 6, output: 8}]
      service_tiers: {flex: {input: 1.5, output: 2, long_context: [{above: 5, input: 2, output: 3}]}}
  bare: {targets: [[{backend: openai}]]}
  free: {targets: [[{backend: openai}]], price: {request: 0, version: none}}
"""

    def test_what_is_in_force_stands_in_a_table(self) -> None:
        configure(self.MODELS)
        for verb in ((), ("list",)):
            result = sluice(*verb, "--at", "2026-03-01")
            assert result.exit_code == 0, result.output
            assert lines(result.stdout) == [
                ["model", "backend", "deployed", "version", "calls", "input", "output", "cached_input", "request"],
                ["one", "openai", "four", "new", "3.00", "4.125", "0.00"],
                ["above", "200,000", "6.00", "8.00"],
                ["flex", "1.50", "2.00"],
                ["flex", "above", "5", "2.00", "3.00"],
                ["one", "azure", "one", "own", "0.50"],
                ["bare", "openai", "bare", "-", "no", "price"],
                ["free", "openai", "free", "none", "free"],
            ]
            assert result.stderr == "USD per million tokens, or each; at 2026-03-01 00:00 UTC\n"

    def test_what_comes_later_is_told_beside_it(self) -> None:
        configure(self.MODELS)
        result = sluice("--at", "2026-02-28T23:59:59Z")
        assert ["one", "openai", "four", "old", "1.00", "2.00"] in lines(result.stdout)
        assert result.stderr.splitlines()[1:] == ["one at openai: new from 2026-03-01"]

    def test_for_scripts(self) -> None:
        configure(self.MODELS)
        facts = json.loads(sluice("--json", "--at", "2026-02-28").stdout)
        assert facts[0] == {
            "model": "one",
            "backend": "openai",
            "deployed": "four",
            "currency": "USD",
            "version": "old",
            "from": None,
            "prices": [{"service_tier": None, "above": 0, "input": "1.00", "output": "2.00"}],
            "later": [{"version": "new", "from": "2026-03-01"}],
        }
        assert (facts[2]["version"], facts[2]["prices"]) == (None, [])
        later = json.loads(sluice("list", "--json", "--at", "2026-03-01T00:00:00+00:00").stdout)[0]
        assert (later["from"], later["later"]) == ("2026-03-01", [])
        flex = {"service_tier": "flex", "above": 5, "input": "2.00", "output": "3.00"}
        assert later["prices"][-1] == flex

    @pytest.mark.parametrize("at", ["tomorrow", "2026-02-30", "2026-03-01T00:00:00", "1999-12-31"])
    def test_a_time_that_is_none_is_refused(self, at: str) -> None:
        configure(self.MODELS)
        assert sluice("--at", at).exit_code == 2

    @pytest.mark.parametrize("option", [("--json",), ("--at", "2026-03-01"), ("--config", "gateway.yaml")])
    def test_an_option_before_the_verb_is_refused_and_not_forgotten(self, option: tuple[str, ...]) -> None:
        configure(self.MODELS)
        assert sluice(*option, "check").exit_code == 2


@pytest.mark.usefixtures("package")
class TestCheck:
    def test_what_is_the_same_is_counted(self) -> None:
        configure(EXACT)
        result = sluice("check")
        assert (result.exit_code, result.stdout) == (0, ""), result.output
        assert result.stderr.startswith("0 differ, 19 are the same; genai-prices ")

    @pytest.mark.parametrize(
        ("written", "instead", "difference"),
        [
            ("input: 2.5\n", "input: 2.4\n", ["input", "2.40", "2.50"]),
            ("      cached_input: 0.25\n", "", ["cached_input", "2.50", "0.25"]),
            ("      hosted_call: 0.01\n", "", ["hosted_call", "-", "0.01"]),
            ("output: 15\n", "output: 15\n      reasoning: 16\n", ["reasoning", "16.00", "15.00"]),
            ("above: 272000, input: 5,", "above: 272000, input: 4,", ["above", "272,000", "input", "4.00", "5.00"]),
            ("priority: {input: 7,", "priority: {input: 8,", ["priority", "input", "8.00", "7.00"]),
            ("batch: {input: 1,", "batch: {input: 0,", ["batch", "input", "0.00", "1.00"]),
        ],
    )
    def test_what_differs_is_told_with_both_amounts(self, written: str, instead: str, difference: list[str]) -> None:
        configure(EXACT.replace(written, instead, 1))
        result = sluice("check")
        assert result.exit_code == 1
        assert ["four", "openai", *difference] in lines(result.stdout)

    def test_long_inputs_that_begin_elsewhere_differ_between(self) -> None:
        configure(EXACT.replace("above: 272000, input: 5", "above: 200000, input: 5", 1))
        assert lines(sluice("check").stdout)[1:] == [["four", "openai", "above", "200,000", "input", "5.00", "2.50"]]

    def test_of_versions_that_in_force_is_compared(self) -> None:
        price = "[{input: 2, output: 4}, {from: 2026-03-01, input: 1, output: 4, cache_write_1h: 2}]"
        configure(f"  changed: {{targets: [[{{backend: openai}}]], price: {price}}}\n")
        for at in ("2026-02-28", "2026-03-01"):
            assert sluice("check", "--at", at).exit_code == 0
        configure("  changed: {targets: [[{backend: openai}]], price: {input: 2, output: 4}}\n")
        assert sluice("check", "--at", "2026-02-28").exit_code == 0
        assert sluice("check").exit_code == 1

    def test_what_has_no_price_differs_in_all(self) -> None:
        configure("  hears: {targets: [[{backend: openai}]]}\n")
        assert lines(sluice("check").stdout)[1:] == [["hears", "openai", "minute", "-", "0.006"]]
        configure("  hears: {targets: [[{backend: openai}]], price: {minute: 0.006}}\n")
        assert sluice("check").exit_code == 0

    def test_a_provider_is_known_by_host_by_name_or_by_dialect(self) -> None:
        price = "price: {input: 1, output: 15}"
        targets = "[[{backend: azure, model: four}, {backend: proxy, model: four}]]"
        mine = f"  mine: {{targets: {targets}, {price}}}\n"
        configure(f"{mine}  four: {{targets: [[{{backend: azure, model: prod-7}}]], {price}}}\n")
        found = json.loads(sluice("check", "--json").stdout)["models"]
        assert [one["listed_as"] for one in found] == ["azure/four", "openai/four", "azure/four"]

    def test_what_it_does_not_know_is_named_and_no_difference(self) -> None:
        price = "price: {input: 1, output: 1}"
        five = f"  five: {{targets: [[{{backend: openai}}]], {price}}}\n"
        configure(f"{five}  four: {{targets: [[{{backend: local}}]], {price}}}\n")
        result = sluice("check")
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr.splitlines()[:2] == [
            "five at openai: the package has no five",
            "four at local: whose backend this is the package cannot tell; `backends.local.provider` can name it",
        ]

    def test_tiers_without_prices_are_named(self) -> None:
        configure(EXACT[: EXACT.index("      service_tiers")])
        result = sluice("check")
        assert result.exit_code == 0
        told = "four at openai: no prices of service tiers are configured for batch, fast, priority"
        assert result.stderr.splitlines()[0] == told

    def test_for_scripts(self) -> None:
        configure(EXACT.replace("priority: {input: 7", "priority: {input: 8"))
        result = sluice("check", "--json", "--at", "2026-11-01")
        report: dict[str, Any] = json.loads(result.stdout)
        assert result.exit_code == 1
        assert (report["package"].split()[0], report["at"]) == ("genai-prices", "2026-11-01T00:00:00+00:00")
        (model,) = report["models"]
        assert model == {
            "model": "four",
            "backend": "openai",
            "deployed": "four-2026",
            "listed_as": "openai/four",
            "version": model["version"],
            "same": 18,
            "differences": [
                {"service_tier": "priority", "above": 0, "price": "input", "configured": "8.00", "listed": "7.00"}
            ],
            "unconfigured_tiers": [],
        }

    def test_other_currencies_are_not_compared(self) -> None:
        configure(EXACT, "{currency: CHF}")
        result = sluice("check")
        assert result.exit_code == 1
        assert result.stderr == "genai-prices has prices in USD, and policies.currency is CHF.\n"


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices.data_snapshot", None)
    configure(EXACT)
    result = sluice("check")
    assert result.exit_code == 1
    assert 'pip install "sluice-gateway[prices]"' in result.stderr


def test_the_package_is_as_we_read_it() -> None:
    """Its own prices: no network, and what one can be sure of for years."""
    assert data_snapshot.get_snapshot().from_auto_update is False
    Path("gateway.yaml").write_text("""\
backends: {openai: {dialect: openai, url: "https://api.openai.com/v1"}}
models:
  gpt-4o: {targets: [[{backend: openai}]]}
  text-embedding-3-small: {targets: [[{backend: openai}]], price: {input: 0.02, output: 0}}
""")
    report = json.loads(sluice("check", "--json", "--at", "2026-11-01").stdout)
    names = {one["model"]: {found["price"] for found in one["differences"]} for one in report["models"]}
    assert {"input", "output", "cached_input"} <= names["gpt-4o"]
    assert names["text-embedding-3-small"] == set()
