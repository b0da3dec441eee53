"""Lists the jobs in the queue, and retries or discards them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.infra.jobs.registry import all_jobs


class State(StrEnum):
    """The states, as people call them, with pgqueuer's names for them."""

    HELD = "failed"
    RUNNING = "picked"
    WAITING = "queued"


@dataclass(frozen=True, slots=True)
class ListedJob:
    """A job without its arguments. `seconds` is the time since it was held, taken, or was due."""

    id: int
    name: str
    deliveries: int
    seconds: float
    error: str | None


COUNT = text("SELECT status::text, count(*) AS number FROM pgqueuer GROUP BY status")
LIST = text(
    "SELECT id, entrypoint, attempts, extract(epoch FROM now() - CASE status "
    "WHEN 'failed' THEN updated WHEN 'picked' THEN updated ELSE execute_after END)::float, "
    "headers->>'error' FROM pgqueuer WHERE status = CAST(:status AS pgqueuer_status) "
    "ORDER BY id LIMIT :most"
)
# Also a job that waits for its next delivery runs at once.
RETRY = text(
    "UPDATE pgqueuer SET status = 'queued', attempts = 0, priority = 0, execute_after = now(), "
    "updated = now(), headers = headers - 'failed' - 'error' "
    "WHERE id = ANY(:ids) AND status IN ('failed', 'queued') RETURNING id"
)
DISCARD = text(
    "DELETE FROM pgqueuer WHERE id = ANY(:ids) AND status IN ('failed', 'queued') RETURNING id"
)
# Also a job that runs: its worker then finds that it is gone, and rolls back.
DISCARD_OF_ACCOUNT = text(
    "DELETE FROM pgqueuer WHERE entrypoint = ANY(:names) AND ("
    "convert_from(payload, 'UTF8')::jsonb->>'user_id' = CAST(:user_id AS text) "
    "OR convert_from(payload, 'UTF8')::jsonb->>'user_id' IS NULL "
    "AND lower(convert_from(payload, 'UTF8')::jsonb->>'email') = lower(:email))"
)
LIVE = text(
    "SELECT dedupe_key FROM pgqueuer WHERE dedupe_key = ANY(:keys) "
    "AND status IN ('queued', 'picked')"
)
ACCOUNT_ARGUMENTS = {"user_id", "email"}
HELD_IDS = text("SELECT id FROM pgqueuer WHERE status = 'failed'")


async def count_jobs(session: AsyncSession) -> dict[State, int]:
    rows = (await session.execute(COUNT)).all()
    counted: dict[str, int] = {row.status: row.number for row in rows}
    return {state: counted.get(state.value, 0) for state in State}


async def list_jobs(session: AsyncSession, state: State, most: int) -> list[ListedJob]:
    """Return the oldest jobs in this state."""
    rows = await session.execute(LIST, {"status": state.value, "most": most})
    return [ListedJob(*row) for row in rows]


async def held_ids(session: AsyncSession) -> list[int]:
    return list(await session.scalars(HELD_IDS))


async def retry_jobs(session: AsyncSession, ids: Sequence[int]) -> set[int]:
    """Let jobs that are held or wait run now. Return the ids of these."""
    return set(await session.scalars(RETRY, {"ids": ids}))


async def discard_jobs(session: AsyncSession, ids: Sequence[int]) -> set[int]:
    """Delete jobs that are held or wait. Return the ids of these."""
    return set(await session.scalars(DISCARD, {"ids": ids}))


async def discard_jobs_of_account(session: AsyncSession, user_id: int, email: str) -> None:
    """Delete all jobs whose argument `user_id` is the account, or else whose `email` is its own.

    A job with the `user_id` of another account belongs to that one, whatever its `email` is. An
    address may have been that of another account before.
    """
    names = [job.name for job in all_jobs() if job.arguments.names & ACCOUNT_ARGUMENTS]
    parameters = {"names": names, "user_id": str(user_id), "email": email}
    await session.execute(DISCARD_OF_ACCOUNT, parameters)


async def find_live(session: AsyncSession, name: str, values: Iterable[int]) -> set[int]:
    """Return which of these `unique` values of a job wait or run. Those that are held do not."""
    keys = {f"{name}:{value}": value for value in values}
    live = await session.scalars(LIVE, {"keys": list(keys)})
    return {keys[key] for key in live}
