"""A model of the database. Its rows only count how often they were changed.

An entry shows a view: the version of each row in it. The key `page` shows a changing set of rows,
whose tags are known only after the load. A key `item:<row>` shows one row.
"""

import json
from dataclasses import dataclass, field

from coherent_cache.entry import Entry

ROWS = (1, 2)
HIDDEN_AT_FIRST = 2
KEYS = ("page", "item:1", "item:2")

View = dict[int, int]  # the version of each row


@dataclass(frozen=True)
class Change:
    """A committed write: the row, its new version, and the tags that the writer invalidates."""

    row: int
    version: int
    tags: tuple[str, ...]


@dataclass
class RequiredVersions:
    """What a view must show at least: a version of each row, and since when it is on the page."""

    versions: View = field(default_factory=lambda: dict.fromkeys(ROWS, 0))
    on_page_since: View = field(default_factory=lambda: dict.fromkeys(ROWS, 0))

    def add(self, change: Change) -> None:
        row = change.row
        self.versions[row] = max(self.versions[row], change.version)
        if "new" in change.tags:
            self.on_page_since[row] = max(self.on_page_since[row], change.version)

    def copy(self) -> "RequiredVersions":
        return RequiredVersions(dict(self.versions), dict(self.on_page_since))


class Database:
    """The committed versions of each row, and for each version whether the page shows the row."""

    def __init__(self) -> None:
        self._is_shown = {row: [row != HIDDEN_AT_FIRST] for row in ROWS}

    def write(self, row: int, *, is_shown: bool) -> Change:
        """Commit a new version. A row that comes onto the page also invalidates the tag `new`."""
        was_shown = self._is_shown[row][-1]
        self._is_shown[row].append(is_shown)
        tags = (f"row:{row}", "new") if is_shown and not was_shown else (f"row:{row}",)
        return Change(row, len(self._is_shown[row]) - 1, tags)

    async def load(self, key: str) -> Entry:
        """Load what is committed at this moment."""
        on_page = [row for row in ROWS if self._is_shown[row][-1]]
        rows = on_page if key == "page" else [int(key[5:])]
        view = {row: len(self._is_shown[row]) - 1 for row in rows}
        tags = [f"row:{row}" for row in rows] + ["new"] * (key == "page")
        return Entry(key, tuple(tags), json.dumps(view).encode())

    def is_stale(self, entry: Entry, required: RequiredVersions) -> bool:
        """Whether an entry shows a version below the required one, or lacks a required row.

        The page may lack a row if the row was hidden at some version since the required one.
        """
        view = {int(row): version for row, version in json.loads(entry.value).items()}
        for row, version in view.items():
            if version < required.versions[row]:
                return True
        missing = [row for row in ROWS if row not in view] if entry.key == "page" else []
        return any(all(self._is_shown[row][required.on_page_since[row] :]) for row in missing)
