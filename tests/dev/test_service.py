"""The service as the developer's commands start it."""

import urllib.request
from pathlib import Path

import pytest

from app.settings import Settings
from dev.address import Address
from dev.backing import Backing
from dev.server_process import free_port
from dev.service import GUNICORN, UVICORN, open_service, wait_until_ready


@pytest.mark.parametrize("module", [GUNICORN, UVICORN], ids=["run", "dev"])
def test_the_service_listens_where_it_was_told_and_logs_a_request_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: tuple[str, ...]
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "1")
    database, valkey = settings.database.url, settings.valkey.url
    backing = Backing(
        database.get_secret_value(), valkey.get_secret_value(), embedded_database=True
    )
    address = Address("127.0.0.1", free_port())
    log = tmp_path / "log"
    with log.open("wb") as output, open_service(module, backing, address, output=output) as process:
        wait_until_ready(process, address, 60)
        with urllib.request.urlopen(f"{address.url}/v1/posts") as response:
            assert response.status == 200
    assert log.read_text(encoding="utf-8").count("/v1/posts") == 1
