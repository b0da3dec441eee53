"""The tables that tests empty. They come from the metadata: a new feature adds no line here."""

import app.main  # noqa: F401 - imports the models of every feature
from app.infra.database.base import Base
from tests.sample.notes import Note

QUEUE_TABLES = ["pgqueuer", "pgqueuer_log"]
# Children come first, so that their rows are deleted before those they refer to.
ALL_TABLES = [*(table.name for table in reversed(Base.metadata.sorted_tables)), *QUEUE_TABLES]
# A database that was only migrated does not have the table of the tests' own feature.
SERVICE_TABLES = [name for name in ALL_TABLES if name != Note.__tablename__]


def truncate(tables: list[str]) -> str:
    """Return the SQL that empties these tables and restarts their ids."""
    return f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE"


def delete_rows(tables: list[str]) -> str:
    """Return the SQL that empties these tables and restarts all ids of the database.

    It is many times faster than TRUNCATE, which makes new files for each table and index. But it
    frees no space, so that tables which have grown beyond a megabyte are truncated.
    """
    names = ", ".join(f"'{name}'::regclass" for name in tables)
    return f"""
DO $$ BEGIN
    IF (SELECT max(pg_relation_size(name)) FROM unnest(ARRAY[{names}]) AS name) > 1000000 THEN
        {truncate(tables)};
    ELSE
        {"".join(f"DELETE FROM {name}; " for name in tables)}
        PERFORM setval(format('%I.%I', schemaname, sequencename), start_value, false)
        FROM pg_sequences WHERE last_value IS NOT NULL;
    END IF;
END $$"""
