"""The service as the developer's commands start it."""

import urllib.request

import pytest

from app.settings import Settings
from dev.address import Address
from dev.backing import Backing
from dev.server_process import free_port
from dev.service import GUNICORN, UVICORN, open_service, wait_until_ready


@pytest.mark.parametrize("module", [GUNICORN, UVICORN], ids=["run", "dev"])
def test_the_service_listens_where_it_was_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, module: tuple[str, ...]
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "1")
    database, valkey = settings.database.url, settings.valkey.url
    backing = Backing(
        database.get_secret_value(), valkey.get_secret_value(), embedded_database=True
    )
    address = Address("127.0.0.1", free_port())
    with open_service(module, backing, address) as process:
        wait_until_ready(process, address, 60)
        with urllib.request.urlopen(f"{address.url}/livez") as response:
            assert response.status == 200
