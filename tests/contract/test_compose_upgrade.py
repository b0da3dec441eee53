"""What deploy/compose/upgrade.sh decides. Docker is replaced by `fake_docker.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contract.deployment import DEPLOY

SCRIPT = DEPLOY / "compose" / "upgrade.sh"
FAKE = Path(__file__).with_name("fake_docker.py")


class Machine:
    """A machine on which instances of the version `image 1` run."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "state.json"
        self._programs = folder / "bin"
        self._programs.mkdir()
        self._program("docker", f"exec '{sys.executable}' -I -S '{FAKE}' \"$@\"")
        self._program("sleep", "exit 0")
        self._program("flock", "exit 0")
        self.state: dict[str, Any] = {
            "source": "image2",
            "tags": {"service": "image1"},
            "environment": {"REPLICAS": "8"},
            "containers": {},
            "others": [],  # services that run the image too
            "created": 0,
            "broken": [],  # images and services that do not become healthy
            "refused": [],
            "interrupted": [],
            "build_fails": False,
            "migration_fails": False,
            "calls": [],
        }

    def _program(self, name: str, script: str) -> None:
        file = self._programs / name
        file.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        file.chmod(0o755)

    def add(self, number: int, image: str, status: str = "running", service: str = "app") -> None:
        for _ in range(number):
            self.state["created"] += 1
            self.state["containers"][f"{service}-{self.state['created']}"] = {
                "service": service,
                "image": image,
                "status": status,
                "health": "healthy",
                "environment": dict(self.state["environment"]),
            }

    def upgrade(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the script, and read what it has changed."""
        self.state["calls"] = []
        self._file.write_text(json.dumps(self.state), encoding="utf-8")
        path = f"{self._programs}{os.pathsep}{os.environ['PATH']}"
        result = subprocess.run(
            [SCRIPT, *options],
            env={**os.environ, "PATH": path, "FAKE_DOCKER_STATE": str(self._file)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            encoding="utf-8",
        )
        self.state = json.loads(self._file.read_text(encoding="utf-8"))
        return result

    def instances(self, service: str = "app") -> list[str]:
        """Return the image of each instance, also of those that do not run."""
        found = self.state["containers"].values()
        return sorted(it["image"] for it in found if it["service"] == service)

    def called(self, command: str) -> list[int]:
        """Return the positions of a command among all calls of docker."""
        return [place for place, call in enumerate(self.state["calls"]) if call.startswith(command)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_all_instances_are_replaced_and_the_old_ones_stop_last(
    machine: Machine, number: int
) -> None:
    machine.add(number, "image1")
    result = machine.upgrade()
    assert result.returncode == 0, result.stderr
    assert machine.instances() == ["image2"] * number
    [migrated] = machine.called("start --attach")
    [_, started] = machine.called("start")
    [stopped] = machine.called("stop")
    checks = [
        place
        for place in machine.called("inspect")
        if "Health" in machine.state["calls"][place] and place < stopped
    ]
    assert migrated < started < min(checks)
    assert len(checks) == number
    assert machine.state["tags"]["service:previous"] == "image1"
    assert "upgrade.sh --back" in result.stdout


def test_a_second_run_changes_nothing(machine: Machine) -> None:
    machine.add(2, "image1")
    machine.upgrade()
    before = machine.instances()
    result = machine.upgrade()
    assert (result.returncode, machine.instances()) == (0, before)
    assert "Nothing was changed" in result.stdout
    assert not machine.called("stop")
    assert machine.state["tags"] == {"service": "image2", "service:previous": "image1"}


def test_a_changed_setting_is_applied_without_a_new_image(machine: Machine) -> None:
    machine.state["source"] = "image1"
    machine.add(2, "image1")
    machine.state["environment"]["LOG_LEVEL"] = "DEBUG"
    result = machine.upgrade()
    assert result.returncode == 0
    assert "--back" not in result.stdout  # there is no version to return to
    running = machine.state["containers"].values()
    levels = [it["environment"].get("LOG_LEVEL") for it in running if it["service"] == "app"]
    assert levels == ["DEBUG", "DEBUG"]
    assert "service:previous" not in machine.state["tags"]


def test_a_changed_number_of_instances_is_applied(machine: Machine) -> None:
    machine.add(2, "image1")
    machine.state["environment"]["INSTANCES"] = "3"
    assert machine.upgrade().returncode == 0
    assert machine.instances() == ["image2"] * 3


def refused(machine: Machine, *options: str) -> str:
    """Run an upgrade that fails, and check that two old instances serve as before."""
    machine.add(2, "image1")
    result = machine.upgrade(*options)
    assert result.returncode == 1
    assert machine.instances() == ["image1", "image1"]
    assert not machine.called("stop")
    assert machine.state["tags"] == {"service": "image1"}
    return result.stderr


def test_a_new_version_that_does_not_become_healthy_is_removed(machine: Machine) -> None:
    machine.state["broken"] = ["image2"]
    assert "The old ones serve" in refused(machine)


def test_a_migration_that_fails_starts_no_instance(machine: Machine) -> None:
    machine.state["migration_fails"] = True
    assert "The migration failed" in refused(machine)
    assert len(machine.called("start")) == 1


def test_a_build_that_fails_changes_nothing(machine: Machine) -> None:
    machine.state["build_fails"] = True
    assert "nothing has changed" in refused(machine)


def test_too_few_replicas_are_refused_before_the_migration(machine: Machine) -> None:
    machine.state["environment"]["REPLICAS"] = "3"
    assert "Write REPLICAS=4 into .env" in refused(machine)
    assert not machine.called("start")


def test_there_is_no_way_back_before_the_first_upgrade(machine: Machine) -> None:
    assert "There is no version to return to" in refused(machine, "--back")


def test_the_way_back_starts_the_image_before_without_a_migration(machine: Machine) -> None:
    machine.add(2, "image1")
    machine.upgrade()
    assert machine.upgrade("--back").returncode == 0
    assert machine.instances() == ["image1", "image1"]
    assert not machine.called("start --attach")
    assert not machine.called("compose build")
    assert machine.upgrade("--back").returncode == 0
    assert machine.instances() == ["image2", "image2"]


@pytest.mark.parametrize(("old", "new"), [(2, 2), (1, 2), (2, 1)])
def test_an_interrupted_upgrade_is_completed(machine: Machine, old: int, new: int) -> None:
    machine.add(old, "image1")
    machine.add(new, "image2")
    machine.add(1, "image1", "exited")
    machine.add(1, "image2", "created")
    assert machine.upgrade().returncode == 0
    assert machine.instances() == ["image2"] * 2


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        *(("refused", "stop worker"), ("interrupted", "stop worker"), ("refused", "start worker")),
        *(("refused", "stop app"), ("interrupted", "stop app")),
    ],
)
def test_an_interruption_after_the_start_is_made_good_by_a_second_run(
    machine: Machine, kind: str, call: str
) -> None:
    machine.add(2, "image1")
    machine.add(1, "image1", service="worker")
    machine.state["others"] = ["worker"]
    machine.state["tags"]["service:previous"] = "image0"
    machine.state[kind] = [call]
    assert machine.upgrade().returncode == 1
    machine.state[kind] = []
    assert machine.upgrade().returncode == 0
    assert machine.instances() == ["image2", "image2"]
    [worker] = [it for it in machine.state["containers"].values() if it["service"] == "worker"]
    assert (worker["image"], worker["status"]) == ("image2", "running")
    assert machine.state["tags"]["service:previous"] == "image1"


def test_a_worker_that_does_not_become_healthy_is_reported(machine: Machine) -> None:
    machine.add(2, "image1")
    machine.add(1, "image1", service="worker")
    machine.state["others"], machine.state["broken"] = ["worker"], ["worker"]
    result = machine.upgrade()
    assert result.returncode == 1
    assert "docker compose logs worker" in result.stderr
    assert machine.instances() == ["image1"] * 2 + ["image2"] * 2


@pytest.mark.parametrize("status", ["running", "exited", "missing"])
def test_other_services_of_the_same_image_are_replaced_before_the_old_instances_stop(
    machine: Machine, status: str
) -> None:
    machine.add(2, "image1")
    machine.state["others"] = ["worker"]
    machine.add(int(status != "missing"), "image1", status, service="worker")
    machine.add(1, "haproxy", service="balancer")
    assert machine.upgrade().returncode == 0
    assert machine.instances("worker") == ["image2"]
    assert machine.instances("balancer") == ["haproxy"]
    [worker, instances] = machine.called("stop")
    assert "worker" in machine.state["calls"][worker]
    assert "app" in machine.state["calls"][instances]
    assert worker < machine.called("start worker")[0] < instances


def test_everything_is_started_if_nothing_runs(machine: Machine) -> None:
    assert machine.upgrade().returncode == 0
    assert machine.called("compose up --build --wait")
    assert machine.upgrade("--back").returncode == 1


def test_an_unknown_option_is_refused(machine: Machine) -> None:
    assert "Usage: deploy/compose/upgrade.sh [--back]" in refused(machine, "--help")
