"""Finds files in the folder that no row names. After a restore, these are the later ones."""

from datetime import timedelta
from pathlib import Path

from anyio.to_thread import run_sync
from sqlalchemy import text

from app.infra.database.sessions import Database
from app.infra.storage.opening import UNFINISHED

KEPT = timedelta(days=7)
BATCH = 1_000
ADOPT = text(
    "INSERT INTO stored_objects (key, check_at) "
    "SELECT key, now() + make_interval(days => :days) FROM unnest(CAST(:keys AS varchar[])) key "
    "WHERE length(key) <= 200 ON CONFLICT (key) DO NOTHING RETURNING id"
)


async def adopt_orphans(database: Database, folder: Path) -> int:
    """Give a row to each file that has none, so that a job deletes it. Return how many had none.

    The service may run meanwhile: it inserts the row of a file before it stores the file.
    """
    keys, found = await run_sync(_keys, folder), 0
    for start in range(0, len(keys), BATCH):
        values = {"days": KEPT.days, "keys": keys[start : start + BATCH]}
        async with database.transaction() as session:
            found += len((await session.scalars(ADOPT, values)).all())
    return found


def _keys(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.match(UNFINISHED))
    return [path.relative_to(folder).as_posix() for path in files]
