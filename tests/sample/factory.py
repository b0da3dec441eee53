"""Makes notes."""

from dataclasses import dataclass

from app.features.users.models import User
from coherent_cache import invalidate
from tests.factory import minute
from tests.features.users.factory import UserFactory
from tests.sample.notes import NEW_NOTES, Note, new_notes_by, note_tag


@dataclass(frozen=True)
class NoteFactory(UserFactory):
    """Makes notes, and users."""

    async def note(self, author: User | None = None, **values: object) -> Note:
        """Make a note."""
        author = author or await self.user()
        values = {"title": "A title", "body": "A body", **values}
        async with self.resources.database.transaction() as session:
            session.add(note := Note(author_id=author.id, **values))
            await session.flush()
            invalidate(session, note_tag(note.id), NEW_NOTES, new_notes_by(author.id))
        return note

    async def notes(self, number: int, author: User | None = None) -> list[Note]:
        """Make notes, each one minute younger than the one before. Every third pair is a tie."""
        author = author or await self.user()
        return [
            await self.note(author, title=f"Note {i}", created_at=minute(i)) for i in range(number)
        ]

    async def reply(
        self, note: Note | None = None, author: User | None = None, **values: object
    ) -> Note:
        """Make a reply to a note, which drops the cached replies of that note."""
        note = note or await self.note()
        reply = await self.note(author, parent_id=note.id, **values)
        async with self.resources.database.transaction() as session:
            invalidate(session, note_tag(note.id))
        return reply

    async def replies(self, number: int, note: Note) -> list[Note]:
        """Make replies to a note, each one minute younger than the one before, with ties."""
        author = await self.user()
        return [await self.reply(note, author, created_at=minute(i)) for i in range(number)]
