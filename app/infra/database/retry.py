"""Whether the work of this context has committed anything, after which it must not run again."""

from contextvars import ContextVar


class Attempt:
    """One run of some work, such as a request."""

    committed = False


_current: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


def begin_attempt() -> Attempt:
    """Watch the commits of this context and of what it calls."""
    attempt = Attempt()
    _current.set(attempt)
    return attempt


def note_commit(_connection: object) -> None:
    """Note that a commit is about to be sent; whether it arrives is not ours to know."""
    if (attempt := _current.get()) is not None:
        attempt.committed = True
