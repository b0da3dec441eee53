"""The service as `make run` and `make dev` start it."""

import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from app.infra.server.settings import ServerSettings
from app.settings import Settings
from dev.address import Address, choose_address
from dev.server_process import free_port
from dev.servers import ROOT, Servers
from dev.service import GUNICORN, UVICORN, open_service, wait_until_ready
from dev.terminal import CommandError


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
@pytest.mark.parametrize("module", [GUNICORN, UVICORN], ids=["run", "dev"])
def test_service_listens_on_the_given_address_and_logs_each_request_once(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    module: tuple[str, ...],
    host: str,
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "auto")
    database, valkey = settings.database.url, settings.valkey.url
    servers = Servers(
        database.get_secret_value(), valkey.get_secret_value(), embedded_database=True
    )
    address = Address(host, free_port())
    log = tmp_path / "log"
    with log.open("wb") as output, open_service(module, servers, address, output=output) as process:
        wait_until_ready(process, address, 60)
        with urllib.request.urlopen(f"{address.url}/openapi.json") as response:
            assert response.status == 200
    assert log.read_text(encoding="utf-8").count("/openapi.json") == 1


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("::", "http://[::1]:80"),
    ],
)
def test_url_can_be_opened_in_a_browser(host: str, url: str) -> None:
    assert Address(host, 80).url == url


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_port_in_use_is_not_chosen(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        assert choose_address(ServerSettings(host=host, port=port)).port != port


def test_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CommandError, match="set SERVER_HOST or SERVER_PORT"):
        choose_address(ServerSettings(host="203.0.113.1"))


@pytest.mark.parametrize("command", ["run", "dev"])
@pytest.mark.parametrize(
    ("name", "value"), [("WEB_CONCURRENCY", "2.5"), ("DATABASE_URL", "postgresql://a:p@ss@h/d")]
)
def test_wrong_settings_are_reported_before_anything_starts(
    command: str, name: str, value: str
) -> None:
    started = subprocess.run(
        [sys.executable, "-m", "dev", command],
        cwd=ROOT,
        env=os.environ | {name: value},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert started.returncode == 1
    assert started.stderr.startswith("The service cannot start with these settings.")
    assert name in started.stderr
    assert "Traceback" not in started.stderr
    assert started.stdout == ""
