"""Let a job delete files that no row names, as after a restore: `python -m app.delete_orphans`.

They stay for a week, in which the database that names them can be put back.
"""

import asyncio
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from app.errors import Unavailable
from app.infra.database.connection_budget import APPLICATION_NAME
from app.infra.lifespan import open_resources
from app.infra.storage.orphans import KEPT, adopt_orphans
from app.settings import load_settings


def main() -> None:
    folder = load_settings().storage.folder_in_use
    if folder is None:
        raise SystemExit(
            "Files are not kept in a folder, so none are looked for. In a bucket, this command "
            "could not tell them from the files of others."
        )
    try:
        found = asyncio.run(_run(folder))
    except (OSError, Unavailable, DBAPIError) as error:
        reason = type(error.orig).__name__ if isinstance(error, DBAPIError) else str(error)
        raise SystemExit(f"Files without a row could not be looked for: {reason}") from None
    print(f"Files without a row: {found}. A job deletes them in {KEPT.days} days.")  # noqa: T201


async def _run(folder: Path) -> int:
    async with open_resources(load_settings().sections(), APPLICATION_NAME) as resources:
        return await adopt_orphans(resources.database, folder)


if __name__ == "__main__":
    main()
