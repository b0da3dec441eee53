"""A route that runs once for each Idempotency-Key, slowly, or until its process is killed."""

import asyncio
import os
import signal
from typing import Annotated

from fastapi import APIRouter, Header
from sqlalchemy import text

from app.features.idempotency.dependencies import IdempotentRoute, IdempotentSession
from app.features.users.dependencies import CurrentUser
from app.infra.database.sessions import after_commit

TABLE = "CREATE TABLE IF NOT EXISTS once_effects (number bigint NOT NULL)"
EFFECT = text("INSERT INTO once_effects VALUES (:number)")

router = APIRouter(prefix="/faults/once", include_in_schema=False, route_class=IdempotentRoute)


@router.post("/{number}", status_code=201)
async def once(
    number: int,
    _user: CurrentUser,
    session: IdempotentSession,
    seconds: float = 0,
    x_faults_die: Annotated[bool, Header()] = False,
) -> dict[str, int]:
    """Write a row and take some time. If the header says so, die between commit and response."""
    await session.execute(EFFECT, {"number": number})
    await asyncio.sleep(seconds)
    if x_faults_die:
        after_commit(session, _die)
    return {"process_id": os.getpid()}


async def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
