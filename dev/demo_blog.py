"""Decides when people join a blog and write, and what a module in dev/demo declares.

Each table draws from a random generator of its own. The rows of a table therefore stay the same
when the feature of another table is removed.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import sqrt
from random import Random

from dev.demo_text import TOPICS, Topic, topics

END = datetime(2026, 1, 1, tzinfo=UTC)
START = END - timedelta(days=730)
# Moments are counted in microseconds since START.
SPAN = (END - START) // timedelta(microseconds=1)
MINUTE = 60_000_000

Row = tuple[object, ...]


class Draws:
    """Random choices for one table."""

    def __init__(self, table: str) -> None:
        self.rng = Random(f"a believable community: {table}")  # noqa: S311 - no secrets here

    def topics(self) -> list[Topic]:
        return topics(self.rng)

    def rank(self, size: int, flat: int) -> int:
        """Pick a number below `size`: n with a probability of about 1 / (n + flat) (Zipf's law)."""
        return min(int(flat * (1 + size / flat) ** self.rng.random()) - flat, size - 1)

    def after(self, moment: int) -> int:
        """Pick a moment at least a minute later; most are within a few days."""
        return moment + MINUTE + int((SPAN - moment) * self.rng.random() ** 8)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share


class Blog:
    """When people join and write. `size` is the number of texts; a tenth as many people join."""

    def __init__(self, size: int) -> None:
        self.size = size
        rng = Draws("blog").rng
        # User 1 joins at START, so that every text has an author who joined before.
        self.joined = [0, *sorted(rng.randrange(SPAN) for _ in range(size // 10 - 1))]
        # Each text has its own slice of time, which keeps texts in order; the square root makes
        # the blog busier over the years.
        slices = (n + rng.uniform(0.1, 0.9) for n in range(size))
        self.written = [int(SPAN * sqrt(n / size)) for n in slices]
        self.topic_of = rng.choices(range(len(TOPICS)), k=size)

    def author(self, draws: Draws, moment: int) -> int:
        """Pick a user who had joined by then; the first members are the most active."""
        return 1 + draws.rank(bisect_left(self.joined, moment), 20)


@dataclass(frozen=True)
class Table:
    """The rows of a table. `columns` has the names of their columns, separated by spaces.

    `adds` has values for columns of other tables, in the order of their rows.
    """

    name: str
    columns: str
    total: int
    rows: Iterable[Row]
    adds: Mapping[str, Mapping[str, Sequence[object]]] = field(default_factory=dict)


def no_tables(_: Blog) -> list[Table]:
    return []


@dataclass(frozen=True)
class Demo:
    """What `make run` has of a feature: rows, pages to open, and commands to try.

    `{url}` in a command is the address of the service, and `$TOKEN` a token of the demo user.
    """

    tables: Callable[[Blog], list[Table]] = no_tables
    pages: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    commands_with_token: Mapping[str, str] = field(default_factory=dict)


def time_of(moment: int) -> datetime:
    return START + timedelta(microseconds=moment)
