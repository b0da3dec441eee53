"""Jobs that a case kills or undoes, and the routes that enqueue them."""

import asyncio
import os
import random
import signal

from fastapi import APIRouter
from sqlalchemy import text

from app.errors import Conflict
from app.infra.dependencies import WriteSession
from app.infra.jobs.enqueue import enqueue
from app.infra.jobs.registry import JobContext, job

TABLE = "CREATE TABLE IF NOT EXISTS job_effects (number bigint NOT NULL)"
EFFECT = text("INSERT INTO job_effects VALUES (:number)")
LONGEST_SECONDS = 0.2

router = APIRouter(prefix="/faults/jobs", include_in_schema=False)


@router.post("/{number}", status_code=202)
async def enqueue_one(number: int, session: WriteSession, undo: bool = False) -> None:
    """Enqueue a job as the first act of the transaction, and perhaps roll back."""
    await enqueue(session, "faults.work", number=number)
    if undo:
        raise Conflict("This was undone on purpose.", code="undone")


@router.post("/poison/{number}", status_code=202)
async def enqueue_poison(number: int, session: WriteSession) -> None:
    await enqueue(session, "faults.poison", number=number)


@job("faults.work")
async def work(context: JobContext, *, number: int) -> None:
    """Write a row in the middle of some work."""
    await asyncio.sleep(random.uniform(0, LONGEST_SECONDS))
    await context.session.execute(EFFECT, {"number": number})
    await asyncio.sleep(random.uniform(0, LONGEST_SECONDS))


@job("faults.poison")
async def poison(context: JobContext, *, number: int) -> None:
    """Kill the worker."""
    os.kill(os.getpid(), signal.SIGKILL)
