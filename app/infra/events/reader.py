"""Reads the events of a topic from the database."""

import logging
import random
import time

from sqlalchemy.exc import SQLAlchemyError

from app.errors import AppError
from app.infra.database.error_mapping import describe
from app.infra.database.sessions import Database
from app.infra.events.topic import PAGE, Frame, Topic, frames_of
from app.infra.observability.repeat_filter import RepeatFilter

logger = logging.getLogger(__name__)
logger.addFilter(RepeatFilter())  # while the database is down, every read fails

DATABASE_ERRORS = (AppError, SQLAlchemyError)
MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.3, 1.0  # after a read that failed


class Reader:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, topic: Topic, after: int, most: int = PAGE) -> list[Frame]:
        """Return the next events, `most` of them. They are as old as the beginning of the read."""
        read_at = time.monotonic()
        async with self._database.read() as session:
            events = await topic.feed.read(session, topic.key, after, most)
        return frames_of(topic.feed, events, read_at)


def pause_after(error: Exception) -> float:
    """Log that a read failed, and return for how many seconds to wait."""
    reason = describe(error) if isinstance(error, SQLAlchemyError) else str(error)
    logger.warning("Events could not be read, which is tried again: %s", reason)
    return random.uniform(MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS)  # noqa: S311 - jitter
