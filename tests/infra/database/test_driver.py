"""Statements that are sent with asyncpg itself."""

import pytest

from app.errors import Unavailable
from app.infra.database.driver import fetch
from app.infra.database.engine import open_engine
from app.settings import Settings


async def test_statement_that_takes_too_long_is_503_and_says_so(settings: Settings) -> None:
    impatient = settings.database.model_copy(update={"command_timeout_seconds": 0.1})
    engine = open_engine(impatient, "test")
    with pytest.raises(Unavailable, match="did not answer in time"):
        await fetch(engine, "SELECT pg_sleep(60)")
    await engine.dispose()
