"""An inserted row is returned as the database has stored it, in the transaction of its session."""

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from app.features.users.models import AuthorRow, User
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
