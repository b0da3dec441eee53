"""Whether the database has every migration that this code needs."""

import logging
import time
from contextlib import suppress

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.errors import Unavailable
from app.infra.database.schema_version import Revisions, read_revisions
from app.infra.database.sessions import Database

logger = logging.getLogger(__name__)

BEHIND = (
    "The schema of the database is behind this code. Migrate it with: python -m alembic upgrade "
    "head. No restart is needed."
)
REVISION = text("SELECT version_num FROM alembic_version")
UNDEFINED_TABLE = "42P01"
ASK_AGAIN_SECONDS = 1.0
# Longer than a statement can take to fail and this process then takes to ask for the revision.
JUST_MIGRATED_SECONDS = 15.0
NEVER = float("-inf")


class Schema:
    """The schema of one database. `/readyz` and the handler of database errors share it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._revisions: Revisions = read_revisions()
        self._is_behind = False
        self._seen_behind_at = NEVER

    async def is_behind(self) -> bool:
        """Ask the database. Raises `Unavailable` or a database error if that is impossible."""
        revision = await self._read_revision()
        was_behind, self._is_behind = self._is_behind, self._revisions.is_behind(revision)
        if self._is_behind:
            self._seen_behind_at = time.monotonic()
            if not was_behind:
                logger.warning(BEHIND)
        elif was_behind:
            logger.info("The schema of the database is up to date now.")
        return self._is_behind

    async def explains_failure(self) -> bool:
        """Return whether a statement may just have failed because a migration was missing.

        This is also true for some seconds after a migration: it may have been committed after the
        statement failed, and before this process asked for the revision.
        """
        if self._behind_seconds_ago() > ASK_AGAIN_SECONDS:
            with suppress(Unavailable, SQLAlchemyError):  # then the last answer decides
                await self.is_behind()
        return self._behind_seconds_ago() <= JUST_MIGRATED_SECONDS

    def _behind_seconds_ago(self) -> float:
        return time.monotonic() - self._seen_behind_at

    async def _read_revision(self) -> str | None:
        """Return the revision of the database, or None if nothing was ever migrated."""
        try:
            async with self._database.read() as session:
                revision: str | None = await session.scalar(REVISION)
                return revision
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == UNDEFINED_TABLE:
                return None
            raise
