"""The connections of an engine."""

import asyncio
from typing import Any

import asyncpg
import pytest
from pydantic import ValidationError
from sqlalchemy import text

from app.errors import Unavailable
from app.infra.database.engine import open_engine
from app.infra.database.sessions import Database
from app.infra.database.settings import DatabaseSettings
from app.settings import Settings
from tests.coherent_cache.worker import Proxy


async def test_connection_to_a_silent_server_is_closed_without_waiting_for_the_server(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = settings.database.url.get_secret_value()
    proxy = Proxy(url)
    values = {**settings.database.model_dump(), "url": proxy.url, "command_timeout_seconds": 0.3}
    await proxy.start()
    database = Database(open_engine(type(settings.database).model_validate(values), "test"))
    asked: list[str] = []
    close = asyncpg.Connection.close

    async def note(connection: Any, **options: Any) -> None:
        asked.extend([] if connection.is_closed() else ["to end the session"])
        await close(connection, **options)

    monkeypatch.setattr(asyncpg.Connection, "close", note)
    async with database.read() as session:
        await session.execute(text("SELECT 1"))
        proxy.go_silent()
        with pytest.raises(Unavailable, match="did not answer in time"):
            await session.execute(text("SELECT 2"))
    assert asked == []
    await database.close()
    proxy.stop()
    await asyncio.sleep(0.01)  # until its sockets are closed


@pytest.mark.parametrize("name", ["url", "replica_url"])
def test_url_of_another_database_is_refused_before_anything_connects(name: str) -> None:
    with pytest.raises(ValidationError, match="not for PostgreSQL"):
        DatabaseSettings.model_validate({name: "mysql://a:b@127.0.0.1/x"})
