"""`/v1/drafts`: the private feature to copy. Only its owner can see or change a draft."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import TypeAdapter

from app.features.drafts import service
from app.features.drafts.models import Draft, DraftRow, DraftStatus
from app.features.drafts.schemas import DraftCreate, DraftPage, DraftRead, DraftUpdate
from app.features.idempotency.dependencies import IdempotentRoute, IdempotentSession
from app.features.posts.routes import POST_READ
from app.features.posts.schemas import PostRead
from app.features.users.dependencies import CurrentUser
from app.infra.database.pagination import Page
from app.infra.dependencies import Conditions, PageQuery, ReadSession, WriteSession
from app.infra.validation.fields import KIB, Id
from app.infra.web.etags import tagged_response
from app.infra.web.link_header import link_neighbours
from app.infra.web.openapi import problems

router = APIRouter(prefix="/v1/drafts", tags=["drafts"], route_class=IdempotentRoute)

LARGEST_DRAFT = 256 * KIB  # 20,200 characters, each escaped as \ud83d\ude00
DraftId = Annotated[Id, Path()]
DRAFT_READ = TypeAdapter(DraftRead)


@router.get("", response_model=DraftPage, responses=problems(401, 422))
async def list_drafts(
    request: Request,
    response: Response,
    user: CurrentUser,
    session: ReadSession,
    query: PageQuery,
    status: Annotated[DraftStatus | None, Query()] = None,
) -> Page[DraftRow]:
    """List one's own drafts, newest first, all of them or those with one status."""
    page = await service.list_drafts(session, user, query, status)
    link_neighbours(request, response, page, limit=query.limit, status=status)
    return page


@router.post(
    "",
    status_code=201,
    response_model=DraftRead,
    responses=problems(401, 409, 413, 415, 422),
    max_body_size=LARGEST_DRAFT,
)
async def create_draft(
    data: DraftCreate, user: CurrentUser, session: IdempotentSession
) -> Response:
    """Write a draft. 409 `title_taken` when one of one's own drafts has this title."""
    draft = await service.create_draft(session, user, data)
    return _to_response(draft, 201, {"Location": f"/v1/drafts/{draft.id}"})


@router.get("/{draft_id}", response_model=DraftRead, responses=problems(401, 404, 422))
async def read_draft(draft_id: DraftId, user: CurrentUser, session: ReadSession) -> Response:
    """Return one's own draft."""
    return _to_response(await service.read_draft(session, user, draft_id))


@router.patch(
    "/{draft_id}",
    response_model=DraftRead,
    responses=problems(401, 404, 409, 412, 413, 415, 422),
    max_body_size=LARGEST_DRAFT,
)
async def update_draft(
    draft_id: DraftId,
    data: DraftUpdate,
    user: CurrentUser,
    session: WriteSession,
    precondition: Conditions,
) -> Response:
    """Change one's own draft. 412 when a condition is not met."""
    return _to_response(await service.update_draft(session, user, draft_id, data, precondition))


@router.delete(
    "/{draft_id}",
    status_code=204,
    response_class=Response,
    responses=problems(401, 404, 412, 422),
)
async def delete_draft(
    draft_id: DraftId, user: CurrentUser, session: WriteSession, precondition: Conditions
) -> None:
    """Delete one's own draft. 412 when a condition is not met."""
    await service.delete_draft(session, user, draft_id, precondition)


@router.post(
    "/{draft_id}/publish",
    status_code=201,
    response_model=PostRead,
    responses=problems(401, 404, 409, 422),
)
async def publish_draft(
    draft_id: DraftId, user: CurrentUser, session: IdempotentSession
) -> Response:
    """Publish one's own draft as a post. 409 `already_published` the second time."""
    post = await service.publish_draft(session, user, draft_id)
    headers = {"Location": f"/v1/posts/{post.id}"}
    return tagged_response(POST_READ, post, post.version, 201, headers)


def _to_response(
    draft: Draft | DraftRow, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response with the ETag of the draft."""
    return tagged_response(DRAFT_READ, draft, draft.version, status, headers)
