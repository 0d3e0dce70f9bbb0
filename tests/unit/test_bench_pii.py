"""What the benchmark of finding says."""

import json

import pytest

from extproc.redaction.detector import Detector
from loadtest import bench_pii
from loadtest.bench_pii import HOSTILE, Hostile, Row


def test_the_exponent_tells_linear_from_quadratic() -> None:
    sizes = (1_000, 10_000, 100_000, 1_000_000)
    assert Hostile("x", {size: size * 1e-8 + 1e-6 for size in sizes}).exponent == pytest.approx(1, abs=0.02)
    quadratic = Hostile("x", {size: size**2 * 1e-12 for size in sizes})
    assert quadratic.exponent == pytest.approx(2)
    assert quadratic.missed() == "x: exponent 2.00, target 1.2"


def test_targets() -> None:
    linear = {size: size * 1e-6 for size in (10_000, 100_000)}
    assert Hostile("x", linear).missed() == ""
    assert Hostile("x", linear, bound=0.05).missed() == "x: 100 ms for 100 kB, target 50 ms"
    assert Row("clean", 10, 2e-4, bound=1e-4).missed() == "clean: 0.200 ms, target 0.1 ms"
    assert Row("clean", 10, 5e-5, bound=1e-4).missed() == ""
    slow = Row("mixed", 10, 1e-3, same=1e-3, presidio=10e-3, ratio_bound=20)
    assert slow.missed() == "mixed: 10 times as fast as Presidio, target 20"
    assert Row("mixed", 10, 1e-3, ratio_bound=20).missed() == "", "Presidio may be missing"


def test_texts_have_their_size_and_what_they_are_for() -> None:
    detector = Detector()
    assert len(bench_pii.prose(10_000)) == 10_000
    assert detector.findings(bench_pii.prose(100_000)) == []
    assert len(detector.findings(bench_pii.mixed())) == 60
    assert all(len(make(1_000)) == 1_000 for make, _ in HOSTILE.values())


def test_the_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_pii, "rows", lambda _: [Row("clean, 10 kB", 10_000, 3e-5, 4e-3, 5e-5, 2.6e-2, 150, 1e-4)])
    monkeypatch.setattr(bench_pii, "hostile", lambda *_: [Hostile("((((", {10_000: 1e-5, 100_000: 1e-4})])
    monkeypatch.setattr(bench_pii, "Finders", type("Finders", (), {"default": None}))
    assert bench_pii.main([]) == 0
    assert "| clean, 10 kB | 0.030 ms | 4.000 ms | 0.050 ms | 26.000 ms | 520 |" in capsys.readouterr().out
    assert bench_pii.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hostile"][0]["exponent"] == pytest.approx(1)
    monkeypatch.setattr(bench_pii, "rows", lambda _: [Row("clean", 10_000, 1.0, bound=1e-4)])
    assert bench_pii.main([]) == 1
    assert "clean: 1000.000 ms, target 0.1 ms" in capsys.readouterr().err
