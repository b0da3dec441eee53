"""Liveness and readiness, for the load balancer and the orchestrator.

`/livez` does no I/O. `/readyz` returns 503 until the database has been reached and its schema is
current. After that, failing dependencies are reported but do not change the status: removing every
instance does not repair a database. During draining it returns 503 again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from sqlalchemy.exc import DBAPIError

from app.errors import Unavailable
from app.infra.database.error_mapping import describe, lacks_privilege
from app.infra.database.schema import Schema
from app.infra.observability.background import detached, failing
from app.infra.observability.repeat_filter import RepeatFilter
from app.infra.resources import ProcessResources
from app.infra.shutdown import server_shutdown
from app.infra.storage.store import ObjectStore
from coherent_cache import CACHE_ERRORS, Cache

logger = logging.getLogger(__name__)
logger.addFilter(RepeatFilter())  # a probe asks every few seconds

FIRST_ANSWER_SECONDS = 1.0
LATER_ANSWER_SECONDS = 0.05
MISSING_PRIVILEGE = (
    "The role in DATABASE_URL may not read the schema's version. Let migrations run as the role "
    "that deploy/postgres/roles.sql creates, or run that file again. The error was: %s"
)


class Readiness:
    """The state of one process and its dependencies. Checks never pile up: one runs at a time.

    Once ready, `report` waits at most 0.05 s for the check, and otherwise returns the previous
    result.
    """

    def __init__(self, schema: Schema, cache: Cache | None, objects: ObjectStore) -> None:
        self._schema = schema
        self._cache = cache
        self._objects = objects
        self._ready = False
        self._checks = dict.fromkeys(("database", "valkey", "storage"), "unknown")
        self._running: asyncio.Task[None] | None = None

    async def report(self) -> tuple[bool, dict[str, str]]:
        """Return whether requests may be sent here, and how each dependency was found.

        Background tasks that fail are named for information. They do not make a process unready.
        """
        if self._running is None or self._running.done():
            self._running = detached(self._check())
        patience = LATER_ANSWER_SECONDS if self._ready else FIRST_ANSWER_SECONDS
        await asyncio.wait({self._running}, timeout=patience)
        checks = dict(self._checks)
        checks["cache"] = "not used" if self._cache is None else str(self._cache.trust)
        if failed := failing():
            checks["background tasks"] = f"failing: {', '.join(failed)}"
        return self._ready, checks

    def close(self) -> None:
        """Stop a check that still runs."""
        if self._running is not None:
            self._running.cancel()

    async def _check(self) -> None:
        await asyncio.gather(
            self._record("database", self._check_database()),
            self._record("valkey", self._check_valkey()),
            self._record("storage", self._objects.check()),
        )

    async def _record(self, name: str, check: Awaitable[str]) -> None:
        self._checks[name] = await check
        self._ready = self._ready or (name == "database" and self._checks[name] == "ok")

    async def _check_database(self) -> str:
        try:
            return "behind" if await self._schema.is_behind() else "ok"
        except Unavailable:
            return "unavailable"
        except DBAPIError as error:
            if not lacks_privilege(error):
                return "unavailable"
            logger.warning(MISSING_PRIVILEGE, describe(error))
            return "no privileges"
        except Exception:
            logger.exception("The check of the database failed")
            return "unavailable"

    async def _check_valkey(self) -> str:
        if self._cache is None:
            return "not used"
        try:
            await self._cache.ping()
        except CACHE_ERRORS:
            return "unavailable"
        except Exception:
            logger.exception("The check of Valkey failed")
            return "unavailable"
        return "ok"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the readiness of this process. A check that still runs at the end is cancelled."""
    resources: ProcessResources = app.state.resources
    app.state.readiness = Readiness(resources.schema, resources.cache, resources.objects)
    try:
        yield
    finally:
        app.state.readiness.close()


router = APIRouter(include_in_schema=False, lifespan=lifespan)


async def readiness(request: Request) -> Readiness:
    state: Readiness = request.app.state.readiness
    return state


@router.get("/livez")
async def livez() -> dict[str, str]:
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(state: Annotated[Readiness, Depends(readiness)]) -> dict[str, object]:
    """Answer 200 when requests may be sent here, with the state of each dependency."""
    if server_shutdown.is_draining:
        raise Unavailable("This process is not ready: the service is shutting down.")
    ready, checks = await state.report()
    if not ready:
        found = ", ".join(f"{name} {state}" for name, state in checks.items())
        raise Unavailable(f"This process is not ready: {found}.")
    return {"status": "ready", "checks": checks}
