"""Whether the work of this context has committed anything, after which it must not run again."""

from contextvars import ContextVar


class CommitTracker:
    """One run of some work, such as a request."""

    has_committed = False


_current: ContextVar[CommitTracker | None] = ContextVar("attempt", default=None)


def track_commits() -> CommitTracker:
    """Watch the commits of this context and of what it calls."""
    attempt = CommitTracker()
    _current.set(attempt)
    return attempt


def record_commit(_connection: object) -> None:
    """Note that a commit is about to be sent; whether it arrives is not ours to know."""
    if (attempt := _current.get()) is not None:
        attempt.has_committed = True
