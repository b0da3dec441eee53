"""Fills an empty database with a believable community, to try the service out and to measure it.

The same number of posts gives the same rows on every machine; a load is stored whole or not at all.
"""

import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from math import sqrt
from random import Random

import asyncpg
from argon2 import PasswordHasher

from app.addresses import asyncpg_arguments, postgresql_url
from dev.demo_text import person, topics

DEMO_EMAIL = "demo@example.com"
DEMO_PASSWORD = "demo-password"
SALT = b"demo data's salt"  # a random one would make every load differ

END = datetime(2026, 1, 1, tzinfo=UTC)
START = END - timedelta(days=730)
SPAN = (END - START) // timedelta(microseconds=1)

COLUMNS = {
    "users": "id email name bio avatar_url password_hash created_at updated_at",
    "posts": "id author_id title body comment_count version created_at updated_at",
    "comments": "id post_id author_id body created_at",
}

Rows = Iterator[tuple[object, ...]]
Progress = Callable[[str, int, int], None]


class DatabaseNotEmpty(Exception):
    """The database has users already."""


async def load(
    database_url: str, posts: int = 100_000, *, progress: Progress | None = None
) -> None:
    """Store `posts` posts, a tenth as many users and three times as many comments."""
    if posts < 1:
        raise ValueError("Demo data has at least one post.")
    connection = await asyncpg.connect(**asyncpg_arguments(postgresql_url(database_url)))
    try:
        async with connection.transaction():
            await _claim(connection)
            for table, (total, rows) in Community(posts).tables().items():
                await _copy(connection, table, total, rows, progress or _draw)
        await connection.execute("ANALYZE users, posts, comments")
    finally:
        await connection.close()


async def _claim(connection: asyncpg.Connection) -> None:
    # The lock makes a sign-up wait for the end of the load instead of taking one of its ids.
    await connection.execute("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE")
    if await connection.fetchval("SELECT EXISTS (SELECT FROM users)"):
        raise DatabaseNotEmpty("Demo data needs an empty database, and this one has users.")


async def _copy(
    connection: asyncpg.Connection, table: str, total: int, rows: Rows, progress: Progress
) -> None:
    step = max(1, total // 100)

    def watched() -> Rows:
        for done, row in enumerate(rows):
            if done % step == 0:
                progress(table, done, total)
            yield row

    columns = COLUMNS[table].split()
    await connection.copy_records_to_table(table, records=watched(), columns=columns)
    await connection.execute("SELECT setval(pg_get_serial_sequence($1, 'id'), $2)", table, total)
    progress(table, total, total)


class Community:
    """Who joins, posts and comments when, in microseconds since START.

    The tables draw from one generator: they have to be read in their order, and once.
    """

    def __init__(self, posts: int) -> None:
        self._rng = rng = Random("a believable community")  # noqa: S311 - no secrets here
        self._topics = topics(rng)
        # User 1 is there at the start, so that every post finds an author.
        self._joined = [0, *sorted(rng.randrange(SPAN) for _ in range(posts // 10 - 1))]
        # Each post has a slice of time, which keeps them in order; the root crowds recent ones.
        slices = (n + rng.uniform(0.1, 0.9) for n in range(posts))
        self._posted = [int(SPAN * sqrt(n / posts)) for n in slices]
        self._topic_of = rng.choices(self._topics, k=posts)
        popular = rng.sample(range(posts), posts)
        occasions = (popular[self._rank(posts, 10)] for _ in range(3 * posts))
        self._comments = sorted((self._after(self._posted[n]), n) for n in occasions)

    def tables(self) -> dict[str, tuple[int, Rows]]:
        """Return how many rows each table gets, and the rows."""
        return {
            "users": (len(self._joined), self._user_rows()),
            "posts": (len(self._posted), self._post_rows()),
            "comments": (len(self._comments), self._comment_rows()),
        }

    def _user_rows(self) -> Rows:
        password_hash = PasswordHasher().hash(DEMO_PASSWORD, salt=SALT)
        for user, joined in enumerate(self._joined, 1):
            name, address = person(self._rng)
            email = f"{address}.{user}@example.com"
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
            author, times = self._member(posted), (_time(posted), _time(updated))
            yield post + 1, author, title, body, comments[post], version, *times

    def _comment_rows(self) -> Rows:
        for comment, (moment, post) in enumerate(self._comments, 1):
            body = self._topic_of[post].comment()
            yield comment, post + 1, self._member(moment), body, _time(moment)

    def _member(self, moment: int) -> int:
        """Pick a user who has joined by then; the oldest are the most active."""
        return 1 + self._rank(bisect_left(self._joined, moment), 20)

    def _rank(self, size: int, flat: int) -> int:
        """Pick a number below `size`, n about as often as 1 / (n + flat): Zipf's law."""
        return min(int(flat * (1 + size / flat) ** self._rng.random()) - flat, size - 1)

    def _after(self, moment: int) -> int:
        """Pick a later moment, more often than not one soon after."""
        return moment + 1 + int((SPAN - moment) * self._rng.random() ** 8)

    def _chance(self, share: float) -> bool:
        return self._rng.random() < share


def _time(moment: int) -> datetime:
    return START + timedelta(microseconds=moment)


def _draw(table: str, done: int, total: int) -> None:
    """Draw a bar on a terminal; elsewhere print a line per table."""
    if sys.stderr.isatty():
        bar = "#" * (40 * done // total)
        end = "\n" if done == total else ""
        print(f"\r{table:<9}[{bar:<40}] {done:>9,}", end=end, file=sys.stderr, flush=True)
    elif done == total:
        print(f"{table}: {total:,} rows", file=sys.stderr, flush=True)
