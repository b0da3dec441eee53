"""One factory for the tests that have not moved to the factory of their own feature yet."""

from dataclasses import dataclass

from tests.features.comments.factory import CommentFactory
from tests.features.users.factory import PASSWORD
from tests.sample.factory import NoteFactory

__all__ = ["PASSWORD", "Factory"]


@dataclass(frozen=True)
class Factory(CommentFactory, NoteFactory):
    """Makes rows of every feature."""
