"""The same warning, many times, does not fill the log."""

import logging

import pytest
from sqlalchemy import text

from app.errors import Unavailable
from app.infra.database.engine import open_engine
from app.infra.observability import repeat_filter
from app.infra.observability.repeat_filter import RepeatFilter
from app.settings import Settings
from tests.coherent_cache.harness import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(repeat_filter, "time", clock)
    return clock


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    logger = logging.getLogger("test")
    monkeypatch.setattr(logger, "filters", [RepeatFilter()])
    return logger


def test_warning_is_logged_once_in_five_seconds_with_the_number_of_repeats(
    clock: Clock, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(60):  # ten a second
        logger.warning("Refused: %s", number)
        clock.now += 0.1
    assert caplog.messages == [
        "Refused: 0",
        "Refused: 50 (49 lines like this one were left out before it)",
    ]


def test_other_warnings_and_errors_are_logged(
    clock: Clock, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        logger.warning("Refused: %s", "a reason")
        logger.warning("Failed: %s", "a reason")
        logger.error("Broken: %s", "a reason")
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "Refused",
        "Failed",
        "Broken",
        "Broken",
    ]


async def test_unreachable_database_is_not_logged_for_every_connection(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    values = settings.model_dump()["database"] | {"url": "postgresql://a:b@127.0.0.1:1/app"}
    engine = open_engine(settings.database.model_validate(values), "app")
    for _ in range(20):
        with pytest.raises(Unavailable):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
    await engine.dispose()
    # The filter lets one line through in five seconds. A busy machine may take longer for the loop.
    assert len([line for line in caplog.messages if "Cannot connect to the database" in line]) < 10
