"""`/v1/posts`: the feature to copy."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import TypeAdapter

from app.features.idempotency.dependencies import IdempotentRoute, IdempotentSession
from app.features.posts import queries, service
from app.features.posts.models import Post, PostRow
from app.features.posts.schemas import PostCreate, PostPage, PostRead, PostUpdate
from app.features.users.dependencies import CurrentUser
from app.infra.database.pagination import Page
from app.infra.dependencies import (
    Conditions,
    ExportPlace,
    PageQuery,
    ReadSession,
    WriteSession,
)
from app.infra.rate_limits.limit import Limit
from app.infra.validation.fields import KIB, Id
from app.infra.web.cacheable import cacheable
from app.infra.web.etags import tagged_response
from app.infra.web.link_header import link_neighbours
from app.infra.web.openapi import EXPORTED, NOT_MODIFIED, problems
from app.infra.web.rate_limited import ADDRESS, rate_limited

router = APIRouter(prefix="/v1/posts", tags=["posts"], route_class=IdempotentRoute)

LARGEST_POST = 256 * KIB  # 20,200 characters, each escaped as \ud83d\ude00
PostId = Annotated[Id, Path()]
POST_READ = TypeAdapter(PostRead)
POST_EXPORTS = Limit("post_exports", quota=20, seconds=3_600)


@router.get("", response_model=PostPage, responses=NOT_MODIFIED | problems(422))
@cacheable()
async def list_posts(
    request: Request,
    response: Response,
    session: ReadSession,
    query: PageQuery,
    author_id: Annotated[Id | None, Query()] = None,
) -> Page[PostRow]:
    """List posts, newest first, of everybody or of one author."""
    page = await service.list_posts(session, query, author_id)
    link_neighbours(request, response, page, limit=query.limit, author_id=author_id)
    return page


@router.post(
    "",
    status_code=201,
    response_model=PostRead,
    responses=problems(401, 409, 413, 415, 422),
    max_body_size=LARGEST_POST,
)
async def create_post(data: PostCreate, user: CurrentUser, session: IdempotentSession) -> Response:
    """Publish a post."""
    post = await service.create_post(session, user, data)
    return _to_response(post, 201, {"Location": f"/v1/posts/{post.id}"})


@router.get("/export", response_class=Response, responses=EXPORTED | problems(401, 406, 422))
@rate_limited(ADDRESS, POST_EXPORTS)
async def export_posts(_user: CurrentUser, place: ExportPlace) -> Response:
    """Send all posts, oldest first, as JSON Lines or CSV. Each line has the fields of a post.

    Each line ends with its own `cursor`. If the connection ends early, drop the incomplete line at
    the end, and send the cursor of the last line to receive the others.
    """
    return await place.respond(queries.EXPORTED_POSTS)


@router.get("/{post_id}", response_model=PostRead, responses=NOT_MODIFIED | problems(404, 422))
@cacheable()
async def read_post(post_id: PostId, session: ReadSession) -> Response:
    """Return a post with its author."""
    return _to_response(await service.read_post(session, post_id))


@router.patch(
    "/{post_id}",
    response_model=PostRead,
    responses=problems(401, 403, 404, 412, 413, 415, 422),
    max_body_size=LARGEST_POST,
)
async def update_post(
    post_id: PostId,
    data: PostUpdate,
    user: CurrentUser,
    session: WriteSession,
    precondition: Conditions,
) -> Response:
    """Change the title or the body of one's own post. 412 when a condition is not met."""
    return _to_response(await service.update_post(session, user, post_id, data, precondition))


@router.delete(
    "/{post_id}",
    status_code=204,
    response_class=Response,
    responses=problems(401, 403, 404, 412, 422),
)
async def delete_post(
    post_id: PostId, user: CurrentUser, session: WriteSession, precondition: Conditions
) -> None:
    """Delete one's own post. Its comments are deleted too. 412 when a condition is not met."""
    await service.delete_post(session, user, post_id, precondition)


def _to_response(
    post: Post | PostRow, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response with the ETag of the post."""
    return tagged_response(POST_READ, post, post.version, status, headers)
