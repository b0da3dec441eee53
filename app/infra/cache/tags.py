"""What an answer shows, and what a change touches: both are noted on the session, by name.

A tag is a name such as `post:5`. Features declare theirs in their `tags.py`; infra knows none.
"""

from sqlalchemy.ext.asyncio import AsyncSession

SHOWN = "cache.shown"  # in the scope of a request too, where the response cache collects them
INVALIDATED = "cache.invalidated"


def shows(session: AsyncSession, *tags: str) -> None:
    """Note that the answer shows what these tags name, or that it is not there.

    Note it before the first statement where it is known by then: an answer may be that there is
    nothing.
    """
    session.info.setdefault(SHOWN, set()).update(tags)


def invalidate(session: AsyncSession, *tags: str) -> None:
    """Drop, when the transaction is committed and before the response, every answer that shows it.

    Nothing is dropped if it is rolled back. A crash after the commit delays it by the relay's
    interval and loses nothing: see `Invalidation`.
    """
    session.info.setdefault(INVALIDATED, set()).update(tags)


def invalidated(session: AsyncSession) -> list[str]:
    """Return the tags that were noted with `invalidate`."""
    return sorted(session.info.get(INVALIDATED, ()))
