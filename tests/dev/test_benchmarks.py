"""The benchmark of the layers runs to the end. Its figures are not judged here."""

from pathlib import Path

import pytest

from benchmarks import layers


def test_benchmark_of_layers_writes_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layers, "REPORT", report := tmp_path / "layers.md")
    monkeypatch.setattr(layers, "ROUNDS", 1)
    monkeypatch.setattr(layers, "REQUESTS", 2)
    layers.main()
    assert "| access log |" in report.read_text(encoding="utf-8")
