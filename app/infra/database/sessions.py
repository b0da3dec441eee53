"""Sessions: one kind that reads, one kind that is a transaction. Both connect at first use.

Two ideas to learn. `transaction()` commits when its block succeeds and rolls back when it fails.
What must not be lost is written inside it (`invalidate(session, tags)`, through the hook); what may
be lost runs after it (`after_commit`). A rolled-back transaction runs neither.
"""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from app.errors import Unavailable
from app.infra.observability.request_context import request_context

logger = logging.getLogger(__name__)

Callback = Callable[[], Awaitable[None]]
CALLBACKS = "after_commit"


class Hook(Protocol):
    """Takes part in every transaction."""

    async def before_commit(self, session: AsyncSession) -> None:
        """Write what must be committed with the change. Its exception rolls back."""

    async def after_commit(self, session: AsyncSession) -> None:
        """Act on what was committed, before any callback and before the response. No exception."""


class _ReadOnlySession(Session):
    """The synchronous half of a read session; a flush in it is a programming error."""


@event.listens_for(_ReadOnlySession, "before_flush")
def _refuse_writes(*_: Any) -> None:
    raise TypeError("A read session does not write: ask for a WriteSession.")


class Database:
    """The sessions of one engine. `close()` returns every connection."""

    def __init__(self, engine: AsyncEngine, *hooks: Hook) -> None:
        self.engine = engine
        self._hooks = hooks
        # AUTOCOMMIT: a statement is one round trip, without BEGIN before and ROLLBACK after it.
        self._read_sessions = async_sessionmaker(
            engine.execution_options(isolation_level="AUTOCOMMIT"),
            sync_session_class=_ReadOnlySession,
            expire_on_commit=False,
            autoflush=False,
        )
        self._write_sessions = async_sessionmaker(engine, expire_on_commit=False)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Yield a session whose statements each see their own snapshot and cost one round trip."""
        async with self._read_sessions() as session:
            yield session

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Yield a session that is one transaction: committed on success, else rolled back.

        The callbacks of `after_commit` have run when the block has been left. A session that was
        not used costs no round trip. Whatever the block or the commit raises is passed on; when a
        connection dies while committing the outcome is open, which is `Unavailable`.
        """
        async with self._write_sessions() as session:
            yield session
            await session.flush()
            for hook in self._hooks:
                await hook.before_commit(session)
            await _commit(session)
        for hook in self._hooks:
            await hook.after_commit(session)
        await _run_callbacks(session)

    async def close(self) -> None:
        """Close every connection of the pool."""
        await self.engine.dispose()


def after_commit(session: AsyncSession, callback: Callback) -> None:
    """Run `callback` once the transaction of `session` has been committed, in order of calls.

    For effects that may be lost: a crash between the commit and the callback loses it, and its
    exception is logged and does not reach the client, whose write has been kept.
    """
    session.info.setdefault(CALLBACKS, []).append(callback)


async def _commit(session: AsyncSession) -> None:
    began = time.perf_counter()
    try:
        await session.commit()
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable("It is not known whether the change was kept.") from error
        raise
    finally:
        if (current := request_context.get()) is not None:
            current.spent("COMMIT", time.perf_counter() - began)


async def _run_callbacks(session: AsyncSession) -> None:
    callbacks: list[Callback] = session.info.pop(CALLBACKS, [])
    for callback in callbacks:
        try:
            await callback()
        except Exception:
            logger.exception("A callback failed after the commit")
