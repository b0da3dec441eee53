"""Operations on comments. They maintain `comment_count` of the post."""

from collections.abc import Sequence

from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Forbidden, NotFound
from app.features.comments import queries
from app.features.comments.models import CommentRow
from app.features.comments.schemas import CommentCreate, CommentRead
from app.features.posts import tags as posts
from app.features.users import tags as users
from app.features.users.models import CallerRow
from app.infra.database.pagination import Page, PageRequest
from app.infra.events.feed import Event, Feed
from app.infra.validation.preconditions import Precondition
from coherent_cache import invalidate, shows

NO_POST = "There is no such post."
COMMENT = TypeAdapter(CommentRead)


async def _next_events(
    session: AsyncSession, post_id: int, after: int, most: int
) -> Sequence[Event]:
    return [
        Event(one.id, COMMENT.dump_json(COMMENT.validate_python(one, from_attributes=True)))
        for one in await queries.next_comments(session, post_id, after, most)
    ]


# New comments of a post, for `EventStream`. A deleted comment is no event.
NEW_COMMENTS = Feed("comment", NO_POST, posts.post, queries.newest_ids, _next_events)


async def list_comments(
    session: AsyncSession, post_id: int, query: PageRequest
) -> Page[CommentRow]:
    """Return a page of comments, oldest first, or raise `NotFound` if there is no such post."""
    shows(session, posts.post(post_id))
    page = await queries.COMMENTS_OF_POST.page(session, query, post_id=post_id)
    if not page.items and not await queries.post_exists(session, post_id):
        raise NotFound(NO_POST)
    shows(session, *(users.user(comment.author.id) for comment in page.items))
    return page


async def create_comment(
    session: AsyncSession, author: CallerRow, post_id: int, data: CommentCreate
) -> CommentRow:
    # This locks the post until the commit, before the comment draws its id. So the comments of a
    # post become visible in the order of their ids, and a stream never has to look back.
    if not await queries.change_count(session, post_id, +1):
        raise NotFound(NO_POST)
    comment = await queries.insert_comment(session, post_id, author, data.body)
    invalidate(session, posts.post(post_id))
    return comment


async def delete_comment(
    session: AsyncSession, author: CallerRow, comment_id: int, precondition: Precondition
) -> None:
    comment = await queries.get_comment(session, comment_id)
    if comment is None:
        raise NotFound("There is no such comment.")
    if comment.author_id != author.id:
        raise Forbidden("Only the author may delete a comment.")
    precondition.require()
    # Lock the post first, as everywhere. The same order of locks prevents deadlocks.
    await queries.change_count(session, comment.post_id, -1)
    if not await queries.delete_comment(session, comment_id):
        raise NotFound("There is no such comment.")
    invalidate(session, posts.post(comment.post_id))
