"""What backup.sh and restore.sh of Compose do when a step fails. Docker is replaced by a script."""

import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.contract.deployment import DEPLOY, compose, service, text

# Writes down each call, prints an instance for `ps` if $RUNNING is set, and fails for calls that
# contain $FAILING.
FAKE_DOCKER = """#!/bin/sh
echo "$*" >>"$CALLS"
[ ! -e "$CALLS.down" ] || case "$*" in *psql*) exit 1 ;; esac
case "$*" in
*"ps --quiet app"*) [ -z "$RUNNING" ] || echo instance ;;
*pg_dump*) echo content ;;
*"tar --create"*) tar --create --files-from /dev/null ;;
*"--dbname postgres")
    echo "$(cat)" >>"$CALLS"
    case "$FAILING" in
    "the change") exit 1 ;;
    "the database") touch "$CALLS.down" && exit 1 ;;
    esac
    ;;
esac
case "$*" in *"$FAILING"*) exit 1 ;; esac
"""


class Machine:
    def __init__(self, folder: Path) -> None:
        self.backups = folder / "backups"
        self._calls = folder / "calls"
        self._programs = folder / "bin"
        self._programs.mkdir()
        self.running = True
        self.said = ""
        self.program("docker", FAKE_DOCKER)
        self.program("flock", "#!/bin/sh\nexit 0\n")

    def program(self, name: str, script: str) -> None:
        file = self._programs / name
        file.write_text(script, encoding="utf-8")
        file.chmod(0o755)

    def run(self, script: str, path: Path, *, failing: str = "nothing") -> int:
        """Run a script, and return its exit status."""
        self._calls.write_text("", encoding="utf-8")
        environment = {
            **os.environ,
            "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}",
            "CALLS": str(self._calls),
            "FAILING": failing,
            "RUNNING": "yes" if self.running else "",
        }
        result = subprocess.run(
            [DEPLOY / "compose" / script, path],
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
            encoding="utf-8",
        )
        self.said = result.stdout + result.stderr
        return result.returncode

    def calls(self) -> list[str]:
        return self._calls.read_text(encoding="utf-8").splitlines()

    def place(self, part: str) -> int:
        """Return the position of the only call that contains this, or -1 if there is none."""
        found = [place for place, call in enumerate(self.calls()) if part in call]
        assert len(found) <= 1, found
        return found[0] if found else -1


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    file = tmp_path / "of-yesterday.dump"
    file.write_text("content", encoding="utf-8")
    return file


def test_a_backup_is_complete_and_only_its_owner_may_read_it(machine: Machine) -> None:
    assert machine.run("backup.sh", machine.backups) == 0
    file, objects = sorted(machine.backups.iterdir())
    assert file.suffix == ".dump"
    assert file.read_text(encoding="utf-8") == "content\n"
    assert objects.name == f"{file.stem}.objects.tar"
    assert tarfile.is_tarfile(objects)
    assert (file.stat().st_mode | objects.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize("failing", ["pg_dump", "pg_restore", "tar --create"])
def test_a_backup_that_fails_leaves_no_file(machine: Machine, failing: str) -> None:
    assert machine.run("backup.sh", machine.backups, failing=failing) == 1
    assert list(machine.backups.iterdir()) == []


def test_a_restore_changes_the_databases_while_no_instance_runs(
    machine: Machine, backup: Path
) -> None:
    assert machine.run("restore.sh", backup) == 0
    order = [
        *("CREATE DATABASE app_restored", "pg_restore", "alembic upgrade head"),
        *(
            "compose stop app worker",
            "RENAME TO app;",
            "flush_cache",
            "--no-recreate --scale app=1",
        ),
    ]
    places = [machine.place(part) for part in order]
    assert -1 not in places
    assert places == sorted(places)


@pytest.mark.parametrize("failing", ["pg_restore", "alembic"])
def test_a_backup_that_cannot_be_loaded_does_not_stop_the_service(
    machine: Machine, backup: Path, failing: str
) -> None:
    assert machine.run("restore.sh", backup, failing=failing) == 1
    assert machine.place("compose stop app") == -1
    assert machine.place("RENAME TO app;") == -1


def test_files_are_added_while_no_instance_and_no_worker_runs(
    machine: Machine, backup: Path
) -> None:
    """A running worker deletes files that no row of its database names."""
    assert machine.run("restore.sh", backup) == 0
    assert machine.place("tar --extract") == -1
    assert "no files are added" in machine.said
    backup.with_suffix(".objects.tar").write_bytes(b"")
    assert machine.run("restore.sh", backup) == 0
    added = machine.place("tar --extract --skip-old-files --directory /var/lib/objects")
    assert machine.place("compose stop app worker") < added < machine.place("RENAME TO app;")


def test_the_service_starts_again_if_the_files_cannot_be_added(
    machine: Machine, backup: Path
) -> None:
    backup.with_suffix(".objects.tar").write_bytes(b"")
    assert machine.run("restore.sh", backup, failing="tar --extract") == 1
    assert -1 < machine.place("tar --extract") < machine.place("compose start app worker")
    assert machine.place("RENAME TO app;") == -1


@pytest.mark.parametrize("failing", ["nothing", "delete_orphans"])
def test_files_of_the_replaced_data_are_looked_for_at_the_end(
    machine: Machine, backup: Path, failing: str
) -> None:
    assert machine.run("restore.sh", backup, failing=failing) == 0
    assert machine.place("--scale app=1") < machine.place("app python -m app.delete_orphans")
    assert ("To look for them again" in machine.said) == (failing != "nothing")
    assert "are served" in machine.said


def test_the_service_starts_again_if_the_databases_cannot_change_places(
    machine: Machine, backup: Path
) -> None:
    assert machine.run("restore.sh", backup, failing="the change") == 1
    assert -1 < machine.place("compose stop app worker") < machine.place("compose start app worker")
    assert machine.place("flush_cache") == -1


def test_the_service_starts_again_if_the_database_fails_during_the_change(
    machine: Machine, backup: Path
) -> None:
    assert machine.run("restore.sh", backup, failing="the database") == 1
    assert machine.place("compose start app worker") > -1


def test_a_restore_says_how_to_start_the_service_if_it_cannot(
    machine: Machine, backup: Path
) -> None:
    assert machine.run("restore.sh", backup, failing="flush_cache") == 1
    assert machine.place("RENAME TO app;") > -1
    assert "app python -m app.flush_cache && docker compose up --wait" in machine.said


def test_a_restore_does_not_need_a_service_that_starts_with_the_present_data(
    machine: Machine, backup: Path
) -> None:
    machine.running = False
    assert machine.run("restore.sh", backup) == 0
    started = machine.place("--no-recreate database valkey")
    changed = machine.place("RENAME TO app;")
    assert machine.place("compose build app") < started < changed
    assert machine.calls().index("compose up --wait") > changed


def test_a_restore_is_refused_while_another_one_runs(machine: Machine, backup: Path) -> None:
    machine.program("flock", "#!/bin/sh\nexit 1\n")
    assert machine.run("restore.sh", backup) == 1
    assert "Another upgrade or restore is running" in machine.said
    assert machine.place("compose") == -1


@pytest.mark.parametrize("parameters", ["", "?sslmode=disable&application_name=/app"])
def test_the_copy_is_migrated_and_not_the_present_database(parameters: str) -> None:
    """The command that finds its address is taken from the script."""
    [command] = re.findall(r"sed -n \"([^\"]+)\"", text("deploy/compose/restore.sh"))
    url = "postgresql://migrations:secret@database:5432/app"
    script = f'sed -n "{command}"'
    found = subprocess.run(
        ["sh", "-c", script],
        input=url + parameters,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    ).stdout
    assert found == f"{url}_restored{parameters}"


def test_a_file_that_does_not_exist_is_refused(machine: Machine, tmp_path: Path) -> None:
    assert machine.run("restore.sh", tmp_path / "nothing.dump") == 1
    assert machine.place("compose") == -1


def test_a_restore_stops_every_service_that_uses_the_database() -> None:
    [stopped] = re.findall(
        r"^docker compose stop (.+)$", text("deploy/compose/restore.sh"), re.MULTILINE
    )
    using = {
        name
        for name, values in compose()["services"].items()
        if values["image"] == service("app")["image"] and values.get("restart")
    }
    assert set(stopped.split()) == using
