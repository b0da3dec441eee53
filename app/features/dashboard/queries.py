"""SQL for the dashboard."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.features.posts.models import Post

LAST_30_DAYS = func.now() - text("interval '30 days'")
# The index on the author and the time has all that this needs.
STATS = select(
    func.count(),
    func.count().filter(Post.created_at > LAST_30_DAYS),
    func.max(Post.created_at),
).where(Post.author_id == bindparam("author_id"))


@dataclass(frozen=True, slots=True)
class Stats:
    posts: int
    posts_in_30_days: int
    last_post_at: datetime | None


async def get_stats(session: AsyncSession, author_id: int) -> Stats:
    row = (await session.execute(STATS, {"author_id": author_id})).one()
    return Stats(*row)
