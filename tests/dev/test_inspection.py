"""`make connections` and `make memory`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from app.settings import Settings
from dev import inspection
from dev.inspection import show_connections, show_memory
from dev.terminal import CommandError

# A master with two workers, one of which has a process pool. Each is named as the service is.
TREE = """
import subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
pool = f"import os, subprocess; child = subprocess.Popen({sleep}); print(os.getpid(), flush=True)"
first = subprocess.Popen([*sleep, "app.serve"])
second = subprocess.Popen([sys.executable, "-c", f"{pool}; child.wait()", "app.serve"])
print(first.pid, flush=True)
first.wait()
"""


@pytest.mark.parametrize(("port", "name"), [(1, None), (None, "nobody-of-that-name")])
async def test_a_database_that_refuses_the_connection_is_reported_without_the_password(
    settings: Settings, port: int | None, name: str | None
) -> None:
    url = make_url(settings.database.url.get_secret_value())
    wrong = url.set(username=name or url.username, password="hunter2", port=port or url.port)
    with pytest.raises(
        CommandError, match=r"Cannot connect to the database .* Correct DATABASE_URL"
    ) as refused:
        await show_connections(wrong.render_as_string(hide_password=False))
    assert "hunter2" not in str(refused.value)


def test_memory_of_each_worker_is_shown_whatever_a_worker_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inspection, "ROOT", tmp_path)
    command = [sys.executable, "-c", TREE, "app.serve"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, encoding="utf-8", process_group=0
    ) as master:
        try:
            assert master.stdout is not None
            workers = {master.stdout.readline().strip() for _ in range(2)}
            show_memory()
        finally:
            os.killpg(master.pid, signal.SIGKILL)
    shown = capsys.readouterr().out
    assert {line.split()[1].rstrip(":") for line in shown.splitlines()[:-1]} == workers
