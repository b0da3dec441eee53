"""SQL for idempotency keys."""

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import bindparam, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.features.idempotency.models import IdempotencyKey
from app.features.users.models import User
from app.infra.database.base import Base

LIFETIME = timedelta(hours=24)
EXPIRED_BATCH_SIZE = 5_000

# A statement of its own, because the snapshot of the next one is then taken while the lock is held:
# it shows what the last holder has committed.
TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")
VALID = IdempotencyKey.created_at > func.now() - LIFETIME
BY_KEY = select(IdempotencyKey).where(
    IdempotencyKey.user_id == bindparam("user_id"), IdempotencyKey.key == bindparam("key"), VALID
)
TABLE = Base.metadata.tables[IdempotencyKey.__tablename__]
ANSWER = ("fingerprint", "status", "headers", "body")
COLUMNS = ("user_id", "key", *ANSWER)
# FOR SHARE: a deletion of the account waits until this transaction ends, and deletes the row too.
ROW = (
    select(*(bindparam(name, type_=TABLE.c[name].type) for name in COLUMNS))
    .where(User.id == bindparam("user_id"), User.deleted_at.is_(None))
    .with_for_update(read=True, of=User)
)
INSERT = insert(TABLE).from_select(COLUMNS, ROW)
INSERT_OR_REPLACE = INSERT.on_conflict_do_update(
    index_elements=[IdempotencyKey.user_id, IdempotencyKey.key],
    set_={name: INSERT.excluded[name] for name in ANSWER} | {"created_at": func.now()},
    where=~VALID,
).returning(IdempotencyKey.id)


async def try_lock(session: AsyncSession, user_id: int, key: str) -> bool:
    """Lock a key until the transaction ends. Return False at once if another one holds it."""
    return bool(await session.scalar(TRY_LOCK, {"name": f"idempotency {user_id} {key}"}))


async def get_key(session: AsyncSession, user_id: int, key: str) -> IdempotencyKey | None:
    """Return a key that has not expired."""
    return await session.scalar(BY_KEY, {"user_id": user_id, "key": key})


async def insert_key(session: AsyncSession, values: Mapping[str, object]) -> bool:
    """Insert a key, or replace one that has expired.

    Return False if the key exists, or if its account has been deleted.
    """
    return await session.scalar(INSERT_OR_REPLACE, values) is not None


async def delete_expired_keys(session: AsyncSession) -> int:
    """Delete a batch of expired keys, and return how many. Concurrent calls delete others."""
    expired = (
        select(IdempotencyKey.id)
        .where(~VALID)
        .order_by(IdempotencyKey.created_at)
        .limit(EXPIRED_BATCH_SIZE)
        .with_for_update(skip_locked=True)
    )
    found = await session.scalars(
        delete(IdempotencyKey).where(IdempotencyKey.id.in_(expired)).returning(IdempotencyKey.id)
    )
    return len(found.all())
