"""Safeguards to remove or replace. With one of these controls, its case must fail.

Each control replaces a safeguard with what an ordinary application does instead. The controls of
Gunicorn's master are in master.py.
"""

import asyncio
import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from unittest.mock import patch
from urllib.parse import urlencode

import asyncpg
from fastapi import Request, Response
from pgqueuer.models import Job as QueuedJob
from pgqueuer.queries import Queries
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app import api
from app.errors import RateLimited, Unauthenticated
from app.features.account_mails import routes as account_mails
from app.features.idempotency import queries as keys
from app.features.idempotency import service as idempotency
from app.features.users.queries import get_user_by_email
from app.infra import breaker as calls
from app.infra import lifespan as resources
from app.infra.database import error_mapping as failures
from app.infra.database.engine import open_engine
from app.infra.database.export import Export
from app.infra.database.pagination import Page
from app.infra.database.replica import Replica
from app.infra.database.sessions import Database, after_commit
from app.infra.database.settings import DatabaseSettings
from app.infra.events.feed import Feed
from app.infra.events.hub import EventHub
from app.infra.jobs import enqueue
from app.infra.jobs.driver import queries_in
from app.infra.jobs.executor import JobExecutor
from app.infra.jobs.queue import Claim, JobQueue, complete
from app.infra.jobs.registry import Job, JobContext
from app.infra.observability import background
from app.infra.observability.log_writer import LogWriter
from app.infra.process_pool import ProcessPool
from app.infra.rate_limits.limit import Charge, Count, Limit
from app.infra.rate_limits.limiter import RateLimiter
from app.infra.rate_limits.local import LocalLimits
from app.infra.security.passwords import PasswordMatch, Passwords
from app.infra.settings_base.urls import asyncpg_arguments
from app.infra.shutdown import ServerShutdown
from app.infra.storage.store import ObjectStore, Write
from app.infra.threads import BoundedThreads
from app.infra.web import body_limit, client_address, problems
from app.infra.web.batch_response import BatchResponse
from app.infra.web.body_limit import BodyLimitMiddleware
from app.infra.web.concurrency_limit import ConcurrencyLimiter
from app.infra.web.event_stream import EventStream
from app.infra.web.exports import Exporter
from app.infra.web.server_error import UnhandledErrorMiddleware
from coherent_cache import assembly, entry
from coherent_cache.breaker import Breaker
from coherent_cache.budget import Budget
from coherent_cache.channel import Channel
from coherent_cache.cluster import ClusterStore
from coherent_cache.outbox import Change
from coherent_cache.reader import Answer, Load, Reader, Source
from coherent_cache.relay import Relay
from coherent_cache.trust import Trust
from graceful_gunicorn import worker
from tests.faults.naive import NAIVE_CACHE, plain_client

# How the test tells the workers which guard to remove, and their settings as JSON.
CONTROL, SETTINGS = "FAULTS_CONTROL", "FAULTS_SETTINGS"
_verify, _keep = Passwords.verify, idempotency.keep
_abandoned: list[AsyncSession] = []
_engines: list[AsyncEngine] = []
_failures: Counter[str] = Counter()
_stream = logging.StreamHandler(sys.stdout)


def _plain_engine(settings: DatabaseSettings, _application_name: str) -> AsyncEngine:
    """Create an engine with SQLAlchemy's default pool and without timeouts."""
    url = settings.url.get_secret_value()
    return create_async_engine(url, pool_size=settings.pool_size, max_overflow=0)


@asynccontextmanager
async def _write_in_memory(store: ObjectStore, key: str) -> AsyncIterator[Write]:
    """Collect the whole object, and store it at the end."""
    content = bytearray()

    async def write(piece: bytes) -> None:
        content.extend(piece)

    yield write
    await store.put(key, bytes(content))


async def _run_here(_pool: ProcessPool, function: Callable[..., Any], *arguments: Any) -> Any:
    """Decode a picture as an ordinary application does: where the request runs."""
    return function(*arguments)


async def _enqueue_if_known(session: AsyncSession, name: str, *, email: str) -> None:
    """Look for the account in the request, as services without jobs do."""
    if await get_user_by_email(session, email) is not None:
        await enqueue.enqueue(session, name, email=email)


@asynccontextmanager
async def _transaction_that_ends_on_success(self: Database) -> AsyncIterator[AsyncSession]:
    session = AsyncSession(self.engine, expire_on_commit=False)
    _abandoned.append(session)  # otherwise the garbage collector closes it, and hides the leak
    yield session
    await session.commit()
    await session.close()


async def _verify_if_known(self: Passwords, password: str, encoded: str | None) -> PasswordMatch:
    return await _verify(self, password, encoded) if encoded else PasswordMatch.NONE


async def _run_when_it_is_its_turn(
    self: BoundedThreads, function: Callable[..., Any], *arguments: str
) -> Any:
    return await asyncio.wrap_future(self._executor.submit(function, *arguments))


async def _run_in_default_threads(
    _self: BoundedThreads, function: Callable[..., Any], *arguments: str
) -> Any:
    return await asyncio.to_thread(function, *arguments)


async def _pass_on(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
    await self.app(scope, receive, send)


async def _relay_nothing(_self: Relay, _changes: Sequence[Change]) -> set[int]:
    return set()


def _open_and_share(settings: DatabaseSettings, application_name: str) -> AsyncEngine:
    _engines.append(open_engine(settings, application_name))
    return _engines[0]


def _engine_of_requests(_settings: DatabaseSettings, _application_name: str) -> AsyncEngine:
    """Poll the outbox through the connection pool of the requests."""
    return _engines[0]


async def _believe(self: ClusterStore) -> None:
    self._known_owner = self._current_owner()


async def _load_always(
    _self: Reader, _key: str, load: Load, *, skip_memory: bool = False
) -> Answer:
    return Answer(await load(), Source.BYPASS)


def _link_with_whole_query(
    request: Request, response: Response, page: Page[Any], **_: object
) -> None:
    query = urlencode({**request.query_params, "cursor": page.next or ""})
    response.headers["Link"] = f'<{request.url.path}?{query}>; rel="next"'


@contextmanager
def _time_nothing(_self: Breaker) -> Iterator[None]:
    yield


@contextmanager
def _let_through(_self: calls.Breaker) -> Iterator[None]:
    yield


async def _wait_for_ever(_self: Budget, step: Awaitable[Any]) -> Any:
    return await step


def _write_at_once(_self: LogWriter, line: bytes) -> None:
    _stream.handle(logging.makeLogRecord({"msg": line.decode().rstrip()}))


async def _enter_always(self: ConcurrencyLimiter) -> None:
    self.running += 1


async def _run_once(work: Callable[[], Awaitable[None]], _restarts: Any, _leaving: Any) -> None:
    await work()


async def _count_alone(self: RateLimiter, charges: Sequence[Charge]) -> list[Count]:
    rules = ((charge.rule._replace(local=charge.rule.shared), charge.key) for charge in charges)
    return self._stand_in.take([Charge(rule, key) for rule, key in rules])


@asynccontextmanager
async def _count_after_the_check(
    _self: RateLimiter, limit: Limit, account: str
) -> AsyncIterator[None]:
    if _failures[account] >= limit.quota:
        raise RateLimited(1)
    try:
        yield
    except Unauthenticated:
        _failures[account] += 1
        raise


def _accept_all(_self: LocalLimits, charges: Sequence[Charge]) -> list[Count]:
    return [Count(charge.rule, 0, 0, 0) for charge in charges]


async def _call_then_complete(self: JobExecutor, job: Job, claim: Claim, stored: Any) -> None:
    """Commit what the job did, and remove the job from the queue afterwards."""
    async with self._resources.database.transaction() as session:
        await job.call(JobContext(claim.job_id, claim.delivery, session, self._resources), stored)
    await asyncio.sleep(0.1)  # pgqueuer collects finished jobs for as long
    async with self._resources.database.transaction() as session:
        await complete(session, claim)


async def _start_uncounted(self: JobQueue, job: QueuedJob) -> Claim:
    return Claim(job.id, job.attempts, self._worker_id)


def _queries_beside(session: AsyncSession) -> Queries:
    """Enqueue through a connection of its own."""
    place = asyncpg_arguments(json.loads(os.environ[SETTINGS])["database"]["url"])

    async def fetch(query: str, *arguments: object) -> list[dict[str, object]]:
        connection = await asyncpg.connect(**place)
        try:
            return [dict(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    queries = queries_in(session)
    queries.driver.fetch = fetch  # type: ignore[method-assign]
    return queries


async def _keep_after_commit(session: AsyncSession, *arguments: Any) -> None:
    """Store the answer in a transaction of its own, after that of the request."""

    async def keep() -> None:
        async with AsyncSession(session.bind) as own:
            await _keep(own, *arguments)
            await own.commit()

    after_commit(session, keep)


async def _lock_nothing(_session: AsyncSession, _user_id: int, _key: str) -> bool:
    return True


_on_invalidated, _open_stream = EventHub._on_invalidated, EventStream.open


def _read_what_is_named(self: EventHub, tags: Sequence[str] | None) -> None:
    if tags is not None:
        _on_invalidated(self, tags)


async def _begin_with_the_next(
    _stream: type[EventStream], session: AsyncSession, feed: Feed, key: int, _last: int | None
) -> EventStream:
    return await _open_stream(session, feed, key, None)


async def _export_in_one_transaction(
    self: Exporter, export: Export, /, **_filters: object
) -> StreamingResponse:
    """Export as many services do: a transaction is open until the client has read everything."""

    async def lines() -> AsyncIterator[bytes]:
        async with AsyncSession(self._resources.database.engine) as session:
            rows = await session.scalars(text(f"SELECT body FROM {export.name}"))
            for line in rows:
                yield line.encode() * 100

    return StreamingResponse(lines())


async def _end_quietly(self: BatchResponse, send: Send) -> None:
    """End an export that has failed as if it were complete."""
    if await _send_export(self, send) is not None:
        await send({"type": "http.response.body"})


_send_export = BatchResponse._send
_ALWAYS_TRUSTED = (Trust, "holds", property(lambda _self: True))
PATCHES: dict[str, tuple[tuple[Any, str, Any], ...]] = {
    "with SQLAlchemy's default pool and timeouts": ((resources, "open_engine", _plain_engine),),
    "without retries": ((problems, "may_retry", lambda: False),),
    "without retries and without the mapping of database errors": (
        (problems, "may_retry", lambda: False),
        (problems, "to_app_error", lambda _error: None),
    ),
    "without the cleanup after a disconnect": (
        (Database, "transaction", _transaction_that_ends_on_success),
        # Otherwise no client disconnects inside of a transaction.
        (BodyLimitMiddleware, "__call__", _pass_on),
    ),
    "with a job for known addresses only": ((account_mails, "enqueue", _enqueue_if_known),),
    "without a hash for unknown accounts": ((Passwords, "verify", _verify_if_known),),
    "without the limit on password threads": ((BoundedThreads, "run", _run_in_default_threads),),
    "with an ordinary cache": (*NAIVE_CACHE, (assembly, "open_valkey", plain_client)),
    "without the relay of lost invalidations": ((Relay, "_relay", _relay_nothing), _ALWAYS_TRUSTED),
    "with a cache that is always trusted": (_ALWAYS_TRUSTED,),
    "with the relay in the connection pool of the requests": (
        (resources, "open_engine", _open_and_share),
        (resources, "open_outbox_engine", _engine_of_requests),
    ),
    "with Uvicorn's own HTTP protocol": (
        (worker, "protocol_class", lambda _config: HttpToolsProtocol),
    ),
    "without any limit on the size of bodies": (
        (BodyLimitMiddleware, "__call__", _pass_on),
        (RequestBodyLimitMiddleware, "__call__", _pass_on),  # FastAPI's own, of each route
    ),
    "without the limit on running requests": ((ConcurrencyLimiter, "acquire", _enter_always),),
    "without invalidation messages": (
        (Channel, "_handle_invalidation", lambda _self, _tags: None),
    ),
    "with messages from Valkey alone": (
        (EventHub, "_is_comparison_due", lambda _self: False),
        (EventHub, "_on_invalidated", _read_what_is_named),
    ),
    "with streams that begin with the next event": (
        (EventStream, "open", classmethod(_begin_with_the_next)),
    ),
    "without the shutdown event for streams": ((ServerShutdown, "begin", lambda _self: None),),
    "without the middleware for unexpected exceptions": (
        (UnhandledErrorMiddleware, "__call__", _pass_on),
    ),
    "without the check of a new primary": ((ClusterStore, "_handle_new_owner", _believe),),
    "without the fallback to the primary": (
        (Replica, "should_retry_on_primary", lambda _self, _error: False),
    ),
    "without the cache": (
        (Reader, "get_from_memory", lambda _self, _key: None),
        (Reader, "read", _load_always),
    ),
    "with the whole query in Link headers": tuple(
        (module, "link_neighbours", _link_with_whole_query)
        for module in vars(api).values()
        if hasattr(module, "link_neighbours")  # the routes of every feature that has a list
    ),
    "without restarts of background tasks": ((background, "_supervise", _run_once),),
    "without the circuit breaker for slow look-ups": ((Breaker, "timing_look_up", _time_nothing),),
    "without the circuit breaker for other services": ((calls.Breaker, "call", _let_through),),
    "without the deadline for cached reads": ((Budget, "until_deadline", _wait_for_ever),),
    "without checksums": ((entry, "checksum_of", lambda _header, _content: 0),),
    "without the limits on values, nesting and the route's body size": (
        (body_limit, "check_body_shape", lambda *_: None),
        (BodyLimitMiddleware, "_limit_of", lambda self, _route: self._limit_bytes),
        (RequestBodyLimitMiddleware, "__call__", _pass_on),
    ),
    "with database faults reported as client errors": (
        (failures, "PRIMARY_KEY", re.compile("(?!)")),
        (failures, "INVALID_VALUES", (*failures.INVALID_VALUES, "2200H")),
    ),
    "without the limit on waiting passwords": ((BoundedThreads, "run", _run_when_it_is_its_turn),),
    "with a whole quota in each worker": ((RateLimiter, "take", _count_alone),),
    "with a quota for each IPv6 address": ((client_address, "_network_of", str),),
    "with failed logins counted after the check": (
        (RateLimiter, "counting_failures", _count_after_the_check),
    ),
    "without local limits": ((LocalLimits, "take", _accept_all),),
    "with jobs removed after their effects": ((JobExecutor, "_call", _call_then_complete),),
    "with deliveries that are not counted": ((JobQueue, "start", _start_uncounted),),
    "with jobs enqueued beside the transaction": ((enqueue, "queries_in", _queries_beside),),
    "without the lock on the key": ((keys, "try_lock", _lock_nothing),),
    "with answers stored after the commit": ((idempotency, "keep", _keep_after_commit),),
    "with pictures decoded on the event loop": ((ProcessPool, "run", _run_here),),
    "with archives made in memory": ((ObjectStore, "writer", _write_in_memory),),
    "with exports in one transaction": ((Exporter, "respond", _export_in_one_transaction),),
    "with exports that end quietly": ((BatchResponse, "_send", _end_quietly),),
    "with blocking log writes": ((LogWriter, "write", _write_at_once),),
}


@asynccontextmanager
async def without(control: str) -> AsyncIterator[None]:
    """Remove a safeguard in this process during the block. Other names remove nothing."""
    patches = [patch.object(*replacement) for replacement in PATCHES.get(control, ())]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()
