"""Fixtures for the tests of jobs."""

import pytest

from app.infra.resources import ProcessResources
from tests.sample import jobs  # noqa: F401 - declares the jobs that the tests run
from tests.sample.factory import NoteFactory
from tests.sample.notes import Note


@pytest.fixture(autouse=True)
def empty_queue(clean: None) -> None:
    """Leave no jobs behind."""


@pytest.fixture
async def note(make: NoteFactory) -> Note:
    return await make.note(body="Body")


@pytest.fixture
def body(resources: ProcessResources, note: Note) -> "Body":
    return Body(resources, note.id)


class Body:
    """Reads the body of the note from the database."""

    def __init__(self, resources: ProcessResources, note_id: int) -> None:
        self._resources, self._note_id = resources, note_id

    async def read(self) -> str:
        async with self._resources.database.read() as session:
            return (await session.get_one(Note, self._note_id)).body
