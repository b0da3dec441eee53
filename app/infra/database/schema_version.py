"""The schema revisions that this code knows, read from `migrations/`."""

from dataclasses import dataclass
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

PROJECT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Revisions:
    """The newest revision (`head`), and all revisions before it."""

    head: str
    older: frozenset[str]

    def is_behind(self, revision: str | None) -> bool:
        """Return whether a database at `revision` lacks a migration that this code needs.

        An unknown revision was created by newer code, so it is not behind.
        """
        return revision is None or revision in self.older


def read_revisions() -> Revisions:
    """Read the migration scripts. Raises an error of Alembic when there are two heads."""
    scripts = ScriptDirectory.from_config(Config(toml_file=PROJECT / "pyproject.toml"))
    head = scripts.get_current_head()
    if head is None:
        raise RuntimeError("migrations/versions has no migrations.")
    known = {script.revision for script in scripts.walk_revisions()}
    return Revisions(head, frozenset(known - {head}))
