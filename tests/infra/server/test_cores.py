"""A container's limit is the number of its cores."""

import os
from pathlib import Path

import pytest

from app.infra.server import cores
from app.infra.server.cores import available_cores

THERE_ARE = 8


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups without a limit, on a machine with some cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(THERE_ARE)))
    monkeypatch.setattr(cores, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(cores, "OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("9:cpu:/\n0::/system.slice/app.service\n", encoding="utf-8")
    return tmp_path


def limit(group: Path, text: str, name: str = "cpu.max") -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / name).write_text(text, encoding="utf-8")


def test_without_a_limit_the_affinity_counts(groups: Path) -> None:
    assert available_cores() == THERE_ARE
    limit(groups, "max 100000\n")
    assert available_cores() == THERE_ARE


@pytest.mark.parametrize(
    ("quota", "found"), [("200000", 2), ("150000", 2), ("20000", 1), ("9900000", THERE_ARE)]
)
def test_a_part_of_a_core_counts_as_one(groups: Path, quota: str, found: int) -> None:
    limit(groups, f"{quota} 100000\n")
    assert available_cores() == found


def test_the_narrowest_group_above_this_process_counts(groups: Path) -> None:
    limit(groups / "system.slice/app.service", "600000 100000\n")
    limit(groups / "system.slice", "300000 100000\n")
    assert available_cores() == 3


@pytest.mark.parametrize(("quota", "found"), [("150000\n", 2), ("-1\n", THERE_ARE)])
def test_the_first_version_of_control_groups(groups: Path, quota: str, found: int) -> None:
    limit(groups / "cpu", quota, "cpu.cfs_quota_us")
    limit(groups / "cpu", "100000\n", "cpu.cfs_period_us")
    assert available_cores() == found
