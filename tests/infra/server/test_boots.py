"""A worker that cannot boot is tried again later, and never ends an instance that has started."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.infra.server import boots, load_table
from app.infra.server.boots import Boots
from app.infra.server.load_table import LoadTable, Row
from app.settings import Settings
from tests.infra.server.test_serving import PATIENCE_SECONDS, PROJECT, ask, until, workers_of

BREAKABLE = """
import asyncio
import os
from contextlib import asynccontextmanager, suppress
from pathlib import Path

if Path(__file__).with_name("broken").exists():
    raise ImportError("This was raised on purpose.")
from app.main import app

if Path(__file__).with_name("unstartable").exists():

    @asynccontextmanager
    async def fail_one_after_the_other(app):
        folder = Path(__file__).parent
        (folder / f"{os.getpid()}.worker").touch()
        while len(workers := list(folder.glob("*.worker"))) < 2:
            await asyncio.sleep(0.01)
        first, second = sorted(int(worker.stem) for worker in workers)
        with suppress(ProcessLookupError):
            while os.getpid() == second:  # until the master has noted the end of the first
                os.kill(first, 0)
                await asyncio.sleep(0.01)
        raise RuntimeError("This was raised on purpose.")
        yield

    app.router.lifespan_context = fail_one_after_the_other
"""


@dataclass(eq=False)
class Worker:
    row: Row


@dataclass
class Master:
    """What Gunicorn's master is to `Boots`. Its workers boot when the test says so."""

    table: LoadTable
    num_workers: int = 2
    pid: int = field(default_factory=os.getpid)
    WORKERS: dict[int, Worker] = field(default_factory=dict)
    log: logging.Logger = logging.getLogger("master")  # noqa: RUF009
    refuses: bool = False
    started: int = 0

    def spawn_worker(self) -> None:
        row = self.table.take_row()
        if self.refuses:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.started += 1
        self.WORKERS[self.started] = Worker(row)

    def spawn_workers(self) -> None:
        raise NotImplementedError


class Clock:
    now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        pass


@dataclass
class Instance:
    """An instance, a tick of whose main loop is a second."""

    table: LoadTable
    master: Master
    boots: Boots
    clock: Clock

    def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.now += 1
            if len(self.master.WORKERS) < self.master.num_workers:
                self.boots.spawn_workers()

    def boot_all(self) -> None:
        for worker in self.master.WORKERS.values():
            if not worker.row.booted:
                self.table.note_boot(worker.row)

    def kill(self, number: int) -> None:
        row = self.master.WORKERS.pop(number).row
        self.boots.note_exit(row)
        row.leave()

    def fail_all_boots(self, seconds: int) -> int:
        """Let each boot fail at once, and return how many were tried."""
        before = self.master.started
        for _ in range(seconds):
            self.pass_seconds(1)
            for number, worker in list(self.master.WORKERS.items()):
                if not worker.row.booted:
                    self.kill(number)
        return self.master.started - before


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Instance:
    """Two workers that have served for a while."""
    clock, table = Clock(), LoadTable()
    monkeypatch.setattr(load_table, "time", clock)
    monkeypatch.setattr(boots, "time", clock)
    monkeypatch.setattr(boots, "TABLE", table)
    master = Master(table)
    found = Instance(table, master, Boots(master), clock)
    found.pass_seconds(1)
    found.boot_all()
    found.pass_seconds(60)
    return found


def test_a_settled_worker_that_dies_is_replaced_at_once(instance: Instance) -> None:
    instance.kill(1)
    assert instance.table.failed_boots == 0
    instance.pass_seconds(1)
    assert set(instance.master.WORKERS) == {2, 3}


def test_boots_that_fail_are_tried_again_ever_more_seldom(instance: Instance) -> None:
    instance.kill(1)
    assert instance.fail_all_boots(30) == 6  # after 0, 0, 1, 2, 4 and 8 seconds
    assert instance.fail_all_boots(150) == 10
    assert instance.table.failed_boots == 16
    assert set(instance.master.WORKERS) == {2}


def test_when_the_boot_is_healed_all_workers_come_back_one_by_one(instance: Instance) -> None:
    instance.kill(1)
    instance.kill(2)
    instance.fail_all_boots(30)
    instance.pass_seconds(20)
    assert len(instance.master.WORKERS) == 1
    instance.boot_all()
    instance.pass_seconds(1)
    assert len(instance.master.WORKERS) == 2
    instance.pass_seconds(3)
    assert instance.table.failed_boots == 0


def test_a_worker_that_crashes_at_once_is_replaced_ever_more_seldom(instance: Instance) -> None:
    instance.kill(1)
    before = instance.master.started
    for _ in range(60):
        instance.pass_seconds(1)
        instance.boot_all()
        for number in [*instance.master.WORKERS]:
            if number > 2:
                instance.kill(number)
    assert instance.master.started - before <= 8


def test_a_worker_that_ends_in_order_is_no_failure(instance: Instance) -> None:
    instance.kill(1)
    instance.pass_seconds(1)
    instance.boot_all()
    instance.master.WORKERS[3].row.end()
    instance.kill(3)
    assert instance.table.failed_boots == 0


def test_a_process_that_the_system_refuses_is_tried_again(
    instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    instance.kill(1)
    instance.master.refuses = True
    instance.pass_seconds(2_000)
    assert "The system refused to start a worker" in caplog.text
    assert 0 < instance.table.failed_boots < 200
    instance.master.refuses = False
    instance.pass_seconds(20)
    assert len(instance.master.WORKERS) == 2


def test_before_the_instance_has_started_nothing_is_held_back(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoadTable, "started", False)
    instance.kill(1)
    assert instance.fail_all_boots(3) == 3
    instance.master.refuses = True
    with pytest.raises(BlockingIOError):
        instance.pass_seconds(1)


@pytest.fixture
async def start(
    settings: Settings, tmp_path: Path
) -> AsyncIterator[Callable[[], tuple[subprocess.Popen[bytes], str]]]:
    """Start two workers of the service. Its log is in `log`; a file named `broken` breaks it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "breakable.py").write_text(BREAKABLE, encoding="utf-8")
    environment = {
        "WEB_CONCURRENCY": "2",
        "SERVER_PORT": str(port),
        "SERVER_DRAIN_SECONDS": "0",
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
        "DATABASE_URL": settings.database.url.get_secret_value(),
        "VALKEY_URL": settings.valkey.url.get_secret_value(),
        "PYTHONPATH": str(tmp_path),
    }
    processes = []

    def begin() -> tuple[subprocess.Popen[bytes], str]:
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "app.serve", "breakable:app"],
                cwd=PROJECT,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
            )
        processes.append(process)
        return process, f"http://127.0.0.1:{port}"

    yield begin
    for process in processes:
        process.kill()
        process.wait()


async def until_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.1)


async def test_the_other_worker_goes_on_until_the_boot_is_healed(
    start: Callable[[], tuple[subprocess.Popen[bytes], str]], tmp_path: Path
) -> None:
    process, url = start()
    log = tmp_path / "log"
    await until_true(lambda: log.read_text(encoding="utf-8").count("startup complete") == 2)
    await until(url, "/readyz", 200)
    (tmp_path / "broken").touch()
    victim, other = workers_of(process)
    os.kill(victim, signal.SIGKILL)
    await until_true(
        lambda: (
            "could not boot" in log.read_text(encoding="utf-8")
            and "3 times" in log.read_text(encoding="utf-8")
        )
    )
    assert "This was raised on purpose" in log.read_text(encoding="utf-8")
    assert process.poll() is None
    assert await ask(url, "/v1/posts") == 200
    (tmp_path / "broken").unlink()
    await until_true(lambda: log.read_text(encoding="utf-8").count("startup complete") == 3)
    assert other in workers_of(process)
    assert await ask(url, "/v1/posts") == 200


@pytest.mark.parametrize("failure", ["broken", "unstartable"])
async def test_a_first_start_that_fails_in_every_worker_ends_the_instance_with_the_reason(
    start: Callable[[], tuple[subprocess.Popen[bytes], str]], tmp_path: Path, failure: str
) -> None:
    (tmp_path / failure).touch()
    process, _ = start()
    assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) != 0
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert "This was raised on purpose" in log
    assert "HaltServer" not in log
    assert "Reason: Worker failed to boot." in log.splitlines()[-1]
