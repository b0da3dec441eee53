"""Benchmarks run to the end. Their figures are not judged here."""

from pathlib import Path

import pytest

from benchmarks import dashboard, layers


def test_benchmark_of_layers_writes_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layers, "REPORT", report := tmp_path / "layers.md")
    monkeypatch.setattr(layers, "ROUNDS", 1)
    monkeypatch.setattr(layers, "REQUESTS", 2)
    layers.main()
    assert "| access log |" in report.read_text(encoding="utf-8")


def test_benchmark_of_the_dashboard_writes_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "REPORT", report := tmp_path / "dashboard.md")
    monkeypatch.setattr(dashboard, "ROUNDS", 1)
    monkeypatch.setattr(dashboard, "POSTS", 10)
    dashboard.main()
    assert "| the dashboard, as a share of the sum |" in report.read_text(encoding="utf-8")
