"""`/test/notes`: a small feature on which the tests of app/infra run.

It exists in the tests alone, so that a user of this project may delete every feature of the
service. It has one table, a cached list with pages, a cached read, a cached child list, an export,
and the three writes. A note may be a reply to another note.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, NamedTuple, TypeVar

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import MISSING, BaseModel, Field, TypeAdapter
from sqlalchemy import ForeignKey, Index, String, bindparam, func, select
from sqlalchemy import Text as TextColumn
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, aliased, joinedload, mapped_column, relationship

from app.errors import Forbidden, NotFound
from app.features.users import tags as users
from app.features.users.dependencies import CurrentUser
from app.features.users.models import AuthorRow, CallerRow, User
from app.features.users.queries import AUTHOR_COLUMNS, author_of
from app.features.users.schemas import Author
from app.infra.database.base import Base
from app.infra.database.export import Export
from app.infra.database.export_columns import Fields
from app.infra.database.pagination import KeysetList, Page
from app.infra.database.row_insert import RowInsert
from app.infra.database.row_query import RowQuery
from app.infra.database.rows import Columns
from app.infra.dependencies import Conditions, ExportPlace, PageQuery, ReadSession, WriteSession
from app.infra.events.feed import Event, Feed
from app.infra.validation.fields import KIB, Id, Input, Text
from app.infra.validation.page_schema import PageRead
from app.infra.web.cacheable import cacheable
from app.infra.web.etags import tagged_response
from app.infra.web.event_stream import EventStream, LastEventId
from app.infra.web.link_header import link_neighbours
from coherent_cache import invalidate, shows


class Note(Base):
    """A note. A reply has a parent."""

    __tablename__ = "test_notes"

    author_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("test_notes.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(String(200))
    body: Mapped[str] = mapped_column(TextColumn)
    version: Mapped[int] = mapped_column(server_default="1")

    author: Mapped[User] = relationship(lazy="raise")


Index(None, Note.created_at, Note.id)
Index(None, Note.author_id, Note.created_at, Note.id)
Index(None, Note.parent_id, Note.created_at, Note.id)


class NoteCreate(Input):
    title: Annotated[Text, Field(min_length=1, max_length=200)]
    body: Annotated[Text, Field(min_length=1, max_length=20_000)]


class NoteUpdate(Input):
    title: Annotated[Text, Field(min_length=1, max_length=200)] | MISSING = MISSING
    body: Annotated[Text, Field(min_length=1, max_length=20_000)] | MISSING = MISSING


class NoteRead(BaseModel):
    id: int
    author: Author
    title: str
    body: str
    version: int


class NotePage(PageRead[NoteRead]):
    """A page of notes."""


class NoteRow(NamedTuple):
    id: int
    author: AuthorRow
    title: str
    body: str
    version: int
    created_at: datetime


WITH_AUTHOR = joinedload(Note.author, innerjoin=True).load_only(
    User.id, User.name, User.avatar_url, raiseload=True
)
NOTE_COLUMNS = Columns(NoteRow, Note, author=AUTHOR_COLUMNS)
NOTES = select(Note)
BY_ID = NOTES.where(Note.id == bindparam("note_id"))
BY_ID_LOCKED = BY_ID.options(WITH_AUTHOR).with_for_update(of=Note)
NEW_NOTE = RowInsert(NOTE_COLUMNS)
NOTE_BY_ID = RowQuery(NOTE_COLUMNS, BY_ID)
ALL_NOTES = KeysetList("notes", NOTE_COLUMNS, NOTES, newest_first=True)
NOTES_BY_AUTHOR = KeysetList(
    "notes", NOTE_COLUMNS, NOTES.where(Note.author_id == bindparam("author_id")), newest_first=True
)
REPLIES = KeysetList(
    "replies", NOTE_COLUMNS, NOTES.where(Note.parent_id == bindparam("note_id")), newest_first=False
)
NEXT_REPLIES = RowQuery(
    NOTE_COLUMNS,
    NOTES.where(Note.parent_id == bindparam("note_id"), Note.id > bindparam("after")).order_by(
        Note.id
    ),
)
EXPORTED_FIELDS: Fields = {
    "id": Note.id,
    "author": {"id": User.id, "name": User.name, "avatar_url": User.avatar_url},
    "parent_id": Note.parent_id,
    "title": Note.title,
    "body": Note.body,
    "created_at": Note.created_at,
}
NOTES_AND_AUTHORS = select(Note).join(Note.author)
EXPORTED_NOTES = Export("notes", NOTES_AND_AUTHORS, Note, EXPORTED_FIELDS)
EXPORTED_BY_AUTHOR = Export(
    "notes",
    NOTES_AND_AUTHORS.where(Note.author_id == bindparam("author_id")),
    Note,
    EXPORTED_FIELDS,
)

NoteT = TypeVar("NoteT", Note, NoteRow)
NEW_NOTES = "notes:new"
NOTE_READ = TypeAdapter(NoteRead)
LARGEST_NOTE = 256 * KIB
NoteId = Annotated[Id, Path()]

# Left out of the OpenAPI document, which is the one of the service.
router = APIRouter(prefix="/test/notes", include_in_schema=False)


def note_tag(note_id: int) -> str:
    return f"note:{note_id}"


def new_notes_by(author_id: int) -> str:
    return f"{NEW_NOTES}:{author_id}"


def page_tags(page: Page[NoteRow], author_id: int | None) -> Iterator[str]:
    for row in page.rows:
        yield note_tag(row.id)
    for row in page.items:
        yield users.user(row.author.id)
    if not page.is_settled:
        yield NEW_NOTES if author_id is None else new_notes_by(author_id)


Reply = aliased(Note)
NEWEST_REPLIES = (
    select(Note.id, func.coalesce(func.max(Reply.id), 0).label("newest"))
    .outerjoin(Reply, Reply.parent_id == Note.id)
    .group_by(Note.id)
)


async def newest_replies(session: AsyncSession, note_ids: Sequence[int]) -> dict[int, int]:
    rows = await session.execute(NEWEST_REPLIES.where(Note.id.in_(note_ids)))
    return {row.id: row.newest for row in rows}


async def next_replies(
    session: AsyncSession, note_id: int, after: int, most: int
) -> Sequence[Event]:
    return [
        Event(one.id, NOTE_READ.dump_json(NOTE_READ.validate_python(one, from_attributes=True)))
        for one in await NEXT_REPLIES.all(session, limit=most, note_id=note_id, after=after)
    ]


NEW_REPLIES = Feed("reply", "There is no such note.", note_tag, newest_replies, next_replies)


@router.get("/{note_id}/replies/stream", response_class=EventStream)
async def stream_replies(note_id: NoteId, session: ReadSession, last: LastEventId) -> EventStream:
    return await EventStream.open(session, NEW_REPLIES, note_id, last)


@router.get("", response_model=NotePage)
@cacheable()
async def list_notes(
    request: Request,
    response: Response,
    session: ReadSession,
    query: PageQuery,
    author_id: Annotated[Id | None, Query()] = None,
) -> Page[NoteRow]:
    if author_id is None:
        page = await ALL_NOTES.page(session, query)
    else:
        page = await NOTES_BY_AUTHOR.page(session, query, author_id=author_id)
    shows(session, *page_tags(page, author_id))
    link_neighbours(request, response, page, limit=query.limit, author_id=author_id)
    return page


@router.post("", status_code=201, response_model=NoteRead, max_body_size=LARGEST_NOTE)
async def create_note(data: NoteCreate, user: CurrentUser, session: WriteSession) -> Response:
    note = await NEW_NOTE.one(
        session, author=author_of(user), author_id=user.id, title=data.title, body=data.body
    )
    invalidate(session, note_tag(note.id), NEW_NOTES, new_notes_by(user.id))
    headers = {"Location": f"/test/notes/{note.id}"}
    return tagged_response(NOTE_READ, note, note.version, 201, headers)


@router.get("/export")
async def export_notes(
    _user: CurrentUser, place: ExportPlace, author_id: Annotated[Id | None, Query()] = None
) -> Response:
    if author_id is None:
        return await place.respond(EXPORTED_NOTES)
    return await place.respond(EXPORTED_BY_AUTHOR, author_id=author_id)


@router.get("/{note_id}", response_model=NoteRead)
@cacheable()
async def read_note(note_id: NoteId, session: ReadSession) -> Response:
    shows(session, note_tag(note_id))
    note = existing(await NOTE_BY_ID.first(session, note_id=note_id))
    shows(session, users.user(note.author.id))
    return tagged_response(NOTE_READ, note, note.version)


@router.patch("/{note_id}", response_model=NoteRead, max_body_size=LARGEST_NOTE)
async def update_note(
    note_id: NoteId,
    data: NoteUpdate,
    user: CurrentUser,
    session: WriteSession,
    precondition: Conditions,
) -> Response:
    note = await own_note(session, user, note_id)
    precondition.require(note.version)
    for field, value in data.model_dump().items():
        setattr(note, field, value)
    if session.is_modified(note):
        note.version += 1
        await session.flush()
        invalidate(session, note_tag(note.id))
    return tagged_response(NOTE_READ, note, note.version)


@router.delete("/{note_id}", status_code=204, response_class=Response)
async def delete_note(
    note_id: NoteId, user: CurrentUser, session: WriteSession, precondition: Conditions
) -> None:
    note = await own_note(session, user, note_id)
    precondition.require(note.version)
    await session.delete(note)
    invalidate(session, note_tag(note.id))


@router.get("/{note_id}/replies", response_model=NotePage)
@cacheable()
async def list_replies(
    note_id: NoteId, request: Request, response: Response, session: ReadSession, query: PageQuery
) -> Page[NoteRow]:
    shows(session, note_tag(note_id))
    page = await REPLIES.page(session, query, note_id=note_id)
    if not page.items:
        existing(await NOTE_BY_ID.first(session, note_id=note_id))
    shows(session, *(users.user(reply.author.id) for reply in page.items))
    link_neighbours(request, response, page, limit=query.limit)
    return page


async def own_note(session: AsyncSession, author: CallerRow, note_id: int) -> Note:
    note = existing(await session.scalar(BY_ID_LOCKED, {"note_id": note_id}))
    if note.author_id != author.id:
        raise Forbidden("Only its author may change a note.")
    return note


def existing(note: NoteT | None) -> NoteT:
    if note is None:
        raise NotFound("There is no such note.")
    return note
