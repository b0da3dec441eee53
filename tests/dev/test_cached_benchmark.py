"""The benchmark of cached responses runs to the end. Its figures are not judged here."""

import shutil
from pathlib import Path

import pytest

from benchmarks import cached


@pytest.mark.skipif(shutil.which("wrk") is None, reason="the benchmark needs wrk")
def test_benchmark_of_cached_responses_writes_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cached, "REPORT", report := tmp_path / "cached.md")
    for name in ("ROUNDS", "SECONDS", "FILL_SECONDS"):
        monkeypatch.setattr(cached, name, 1)
    monkeypatch.setattr(cached, "DEMO_SIZE", 1_000)
    monkeypatch.setattr(cached, "CASES", cached.CASES[:1])
    cached.main()
    assert "| raw ASGI |" in report.read_text(encoding="utf-8")
