"""Gathers the parts of the dashboard at the same time.

Each part has its own limit, and its own session: a session runs one statement at a time. No part
holds a connection while it waits for something else, so parts cannot wait for each other. If many
dashboards are read at once, their parts wait for their turn. All parts end before the time of the
request does, and the client gets the parts that were read.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unavailable
from app.features.dashboard import queries
from app.features.dashboard.queries import Stats
from app.features.dashboard.schemas import PartName, UpstreamProfile
from app.features.dashboard.settings import DashboardSettings
from app.features.posts import service as posts
from app.features.posts.models import PostRow
from app.features.users import queries as users
from app.features.users.models import CallerRow, UserRow
from app.infra.database.error_mapping import describe, to_app_error
from app.infra.database.pagination import PageRequest
from app.infra.http_client.deadline import end_of_request
from app.infra.http_client.failures import UpstreamFailed
from app.infra.observability.diagnostics.report import report
from app.infra.observability.metrics import PARTS_FAILED
from app.infra.observability.repeat_filter import RepeatFilter
from app.infra.resources import ProcessResources

logger = logging.getLogger(__name__)
logger.addFilter(RepeatFilter())  # while a dependency is away, each dashboard misses its part

PARTS: tuple[PartName, ...] = get_args(PartName)
RECENT_POSTS = 5
NO_PROFILE = 404

T = TypeVar("T")
Read = Callable[[ProcessResources, CallerRow], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A part that failed is None, and `degraded` has its name."""

    profile: UserRow | None
    recent_posts: Sequence[PostRow] | None
    stats: Stats | None
    upstream: UpstreamProfile | None
    degraded: Sequence[PartName]


class _Parts:
    """Reads parts, and remembers the failures."""

    def __init__(self, resources: ProcessResources) -> None:
        self.failures: dict[PartName, Exception] = {}
        self._resources = resources

    async def read(self, name: PartName, read: Read[T], user: CallerRow) -> T | None:
        """Return the part, or None if it fails or takes too long."""
        try:
            async with asyncio.timeout_at(end_of_request()):
                return await read(self._resources, user)
        except TimeoutError:
            await self._record(name, Unavailable("The dashboard took too long."))
        except Exception as error:
            await self._record(name, error)
        return None

    async def _record(self, name: PartName, error: Exception) -> None:
        self.failures[name] = error
        PARTS_FAILED.labels(name).inc()
        if await self._is_bug(error):
            # The other parts are right, so the client gets them. The report fires an alert.
            logger.error("The part %s of the dashboard failed", name, exc_info=error)
            report("failed_part", f"the part {name} of the dashboard: {type(error).__name__}")
        else:
            logger.warning("The part %s of the dashboard is missing: %s", name, _text_of(error))

    async def _is_bug(self, error: Exception) -> bool:
        """Return whether the error is none that a dependency causes."""
        if isinstance(error, SQLAlchemyError):
            is_expected = isinstance(to_app_error(error), Unavailable)
            return not is_expected and not await self._resources.schema.explains_failure()
        return not isinstance(error, Unavailable)


async def read_dashboard(resources: ProcessResources, user: CallerRow) -> Dashboard:
    """Return the parts that can be read.

    If there is no part at all, as when the database is away, this raises the failure of one. The
    parts are cancelled together with the request.
    """
    parts = _Parts(resources)
    async with asyncio.TaskGroup() as group:
        profile = group.create_task(parts.read("profile", read_profile, user))
        recent = group.create_task(parts.read("recent_posts", read_recent_posts, user))
        stats = group.create_task(parts.read("stats", read_stats, user))
        upstream = group.create_task(parts.read("upstream", read_upstream, user))
    found = (profile.result(), recent.result(), stats.result(), upstream.result())
    if parts.failures and not any(part is not None for part in found):
        raise next(parts.failures[name] for name in PARTS if name in parts.failures)
    return Dashboard(*found, degraded=sorted(parts.failures))


async def read_profile(resources: ProcessResources, user: CallerRow) -> UserRow | None:
    def read(session: AsyncSession) -> Awaitable[UserRow | None]:
        return users.read_account(session, user.id)

    return await resources.separate_reads.read("profile", read, _limit(resources), caller=user.id)


async def read_recent_posts(resources: ProcessResources, user: CallerRow) -> Sequence[PostRow]:
    async def read(session: AsyncSession) -> Sequence[PostRow]:
        return (await posts.list_posts(session, PageRequest(RECENT_POSTS), user.id)).items

    return await resources.separate_reads.read(
        "recent_posts", read, _limit(resources), caller=user.id
    )


async def read_stats(resources: ProcessResources, user: CallerRow) -> Stats:
    def read(session: AsyncSession) -> Awaitable[Stats]:
        return queries.get_stats(session, user.id)

    return await resources.separate_reads.read_lagging(
        "stats", read, _limit(resources), caller=user.id
    )


async def read_upstream(resources: ProcessResources, user: CallerRow) -> UpstreamProfile | None:
    """Return the profile of another service, or None if it has none or there is no such service."""
    settings = resources.settings[DashboardSettings]
    if settings.upstream_url is None:
        return None
    token, headers = settings.upstream_token, dict[str, str]()
    if token is not None:
        headers["Authorization"] = f"Bearer {token.get_secret_value()}"
    upstream = resources.http.upstream(
        "profiles", settings.upstream_url, headers=headers, total_seconds=settings.upstream_seconds
    )
    try:
        return await upstream.get_json(f"/profiles/{user.id}", UpstreamProfile)
    except UpstreamFailed as error:
        if error.upstream_status == NO_PROFILE:
            return None
        raise


def _limit(resources: ProcessResources) -> float:
    return resources.settings[DashboardSettings].part_seconds


def _text_of(error: Exception) -> str:
    return describe(error) if isinstance(error, SQLAlchemyError) else str(error)
