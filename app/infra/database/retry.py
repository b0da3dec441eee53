"""Tracks whether a request has sent a COMMIT. After that, it must not be run a second time."""

from contextvars import ContextVar


class CommitTracker:
    has_committed = False


_current: ContextVar[CommitTracker | None] = ContextVar("commit_tracker", default=None)


def track_commits() -> CommitTracker:
    """Track the commits of this context, and of the tasks that it starts from now on."""
    tracker = CommitTracker()
    _current.set(tracker)
    return tracker


def record_commit(_connection: object) -> None:
    """Record a commit before it is sent: if the connection dies then, its outcome is unknown."""
    if (tracker := _current.get()) is not None:
        tracker.has_committed = True
