"""Expired keys are deleted."""

from datetime import timedelta

import pytest
from sqlalchemy import select, text

from app.features.idempotency import queries
from app.features.idempotency.models import IdempotencyKey
from app.features.users.models import User
from app.infra.jobs.enqueue import enqueue
from app.infra.resources import ProcessResources
from tests.features.idempotency.factory import KeyFactory
from tests.jobs import run_jobs

AGE = text(
    "UPDATE idempotency_keys SET created_at = now() - CAST(:age AS interval) WHERE key = :key"
)


async def test_expired_keys_are_deleted_in_batches(
    make: KeyFactory,
    owner: User,
    resources: ProcessResources,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queries, "EXPIRED_BATCH_SIZE", 2)
    ages = (0, 23, 25, 48, 72)
    for hours in ages:
        await make.key(owner, str(hours))
        async with resources.database.transaction() as session:
            await session.execute(AGE, {"age": timedelta(hours=hours), "key": str(hours)})
    async with resources.database.transaction() as session:
        await enqueue(session, "idempotency.delete_expired")
    await run_jobs(resources)
    async with resources.database.read() as session:
        left = (await session.scalars(select(IdempotencyKey.key))).all()
    assert sorted(left) == ["0", "23"]
