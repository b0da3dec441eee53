"""`/v1/posts/{post_id}/comments` and `/v1/comments`: a child resource.

In development there is also `/live`, a page that shows new comments.
"""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Path as PathParameter
from starlette.responses import HTMLResponse

from app.features.comments import service
from app.features.comments.models import CommentRow
from app.features.comments.schemas import CommentCreate, CommentPage, CommentRead
from app.features.idempotency.dependencies import IdempotentRoute, IdempotentSession
from app.features.users.dependencies import CurrentUser
from app.infra.database.pagination import Page
from app.infra.dependencies import Conditions, PageQuery, ReadSession, WriteSession
from app.infra.validation.fields import KIB, Id
from app.infra.web.cacheable import cacheable
from app.infra.web.development_access import require_developer
from app.infra.web.event_stream import EventStream, LastEventId
from app.infra.web.link_header import link_neighbours
from app.infra.web.openapi import NOT_MODIFIED, events, problems
from app.infra.web.response_headers import PAGE_HEADERS, PAGE_POLICY, content_hash

router = APIRouter(tags=["comments"], route_class=IdempotentRoute)

PostId = Annotated[Id, PathParameter()]

HTML, STYLE, SCRIPT = (
    Path(__file__).with_name("pages").joinpath(f"live.{suffix}").read_text(encoding="utf-8")
    for suffix in ("html", "css", "js")
)
PAGE = HTML.replace("/* live.css */", STYLE).replace("/* live.js */", SCRIPT)
HEADERS = {
    **PAGE_HEADERS,
    "Content-Security-Policy": (
        f"default-src 'none'; script-src '{content_hash(SCRIPT)}'; "
        f"style-src '{content_hash(STYLE)}'; connect-src 'self'; img-src data:; {PAGE_POLICY}"
    ),
}


@router.get(
    "/v1/posts/{post_id}/comments",
    response_model=CommentPage,
    responses=NOT_MODIFIED | problems(404, 422),
)
@cacheable()
async def list_comments(
    post_id: PostId,
    request: Request,
    response: Response,
    session: ReadSession,
    query: PageQuery,
) -> Page[CommentRow]:
    """List the comments of a post, oldest first."""
    page = await service.list_comments(session, post_id, query)
    link_neighbours(request, response, page, limit=query.limit)
    return page


@router.get(
    "/v1/posts/{post_id}/comments/stream",
    response_class=EventStream,
    responses=events("comment", CommentRead) | problems(404, 422),
)
async def stream_comments(post_id: PostId, session: ReadSession, last: LastEventId) -> EventStream:
    """Send new comments of a post as they arrive, as server-sent events `comment`.

    To miss none, pass the id of the last comment that you have as `after`, or 0 without one.
    """
    return await EventStream.open(session, service.NEW_COMMENTS, post_id, last)


@router.post(
    "/v1/posts/{post_id}/comments",
    status_code=201,
    response_model=CommentRead,
    responses=problems(401, 404, 409, 413, 415, 422),
    max_body_size=64 * KIB,
)
async def create_comment(
    post_id: PostId, data: CommentCreate, user: CurrentUser, session: IdempotentSession
) -> CommentRow:
    """Comment on a post."""
    return await service.create_comment(session, user, post_id, data)


@router.delete(
    "/v1/comments/{comment_id}",
    status_code=204,
    response_class=Response,
    responses=problems(401, 403, 404, 412, 422),
)
async def delete_comment(
    comment_id: Annotated[Id, PathParameter()],
    user: CurrentUser,
    session: WriteSession,
    precondition: Conditions,
) -> None:
    """Delete one's own comment. 412 when a condition is not met."""
    await service.delete_comment(session, user, comment_id, precondition)


@router.get("/live", include_in_schema=False, dependencies=[Depends(require_developer)])
async def live() -> HTMLResponse:
    """Show new comments as they arrive: one file, which loads nothing except its data."""
    return HTMLResponse(PAGE, headers=HEADERS)
