"""A little database whose rows only count how often they were changed, and who shows what.

A view is what an entry shows: the version of each row in it. `page` shows a changing set of rows,
whose tags are known only once it is loaded; `item:<row>` shows one row.
"""

import json
from dataclasses import dataclass, field

from app.infra.cache.entry import Entry

ROWS = (1, 2)
HIDDEN_AT_FIRST = 2
KEYS = ("page", "item:1", "item:2")

View = dict[int, int]


@dataclass(frozen=True)
class Change:
    """A committed write: the row's new version, and the tags that the writer names."""

    row: int
    version: int
    tags: tuple[str, ...]


@dataclass
class Seen:
    """The least that a view must show: a version of each row, and since when it is on the page."""

    versions: View = field(default_factory=lambda: dict.fromkeys(ROWS, 0))
    on_page_since: View = field(default_factory=lambda: dict.fromkeys(ROWS, 0))

    def add(self, change: Change) -> None:
        row = change.row
        self.versions[row] = max(self.versions[row], change.version)
        if "new" in change.tags:
            self.on_page_since[row] = max(self.on_page_since[row], change.version)

    def copy(self) -> "Seen":
        return Seen(dict(self.versions), dict(self.on_page_since))


class Database:
    """Committed versions of each row; for each, whether the page shows the row."""

    def __init__(self) -> None:
        self._shown = {row: [row != HIDDEN_AT_FIRST] for row in ROWS}

    def write(self, row: int, *, shown: bool) -> Change:
        """Commit a new version. A row that comes onto the page is `new`; one that leaves is not."""
        was_shown = self._shown[row][-1]
        self._shown[row].append(shown)
        tags = (f"row:{row}", "new") if shown and not was_shown else (f"row:{row}",)
        return Change(row, len(self._shown[row]) - 1, tags)

    async def load(self, key: str) -> Entry:
        """Read what is committed at this moment."""
        rows = [row for row in ROWS if self._shown[row][-1]] if key == "page" else [int(key[5:])]
        view = {row: len(self._shown[row]) - 1 for row in rows}
        tags = [f"row:{row}" for row in rows] + ["new"] * (key == "page")
        return Entry(key, tuple(tags), json.dumps(view).encode())

    def is_old(self, entry: Entry, least: Seen) -> bool:
        """Whether an entry shows less than it must, or misses a row that was there all along."""
        view = {int(row): version for row, version in json.loads(entry.value).items()}
        for row, version in view.items():
            if version < least.versions[row]:
                return True
        missing = [row for row in ROWS if row not in view] if entry.key == "page" else []
        return any(all(self._shown[row][least.on_page_since[row] :]) for row in missing)
