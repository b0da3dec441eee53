"""What this code knows of the schema: the revisions in `migrations/`, and which is the newest."""

from dataclasses import dataclass
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

PROJECT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Revisions:
    """The newest revision (`head`), and all that came before it."""

    head: str
    older: frozenset[str]

    def is_behind(self, revision: str | None) -> bool:
        """Whether a database at `revision` misses something that this code needs.

        A revision that this code does not know was made by newer code, and is not behind.
        """
        return revision is None or revision in self.older


def read_revisions() -> Revisions:
    """Read the migration scripts beside the application. Raises when they have two heads."""
    scripts = ScriptDirectory.from_config(Config(toml_file=PROJECT / "pyproject.toml"))
    head = scripts.get_current_head()
    if head is None:
        raise RuntimeError("migrations/versions is empty: the schema is unknown")
    known = {script.revision for script in scripts.walk_revisions()}
    return Revisions(head, frozenset(known - {head}))
