"""What a route may ask for by an annotation: resources, sessions, pages, preconditions."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Header, Query, Request
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unavailable
from app.infra.database.pagination import PageRequest
from app.infra.observability.metrics import REPLICA_READS
from app.infra.observability.request_context import request_context
from app.infra.resources import ProcessResources
from app.infra.validation.fields import Limit
from app.infra.validation.preconditions import Precondition, join_header_lines
from app.infra.web.client_address import address_of, user_of
from app.infra.web.exports import Exporter, Exports
from app.infra.web.request_retry import RetryRequest, may_retry
from app.infra.web.settings import LimitsSettings
from coherent_cache import collect_shown_tags

# A request is cancelled after LIMITS_REQUEST_SECONDS. Its COMMIT may take this long.
COMMIT_MARGIN = timedelta(seconds=5)


async def process_resources(request: Request) -> ProcessResources:
    opened: ProcessResources = request.app.state.resources
    return opened


# For routes. The dependencies below are a part of most requests, and call the function themselves:
# FastAPI takes as long to solve a dependency as to call it many times.
Resources = Annotated[ProcessResources, Depends(process_resources)]


def _open_read_session(resources: ProcessResources) -> AsyncSession:
    session, current = resources.database.read(), request_context.get()
    if current is not None and current.shown_tags is not None:
        collect_shown_tags(session, current.shown_tags)
    return session


async def read_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Open a session for reading. It takes a connection at its first statement."""
    async with _open_read_session(await process_resources(request)) as session:
        yield session


async def lagging_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Open a session for reading what may be DATABASE_REPLICA_LAG_SECONDS old.

    It uses the replica while its lag is small. If a query fails there, the request runs again on
    the primary. Responses for the cache are always loaded from the primary.
    """
    resources = await process_resources(request)
    replica, current = resources.replica, request_context.get()
    is_cache_load = current is not None and current.shown_tags is not None
    if replica is None or not replica.is_up_to_date or is_cache_load or not may_retry():
        REPLICA_READS.labels("primary").inc()
        async with _open_read_session(resources) as session:
            yield session
        return
    REPLICA_READS.labels("replica").inc()
    try:
        async with replica.database.read() as session:
            yield session
    except (Unavailable, DBAPIError) as error:
        if replica.should_retry_on_primary(error) and may_retry():
            raise RetryRequest from error
        raise


async def write_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Open the one transaction of this request."""
    resources = await process_resources(request)
    async with resources.database.transaction() as session:
        yield session


async def page_query(
    request: Request,
    limit: Annotated[Limit, Query()] = 20,
    cursor: Annotated[str | None, Query(description="From `next` or `prev` of a page.")] = None,
) -> PageRequest:
    """Parse the query parameters of a list."""
    resources = await process_resources(request)
    max_transaction = (
        timedelta(seconds=resources.settings[LimitsSettings].request_seconds) + COMMIT_MARGIN
    )
    return PageRequest(limit, cursor, max_transaction)


async def exporter(
    request: Request,
    resources: Resources,
    cursor: Annotated[
        str | None, Query(description="The `cursor` of the last complete line.")
    ] = None,
) -> AsyncIterator[Exporter]:
    """Hold a place for an export until the response has ended."""
    exports: Exports = request.app.state.exports
    scope = request.scope
    client = user_of(scope, resources.access_tokens) or address_of(scope)
    async with exports.place(client):
        yield Exporter(request, resources, exports, cursor)


async def precondition(
    request: Request,
    _if_match: Annotated[
        str | None, Header(alias="if-match", description="The ETag of what you mean to change.")
    ] = None,
    _if_none_match: Annotated[
        str | None,
        Header(alias="if-none-match", description="With * or its ETag, nothing is changed: 412."),
    ] = None,
) -> Precondition:
    """Parse If-Match and If-None-Match. The parameters exist only to document the headers."""
    lines = request.headers.getlist
    return Precondition(
        join_header_lines(lines("if-match")), join_header_lines(lines("if-none-match"))
    )


# With scope "function", the session is committed or rolled back and its connection returned before
# the response starts. With the default scope, the service would answer 200 and commit afterwards.
ReadSession = Annotated[AsyncSession, Depends(read_session, scope="function")]
LaggingSession = Annotated[AsyncSession, Depends(lagging_session, scope="function")]
WriteSession = Annotated[AsyncSession, Depends(write_session, scope="function")]
PageQuery = Annotated[PageRequest, Depends(page_query)]
# With the default scope: the place is held while the response is being sent.
ExportPlace = Annotated[Exporter, Depends(exporter)]
Conditions = Annotated[Precondition, Depends(precondition)]
