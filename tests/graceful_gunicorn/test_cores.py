"""The number of available cores respects the limits of a container."""

import os
from pathlib import Path

import pytest

from graceful_gunicorn import cores
from graceful_gunicorn.cores import available_cores

CORES_OF_THE_MACHINE = 8


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of the control groups. No group has a limit."""
    affinity = set(range(CORES_OF_THE_MACHINE))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: affinity)
    monkeypatch.setattr(cores, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(cores, "OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("9:cpu:/\n0::/system.slice/app.service\n", encoding="utf-8")
    return tmp_path


def set_limit(group: Path, text: str, name: str = "cpu.max") -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / name).write_text(text, encoding="utf-8")


def test_without_a_limit_the_cpu_affinity_decides(groups: Path) -> None:
    assert available_cores() == CORES_OF_THE_MACHINE
    set_limit(groups, "max 100000\n")
    assert available_cores() == CORES_OF_THE_MACHINE


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("200000", 2), ("150000", 2), ("20000", 1), ("9900000", CORES_OF_THE_MACHINE)],
)
def test_a_fraction_of_a_core_counts_as_one(groups: Path, quota: str, expected: int) -> None:
    set_limit(groups, f"{quota} 100000\n")
    assert available_cores() == expected


def test_the_lowest_limit_of_all_parent_groups_decides(groups: Path) -> None:
    set_limit(groups / "system.slice/app.service", "600000 100000\n")
    set_limit(groups / "system.slice", "300000 100000\n")
    assert available_cores() == 3


@pytest.mark.parametrize(("quota", "expected"), [("150000\n", 2), ("-1\n", CORES_OF_THE_MACHINE)])
def test_limits_of_control_groups_version_1_are_read(
    groups: Path, quota: str, expected: int
) -> None:
    set_limit(groups / "cpu", quota, "cpu.cfs_quota_us")
    set_limit(groups / "cpu", "100000\n", "cpu.cfs_period_us")
    assert available_cores() == expected
