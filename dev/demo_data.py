"""Fills an empty database with the demo data: members of a blog, their posts and comments.

The same number of posts gives the same rows on every machine. All rows are stored in one
transaction.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from math import sqrt
from random import Random

import asyncpg
from argon2 import PasswordHasher

from app.infra.settings_base.urls import asyncpg_arguments, postgresql_url
from dev.demo_text import full_name, topics
from dev.terminal import StatusLine

DEMO_EMAIL = "demo@example.com"
DEMO_PASSWORD = "demo-password"
SALT = b"demo data's salt"  # a fixed salt, so that equal loads store equal rows

END = datetime(2026, 1, 1, tzinfo=UTC)
START = END - timedelta(days=730)
# Moments are counted in microseconds since START.
SPAN = (END - START) // timedelta(microseconds=1)
MINUTE = 60_000_000

COLUMNS = {
    "users": "id email name bio avatar_url password_hash created_at updated_at",
    "posts": "id author_id title body comment_count version created_at updated_at",
    "comments": "id post_id author_id body created_at",
}

Rows = Iterator[tuple[object, ...]]
Progress = Callable[[str, int, int], None]


class DatabaseNotEmpty(Exception):
    """The database has users already."""


async def load(database_url: str, posts: int, *, progress: Progress | None = None) -> None:
    """Store `posts` posts, a tenth as many users and three times as many comments."""
    progress = progress or _terminal_progress()
    connection = await asyncpg.connect(**asyncpg_arguments(postgresql_url(database_url)))
    try:
        async with connection.transaction():
            # Sign-ups wait for the end of the load; one of them could take an id of the demo data.
            await connection.execute("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE")
            if await connection.fetchval("SELECT EXISTS (SELECT FROM users)"):
                raise DatabaseNotEmpty("The demo data needs an empty database; this one has users.")
            for table, (total, rows) in Blog(posts).tables().items():
                await _copy(connection, table, total, rows, progress)
        await connection.execute("ANALYZE users, posts, comments")
    finally:
        await connection.close()


async def _copy(
    connection: asyncpg.Connection, table: str, total: int, rows: Rows, progress: Progress
) -> None:
    step = max(1, total // 100)

    def with_progress() -> Rows:
        for done, row in enumerate(rows):
            if done % step == 0:
                progress(table, done, total)
            yield row

    columns = COLUMNS[table].split()
    await connection.copy_records_to_table(table, records=with_progress(), columns=columns)
    await connection.execute("SELECT setval(pg_get_serial_sequence($1, 'id'), $2)", table, total)
    progress(table, total, total)


def _terminal_progress() -> Progress:
    line = StatusLine()

    def show(table: str, done: int, total: int) -> None:
        if done < total:
            line.show(f"Loading demo {table}: {done:,} of {total:,}")
        else:
            line.finish(f"Loaded {total:,} demo {table}")

    return show


class Blog:
    """Decides who joins, posts and comments, and when.

    All tables draw from one generator of random numbers: read the rows of each table once, in the
    order of `tables`.
    """

    def __init__(self, posts: int) -> None:
        self._rng = rng = Random("a believable community")  # noqa: S311 - no secrets here
        self._topics = topics(rng)
        # User 1 joins at START, so that every post has an author who joined before.
        self._joined = [0, *sorted(rng.randrange(SPAN) for _ in range(posts // 10 - 1))]
        # Each post has its own slice of time, which keeps posts in order; the square root makes
        # the blog busier over the years.
        slices = (n + rng.uniform(0.1, 0.9) for n in range(posts))
        self._posted = [int(SPAN * sqrt(n / posts)) for n in slices]
        self._topic_of = rng.choices(self._topics, k=posts)
        popular = rng.sample(range(posts), posts)
        commented = (popular[self._rank(posts, 10)] for _ in range(3 * posts))
        self._comments = sorted((self._after(self._posted[n]), n) for n in commented)

    def tables(self) -> dict[str, tuple[int, Rows]]:
        """Return the number of rows and the rows of each table."""
        return {
            "users": (len(self._joined), self._user_rows()),
            "posts": (len(self._posted), self._post_rows()),
            "comments": (len(self._comments), self._comment_rows()),
        }

    def _user_rows(self) -> Rows:
        password_hash = PasswordHasher().hash(DEMO_PASSWORD, salt=SALT)
        for user, joined in enumerate(self._joined, 1):
            name, email = full_name(self._rng), f"member{user}@example.com"
            if user == 1:
                name, email = "Demo User", DEMO_EMAIL
            bio = self._rng.choice(self._topics).bio() if self._chance(0.6) else ""
            avatar = f"https://example.com/avatars/{user}.png" if self._chance(0.5) else None
            updated = self._after(joined) if self._chance(0.3) else joined
            yield user, email, name, bio, avatar, password_hash, _time(joined), _time(updated)

    def _post_rows(self) -> Rows:
        comments = Counter(post for _, post in self._comments)
        for post, posted in enumerate(self._posted):
            title, body = self._topic_of[post].post()
            version, updated = 1, posted
            if self._chance(0.04):
                version, updated = self._rng.randint(2, 4), self._after(posted)
            author, times = self._author(posted), (_time(posted), _time(updated))
            yield post + 1, author, title, body, comments[post], version, *times

    def _comment_rows(self) -> Rows:
        for comment, (moment, post) in enumerate(self._comments, 1):
            body = self._topic_of[post].comment()
            yield comment, post + 1, self._author(moment), body, _time(moment)

    def _author(self, moment: int) -> int:
        """Pick a user who had joined by then; the first members are the most active."""
        return 1 + self._rank(bisect_left(self._joined, moment), 20)

    def _rank(self, size: int, flat: int) -> int:
        """Pick a number below `size`: n with a probability of about 1 / (n + flat) (Zipf's law)."""
        return min(int(flat * (1 + size / flat) ** self._rng.random()) - flat, size - 1)

    def _after(self, moment: int) -> int:
        """Pick a moment at least a minute later; most are within a few days."""
        return moment + MINUTE + int((SPAN - moment) * self._rng.random() ** 8)

    def _chance(self, share: float) -> bool:
        return self._rng.random() < share


def _time(moment: int) -> datetime:
    return START + timedelta(microseconds=moment)
