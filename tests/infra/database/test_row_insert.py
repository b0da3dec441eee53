"""An inserted row is returned as the database has stored it, in the transaction of its session."""

from typing import Any, NamedTuple

import pytest
from sqlalchemy import BigInteger, Identity, bindparam, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.features.users.models import AuthorRow, User
from app.infra.database.row_insert import RowInsert
from app.infra.database.row_query import RowQuery
from app.infra.database.rows import Columns
from app.infra.resources import ProcessResources
from tests.application import recorded_statements
from tests.sample.factory import NoteFactory
from tests.sample.notes import NEW_NOTE, NOTE_BY_ID, Note

AUTHOR = AuthorRow(0, "Nobody", None)


async def test_the_row_has_what_the_database_has_added(
    resources: ProcessResources, make: NoteFactory
) -> None:
    user = await make.user()
    author = AuthorRow(user.id, user.name, None)
    async with resources.database.transaction() as session:
        note = await NEW_NOTE.one(
            session, author=author, author_id=user.id, title="Title", body="Body"
        )
    assert (note.author, note.title, note.body, note.version) == (author, "Title", "Body", 1)
    async with resources.database.read() as session:
        assert await NOTE_BY_ID.first(session, note_id=note.id) == note


async def test_a_rollback_removes_the_row(resources: ProcessResources, make: NoteFactory) -> None:
    user = await make.user()
    with pytest.raises(ZeroDivisionError):
        async with resources.database.transaction() as session:
            note = await NEW_NOTE.one(
                session, author=AUTHOR, author_id=user.id, title="Title", body="Body"
            )
            raise ZeroDivisionError
    async with resources.database.read() as session:
        assert await NOTE_BY_ID.first(session, note_id=note.id) is None


async def test_it_is_one_statement(resources: ProcessResources, make: NoteFactory) -> None:
    user = await make.user()
    async with resources.database.transaction() as session:
        with recorded_statements(resources) as statements:
            await NEW_NOTE.one(session, author=AUTHOR, author_id=user.id, title="T", body="B")
    assert [statement.split()[0] for statement in statements] == ["INSERT"]


async def test_objects_of_the_session_are_written_first(resources: ProcessResources) -> None:
    async with resources.database.transaction() as session:
        session.add(User(id=987_654, email="new@example.com", name="New", password_hash="x"))
        note = await NEW_NOTE.one(
            session, author=AUTHOR, author_id=987_654, title="Title", body="Body"
        )
        found = await session.scalar(select(Note).where(Note.id == note.id))
    assert found is not None


async def test_a_broken_constraint_is_an_integrity_error(resources: ProcessResources) -> None:
    with pytest.raises(IntegrityError):
        async with resources.database.transaction() as session:
            await NEW_NOTE.one(session, author=AUTHOR, author_id=0, title="Title", body="Body")


async def test_a_session_for_reading_refuses_it(resources: ProcessResources) -> None:
    with pytest.raises(TypeError, match="for reading"):
        async with resources.database.read() as session:
            await NEW_NOTE.one(session, author=AUTHOR, author_id=1, title="Title", body="Body")


async def test_an_inner_row_cannot_be_left_out(resources: ProcessResources) -> None:
    async with resources.database.transaction() as session:
        with pytest.raises(TypeError, match="NoteRow needs author"):
            await NEW_NOTE.one(session, author_id=1, title="Title", body="Body")


class HeadingRow(NamedTuple):
    id: int
    heading: str
    length: int


class Renamed(DeclarativeBase):
    """Has another table of the same name in its metadata."""


class Headed(Renamed):
    """A note whose attributes have other names than its columns."""

    __tablename__ = "test_notes"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    author: Mapped[int] = mapped_column("author_id", BigInteger)
    heading: Mapped[str] = mapped_column("title")
    body: Mapped[str] = mapped_column(default="by default")


async def test_values_and_fields_have_the_names_of_attributes(
    resources: ProcessResources, make: NoteFactory
) -> None:
    entity: Any = Headed
    new = RowInsert(Columns(HeadingRow, entity, length=func.length(Headed.body)))
    user = await make.user()
    async with resources.database.transaction() as session:
        row = await new.one(session, author=user.id, heading="Title")
    assert row == HeadingRow(row.id, "Title", len("by default"))


async def test_a_field_that_an_expression_fills_is_the_same_when_read_later(
    resources: ProcessResources, make: NoteFactory
) -> None:
    class LoudRow(NamedTuple):
        id: int
        title: str

    loud = Columns(LoudRow, Note, title=func.upper(Note.title))
    user = await make.user()
    async with resources.database.transaction() as session:
        row = await RowInsert(loud).one(session, author_id=user.id, title="Title", body="Body")
        by_id = RowQuery(loud, select(Note).where(Note.id == bindparam("note_id")))
        assert row == await by_id.first(session, note_id=row.id) == LoudRow(row.id, "TITLE")
