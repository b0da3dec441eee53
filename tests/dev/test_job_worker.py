"""`make run` keeps a job worker running."""

import subprocess
import sys
from pathlib import Path

import pytest

from dev import service
from dev.address import Address
from dev.servers import Servers

SERVERS = Servers("postgresql://a:b@127.0.0.1:1/x", "redis://127.0.0.1:1/0", embedded_database=True)
DYING = """
from pathlib import Path
with Path({path!r}).open("a", encoding="utf-8") as file:
    file.write("started\\n")
import os
assert os.environ["MAIL_LINKS_URL"] == "http://127.0.0.1:8123/mailbox"
"""


def test_worker_that_ends_is_started_again_until_the_service_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = tmp_path / "starts"
    monkeypatch.setattr(service, "WORKER", ("dying",))
    monkeypatch.setattr(service, "ROOT", tmp_path)
    monkeypatch.setattr(service, "_RESTART_SECONDS", 0)
    (tmp_path / "dying.py").write_text(DYING.format(path=str(starts)), encoding="utf-8")
    until_three = (
        "import sys, time, pathlib\n"
        f"path = pathlib.Path({str(starts)!r})\n"
        "for _ in range(1_200):\n"
        "    if path.exists() and path.read_text(encoding='utf-8').count('started') >= 3: break\n"
        "    time.sleep(0.05)\n"
        "else: sys.exit('The worker was not started three times')"
    )
    with subprocess.Popen([sys.executable, "-c", until_three]) as running:
        service.run_job_worker(running, SERVERS, Address("127.0.0.1", 8123), reload=False)
    assert running.returncode == 0
    assert (
        "The job worker ended by itself (exit code 0). It starts again." in capsys.readouterr().out
    )
