"""Operations on drafts. Nothing is cached, so nothing is invalidated."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import TypeVar

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, NotFound
from app.features.drafts import queries
from app.features.drafts.models import UNIQUE_TITLE, Draft, DraftRow, DraftStatus
from app.features.drafts.schemas import DraftCreate, DraftUpdate
from app.features.posts import service as posts
from app.features.posts.models import PostRow
from app.features.posts.schemas import PostCreate
from app.features.users import service as users
from app.features.users.models import CallerRow
from app.features.users.queries import read_caller
from app.infra.database.error_mapping import violated_constraint
from app.infra.database.pagination import Page, PageRequest
from app.infra.validation.preconditions import Precondition

DUE_PAGE_SIZE = 1_000
DraftT = TypeVar("DraftT", Draft, DraftRow)


async def list_drafts(
    session: AsyncSession, owner: CallerRow, query: PageRequest, status: DraftStatus | None
) -> Page[DraftRow]:
    if status is None:
        return await queries.ALL_DRAFTS.page(session, query, owner_id=owner.id)
    return await queries.DRAFTS_BY_STATUS.page(session, query, owner_id=owner.id, status=status)


async def read_draft(session: AsyncSession, owner: CallerRow, draft_id: int) -> DraftRow:
    """Return the caller's draft, or raise `NotFound`."""
    return _require_existing(await queries.get_draft(session, owner, draft_id))


async def create_draft(session: AsyncSession, owner: CallerRow, data: DraftCreate) -> DraftRow:
    await users.keep_account(session, owner)
    values = data.model_dump() | {"status": _planned_status(data.publish_on)}
    with _refuse_taken_title():
        return await queries.insert_draft(session, owner, values)


async def update_draft(
    session: AsyncSession,
    owner: CallerRow,
    draft_id: int,
    data: DraftUpdate,
    precondition: Precondition,
) -> Draft:
    """Change the caller's draft. Its version increases if anything changes."""
    draft = await _own_draft(session, owner, draft_id)
    precondition.require(draft.version)
    _require_unpublished(draft)
    for field, value in data.model_dump().items():
        setattr(draft, field, value)
    draft.status = _planned_status(draft.publish_on)
    if session.is_modified(draft):
        draft.version += 1
        with _refuse_taken_title():
            await session.flush()
    return draft


async def delete_draft(
    session: AsyncSession, owner: CallerRow, draft_id: int, precondition: Precondition
) -> None:
    """Delete the caller's draft."""
    draft = await _own_draft(session, owner, draft_id)
    precondition.require(draft.version)
    await queries.delete_draft(session, owner, draft_id)


async def publish_draft(session: AsyncSession, owner: CallerRow, draft_id: int) -> PostRow:
    """Make a post from the caller's draft, once. The post stays if the draft is deleted.

    The draft is locked until the commit, so a concurrent call sees that it is published.
    `posts.create_post` invalidates the cached lists that will show the post.
    """
    draft = await _own_draft(session, owner, draft_id)
    _require_unpublished(draft)
    return await _publish(session, owner, draft)


async def due_drafts(session: AsyncSession) -> AsyncIterator[Sequence[int]]:
    """Yield the ids of drafts whose date has come, page by page. Those of disabled owners wait."""
    today, after = _today(), (date.min, 0)
    while page := await queries.list_due_drafts(session, today, after, DUE_PAGE_SIZE):
        yield [draft_id for _, draft_id in page]
        after = page[-1]


async def publish_due_draft(session: AsyncSession, draft_id: int) -> None:
    """Publish a draft for its owner, unless it is not due any more, or its owner is disabled."""
    draft = await queries.lock_due_draft(session, draft_id, _today())
    if draft is None:
        return
    owner = await read_caller(session, draft.owner_id)
    if owner is not None and not owner.disabled:
        await _publish(session, owner, draft)


async def _publish(session: AsyncSession, owner: CallerRow, draft: Draft) -> PostRow:
    post = await posts.create_post(session, owner, PostCreate(title=draft.title, body=draft.body))
    draft.status, draft.post_id = DraftStatus.PUBLISHED, post.id
    draft.version += 1
    return post


def _today() -> date:
    return datetime.now(UTC).date()


async def _own_draft(session: AsyncSession, owner: CallerRow, draft_id: int) -> Draft:
    return _require_existing(await queries.lock_draft(session, owner, draft_id))


def _require_existing(draft: DraftT | None) -> DraftT:
    if draft is None:
        raise NotFound("There is no such draft.")
    return draft


def _require_unpublished(draft: Draft) -> None:
    if draft.status is DraftStatus.PUBLISHED:
        raise Conflict("The draft has been published.", code="already_published")


def _planned_status(publish_on: date | None) -> DraftStatus:
    return DraftStatus.DRAFT if publish_on is None else DraftStatus.SCHEDULED


@contextmanager
def _refuse_taken_title() -> Iterator[None]:
    """Raise `Conflict` if the owner has another draft with the same title."""
    try:
        yield
    except IntegrityError as error:
        if violated_constraint(error) != UNIQUE_TITLE:
            raise
        raise Conflict("You have a draft with this title already.", code="title_taken") from None
