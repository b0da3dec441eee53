"""Sessions: one kind for reading, and one kind that is a transaction.

A session takes a connection from the pool at its first statement. `transaction()` commits when its
block succeeds and rolls back when it fails. Effects that must not be lost are written inside the
transaction, as `invalidate(session, tags)` does through a hook. Effects that may be lost run after
it: see `after_commit`. A rollback runs neither.
"""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import ORMExecuteState, Session

from app.errors import Unavailable
from app.infra.observability.request_context import request_context
from coherent_cache import tags_to_invalidate

logger = logging.getLogger(__name__)

READ_ONLY = (
    "This session is for reading: a change would be committed without its hooks. "
    "Ask for a WriteSession, or use Database.transaction(), to change something."
)
COMMITTED_ELSEWHERE = (
    "This session is one transaction. Do not commit it: it is committed when its block or its "
    "request ends. Use begin_nested() for a savepoint, or a second Database.transaction()."
)
CLOSED = "This session is closed: its request or its block has ended."
BUSY = (
    "This session runs a statement already. A session belongs to one task: give each task a "
    "session of its own, with Database.read() or SeparateReads."
)

Callback = Callable[[], Awaitable[None]]


class TransactionHook(Protocol):
    """Called in every transaction of a `Database`."""

    async def before_commit(self, session: AsyncSession) -> None:
        """Write rows that must be committed with the change. An exception rolls back."""

    async def after_commit(self, session: AsyncSession) -> None:
        """Run before the callbacks of `after_commit` and before the response. Must not raise."""


class _Session(AsyncSession):
    """Closes at once if it has no connection. `AsyncSession` makes a task for that.

    The task lets a close end that is cancelled meanwhile. Without a connection, nothing is awaited.
    """

    async def __aexit__(self, type_: Any, value: Any, traceback: Any) -> None:
        if self.in_transaction():
            await super().__aexit__(type_, value, traceback)
        else:
            self.sync_session.close()


class _ReadSession(_Session):
    """Raises `TypeError` at the end of its block if that has changed something."""

    async def __aexit__(self, type_: Any, value: Any, traceback: Any) -> None:
        is_changed = type_ is None and (tags_to_invalidate(self) or _has_unsaved_changes(self))
        await super().__aexit__(type_, value, traceback)
        if is_changed:
            raise TypeError(READ_ONLY)


class _ReadOnlySession(Session):
    """The synchronous session inside a read session. It refuses to change rows.

    `is_busy` means that a statement runs on a connection that the session does not have: see
    `idle_read_engine`.
    """

    is_closed = is_busy = False

    def close(self) -> None:
        self.is_closed = True
        super().close()


@event.listens_for(_ReadOnlySession, "before_flush")
def _refuse_flush(*_: Any) -> None:
    raise TypeError(READ_ONLY)


@event.listens_for(_ReadOnlySession, "do_orm_execute")
def _refuse_dml(state: ORMExecuteState) -> None:
    if state.statement.is_dml:
        raise TypeError(READ_ONLY)
    if state.session.is_busy:  # type: ignore[attr-defined]
        raise InvalidRequestError(BUSY)


class _TransactionSession(Session):
    """The synchronous session inside a transaction. Only `Database` commits it."""


@event.listens_for(_TransactionSession, "before_commit")
def _refuse_commit(session: Session) -> None:
    is_savepoint = session.in_nested_transaction()
    if not is_savepoint and not session.info.get("may_commit"):
        raise TypeError(COMMITTED_ELSEWHERE)


class Database:
    def __init__(self, engine: AsyncEngine, *hooks: TransactionHook) -> None:
        self.engine = engine
        self._hooks = hooks
        # With AUTOCOMMIT a statement is one round trip: there is no BEGIN and no ROLLBACK.
        self.read_engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._read_sessions = async_sessionmaker(
            self.read_engine,
            class_=_ReadSession,
            sync_session_class=_ReadOnlySession,
            expire_on_commit=False,
            autoflush=False,
            close_resets_only=False,
        )
        # A session that is used after the request raises, instead of opening a new transaction that
        # nobody commits.
        self._write_sessions = async_sessionmaker(
            engine,
            class_=_Session,
            sync_session_class=_TransactionSession,
            expire_on_commit=False,
            close_resets_only=False,
        )

    def read(self) -> AsyncSession:
        """Return a session for reading: `async with database.read() as session`.

        A statement is one round trip, with its own snapshot. The session raises TypeError for
        INSERT, UPDATE and DELETE, and at the end of its block for new, changed or deleted objects,
        and after `invalidate`. The SQL of `text()` is not checked.
        """
        return self._read_sessions()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Yield a session that is one transaction. A session that is not used costs no round trip.

        On exit it commits and runs the `after_commit` callbacks; after an exception it rolls back.
        A commit inside the block raises TypeError. `begin_nested()` makes a savepoint.
        If the connection dies during COMMIT, or COMMIT times out, the outcome is unknown, and this
        raises `Unavailable`.
        """
        async with self._write_sessions() as session:
            yield session
            if _has_unsaved_changes(session):
                await session.flush()
            for hook in self._hooks:
                await hook.before_commit(session)
            await _commit(session)
        for hook in self._hooks:
            await hook.after_commit(session)
        await _run_callbacks(session)

    async def close(self) -> None:
        await self.engine.dispose()


def _has_unsaved_changes(session: AsyncSession) -> bool:
    return bool(session.new or session.dirty or session.deleted)


def require_transaction(session: AsyncSession) -> None:
    """Raise TypeError if it is a session for reading, which would commit each statement at once."""
    if isinstance(session.sync_session, _ReadOnlySession):
        raise TypeError(READ_ONLY)


@contextmanager
def idle_read_engine(session: AsyncSession) -> Iterator[AsyncEngine | None]:
    """Yield the engine of a session for reading that has no connection, otherwise None.

    The caller may run one statement on a connection of its own. Meanwhile the session refuses
    others, as it does while it runs a statement itself.
    """
    held, engine = session.sync_session, session.bind
    if not isinstance(held, _ReadOnlySession) or not isinstance(engine, AsyncEngine):
        yield None
        return
    if held.is_closed or held.is_busy:
        raise InvalidRequestError(CLOSED if held.is_closed else BUSY)
    if held.in_transaction():
        yield None
        return
    held.is_busy = True
    try:
        yield engine
    finally:
        held.is_busy = False


def after_commit(session: AsyncSession, callback: Callback) -> None:
    """Run `callback` after the commit of this transaction, before the response starts.

    Callbacks run in the order of these calls. A crash after the commit loses them. The exception of
    a callback is logged and does not reach the client, because the change has been committed.
    """
    _callbacks_of(session).append(callback)


def _callbacks_of(session: AsyncSession) -> list[Callback]:
    callbacks: list[Callback] = session.info.setdefault("after_commit_callbacks", [])
    return callbacks


async def _commit(session: AsyncSession) -> None:
    began = time.perf_counter()
    session.info["may_commit"] = True
    try:
        await session.commit()
    except (Unavailable, DBAPIError) as error:
        if isinstance(error, DBAPIError) and not error.connection_invalidated:
            raise
        raise Unavailable(
            "The database connection was lost. It is not known whether the change was stored."
        ) from error
    finally:
        if (current := request_context.get()) is not None:
            current.add_database_time("COMMIT", time.perf_counter() - began)


async def _run_callbacks(session: AsyncSession) -> None:
    for callback in _callbacks_of(session):
        try:
            await callback()
        except Exception:
            logger.exception("An after_commit callback failed")
