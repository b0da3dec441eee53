"""The benchmark of the dashboard runs to the end. Its figures are not judged here."""

from pathlib import Path

import pytest

from benchmarks import dashboard


def test_benchmark_of_the_dashboard_writes_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "REPORT", report := tmp_path / "dashboard.md")
    monkeypatch.setattr(dashboard, "ROUNDS", 1)
    monkeypatch.setattr(dashboard, "POSTS", 10)
    dashboard.main()
    assert "| the dashboard, as a share of the sum |" in report.read_text(encoding="utf-8")
