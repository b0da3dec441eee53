"""SQL for drafts.

Each statement names the owner, so nobody can reach the draft of another user. Those for drafts that
are due are run by jobs.
"""

from collections.abc import Mapping
from datetime import date

from sqlalchemy import bindparam, delete, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.features.drafts.models import Draft, DraftRow, DraftStatus
from app.features.users.models import CallerRow, User
from app.infra.database.pagination import KeysetList
from app.infra.database.row_insert import RowInsert
from app.infra.database.row_query import RowQuery
from app.infra.database.rows import Columns

OWN_DRAFTS = select(Draft).where(Draft.owner_id == bindparam("owner_id"))
BY_ID = OWN_DRAFTS.where(Draft.id == bindparam("draft_id"))
BY_ID_LOCKED = BY_ID.with_for_update()

DRAFT_COLUMNS = Columns(DraftRow, Draft)
DRAFT_BY_ID = RowQuery(DRAFT_COLUMNS, BY_ID)
NEW_DRAFT = RowInsert(DRAFT_COLUMNS)
ALL_DRAFTS = KeysetList("drafts", DRAFT_COLUMNS, OWN_DRAFTS, newest_first=True)
DRAFTS_BY_STATUS = KeysetList(
    "drafts",
    DRAFT_COLUMNS,
    OWN_DRAFTS.where(Draft.status == bindparam("status")),
    newest_first=True,
)

DUE = select(Draft).where(
    Draft.status == DraftStatus.SCHEDULED, Draft.publish_on <= bindparam("today")
)
DUE_PAGE = (
    DUE.with_only_columns(Draft.publish_on, Draft.id)
    .join(User, User.id == Draft.owner_id)
    .where(~User.disabled)
    .where(
        tuple_(Draft.publish_on, Draft.id) > tuple_(bindparam("after_date"), bindparam("after_id"))
    )
    .order_by(Draft.publish_on, Draft.id)
    .limit(bindparam("most"))
)
DUE_LOCKED = DUE.where(Draft.id == bindparam("draft_id")).with_for_update()


async def get_draft(session: AsyncSession, owner: CallerRow, draft_id: int) -> DraftRow | None:
    return await DRAFT_BY_ID.first(session, owner_id=owner.id, draft_id=draft_id)


async def lock_draft(session: AsyncSession, owner: CallerRow, draft_id: int) -> Draft | None:
    """Return the draft, and lock it until the transaction ends."""
    return await session.scalar(BY_ID_LOCKED, {"owner_id": owner.id, "draft_id": draft_id})


async def insert_draft(
    session: AsyncSession, owner: CallerRow, values: Mapping[str, object]
) -> DraftRow:
    """Insert a draft. Raises `IntegrityError` for UNIQUE_TITLE if its owner has this title."""
    return await NEW_DRAFT.one(session, owner_id=owner.id, **values)


async def delete_draft(session: AsyncSession, owner: CallerRow, draft_id: int) -> None:
    await session.execute(delete(Draft).where(Draft.owner_id == owner.id, Draft.id == draft_id))


async def list_due_drafts(
    session: AsyncSession, today: date, after: tuple[date, int], most: int
) -> list[tuple[date, int]]:
    """Return the dates and ids of the next due drafts whose owner is not disabled, in order."""
    after_date, after_id = after
    values = {"today": today, "after_date": after_date, "after_id": after_id, "most": most}
    return [(row.publish_on, row.id) for row in await session.execute(DUE_PAGE, values)]


async def lock_due_draft(session: AsyncSession, draft_id: int, today: date) -> Draft | None:
    """Return the draft of any owner and lock it, or None if it is not due."""
    return await session.scalar(DUE_LOCKED, {"draft_id": draft_id, "today": today})
