"""List the jobs in the queue: `python -m app.jobs`. Also `retry ID…` and `discard ID…`.

`all` instead of ids means all jobs that are held.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unavailable
from app.infra.database.connection_budget import JOBS_APPLICATION_NAME
from app.infra.database.engine import open_engine
from app.infra.database.sessions import Database
from app.infra.jobs.inspection import (
    count_jobs,
    discard_jobs,
    held_ids,
    list_jobs,
    retry_jobs,
)
from app.settings import load_settings

SHOWN = 20
ALL = "all"

Change = Callable[[AsyncSession, Sequence[int]], Awaitable[set[int]]]
CHANGES: dict[str, tuple[Change, str]] = {
    "retry": (retry_jobs, "runs again"),
    "discard": (discard_jobs, "is discarded"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.jobs", description=__doc__)
    parser.add_argument("action", nargs="?", choices=("list", *CHANGES), default="list")
    parser.add_argument("ids", nargs="*", type=_job_id, metavar="ID")
    arguments = parser.parse_args()
    if (arguments.action == "list") == bool(arguments.ids):
        parser.error("`retry` and `discard` need the ids of jobs, or `all`; `list` takes none")
    try:
        complaint = asyncio.run(_run(arguments.action, arguments.ids))
    except Unavailable as error:
        raise SystemExit(f"{error} Check DATABASE_URL, then try again.") from None
    except IntegrityError:
        raise SystemExit(
            "One of these jobs cannot run again, because a job with the same unique key waits or "
            "runs. Discard it instead. Nothing was changed."
        ) from None
    except DBAPIError as error:
        raise SystemExit(
            f"The queue could not be read ({type(error.orig).__name__}). If its tables are "
            "missing, migrate the database with: alembic upgrade head"
        ) from None
    if complaint:
        raise SystemExit(complaint)


def _job_id(text: str) -> int | str:
    if text == ALL:
        return text
    if text.isdecimal() and int(text) < 2**63:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither the id of a job nor `all`")


async def _run(action: str, ids: list[int | str]) -> str | None:
    """Return what could not be done."""
    one = load_settings().database.model_copy(update={"pool_size": 1})
    database = Database(open_engine(one, JOBS_APPLICATION_NAME))
    try:
        async with database.transaction() as session:
            if action != "list":
                return await _change(session, action, ids)
            await _print_jobs(session)
            return None
    finally:
        await database.close()


async def _print_jobs(session: AsyncSession) -> None:
    for state, number in (await count_jobs(session)).items():
        print(f"{state.name.lower()}: {number}")
        for job in await list_jobs(session, state, SHOWN):
            error = f", last error: {job.error}" if job.error else ""
            print(
                f"  {job.id:>8}  {job.name:<32} {_age(job.seconds):>12}  "
                f"deliveries: {job.deliveries}{error}"
            )
        if number > SHOWN:
            print(f"  … and {number - SHOWN} more")


async def _change(session: AsyncSession, action: str, ids: list[int | str]) -> str | None:
    change, done = CHANGES[action]
    wanted = [one for one in ids if isinstance(one, int)]
    if ALL in ids:
        wanted += await held_ids(session)
    changed = await change(session, wanted)
    for one in sorted(changed):
        print(f"Job {one} {done}.")
    if not wanted:
        return "No job is held."
    if missing := sorted(set(wanted) - changed):
        numbers = ", ".join(map(str, missing))
        return f"Not in the queue, or running now: {numbers}. `python -m app.jobs` lists all jobs."
    return None


def _age(seconds: float) -> str:
    if seconds < 0:
        return f"in {-seconds:.0f} s"
    return f"{seconds:.0f} s ago"


if __name__ == "__main__":
    main()
