"""Records on the session which tags an answer shows, and which tags a change invalidates.

A tag is a name such as `post:5`. The user of this package chooses the names.
"""

from sqlalchemy.ext.asyncio import AsyncSession

SHOWN = "cache.shown"  # a key of `session.info`; a response cache may use it in the ASGI scope too
INVALIDATED = "cache.invalidated"


def shows(session: AsyncSession, *tags: str) -> None:
    """Record that the answer shows the things that these tags name, or shows their absence.

    Call this before the query wherever the tags are known by then. "Not found" is an answer too,
    and must be invalidated when the thing is created.
    """
    session.info.setdefault(SHOWN, set()).update(tags)


def invalidate(session: AsyncSession, *tags: str) -> None:
    """Invalidate every answer that shows one of these tags, after the commit of this transaction.

    The invalidation is complete before the response starts. A rollback invalidates nothing. A crash
    after the commit delays the invalidation until the next poll of a relay, but never loses it; see
    `Invalidation`.
    """
    session.info.setdefault(INVALIDATED, set()).update(tags)


def tags_to_invalidate(session: AsyncSession) -> list[str]:
    """Return the tags that were passed to `invalidate`, sorted."""
    return sorted(session.info.get(INVALIDATED, ()))
