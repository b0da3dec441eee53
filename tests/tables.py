"""The tables that tests empty. They come from the metadata: a new feature adds no line here."""

import app.main  # noqa: F401 - imports the models of every feature
from app.infra.database.base import Base
from tests.sample.notes import Note

QUEUE_TABLES = ["pgqueuer", "pgqueuer_log"]
ALL_TABLES = [*Base.metadata.tables, *QUEUE_TABLES]
# A database that was only migrated does not have the table of the tests' own feature.
SERVICE_TABLES = [name for name in ALL_TABLES if name != Note.__tablename__]


def truncate(tables: list[str]) -> str:
    """Return the SQL that empties these tables and restarts their ids."""
    return f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE"
