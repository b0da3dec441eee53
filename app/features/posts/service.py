"""Operations on posts."""

from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Forbidden, NotFound
from app.features.posts import queries, tags
from app.features.posts.models import Post, PostRow
from app.features.posts.schemas import PostCreate, PostUpdate
from app.features.users import tags as users
from app.features.users.models import CallerRow
from app.infra.database.pagination import Page, PageRequest
from app.infra.validation.preconditions import Precondition
from coherent_cache import invalidate, shows

PostT = TypeVar("PostT", Post, PostRow)


async def list_posts(
    session: AsyncSession, query: PageRequest, author_id: int | None
) -> Page[PostRow]:
    if author_id is None:
        page = await queries.ALL_POSTS.page(session, query)
    else:
        page = await queries.POSTS_BY_AUTHOR.page(session, query, author_id=author_id)
    shows(session, *tags.of_page(page, author_id))
    return page


async def read_post(session: AsyncSession, post_id: int) -> PostRow:
    """Return a post with its author, or raise `NotFound`."""
    shows(session, tags.post(post_id))
    post = _require_existing(await queries.get_post(session, post_id))
    shows(session, users.user(post.author.id))
    return post


async def create_post(session: AsyncSession, author: CallerRow, data: PostCreate) -> PostRow:
    post = await queries.insert_post(session, author, data.title, data.body)
    invalidate(session, tags.post(post.id), tags.NEW_POSTS, tags.new_posts_by(author.id))
    return post


async def update_post(
    session: AsyncSession,
    author: CallerRow,
    post_id: int,
    data: PostUpdate,
    precondition: Precondition,
) -> Post:
    """Change the caller's post. Its version increases if anything changes."""
    post = await _own_post(session, author, post_id)
    precondition.require(post.version)
    for field, value in data.model_dump().items():
        setattr(post, field, value)
    if session.is_modified(post):
        post.version += 1
        await session.flush()
        invalidate(session, tags.post(post.id))
    return post


async def delete_post(
    session: AsyncSession, author: CallerRow, post_id: int, precondition: Precondition
) -> None:
    """Delete the caller's post."""
    post = await _own_post(session, author, post_id)
    precondition.require(post.version)
    await queries.delete_post(session, post.id)
    invalidate(session, tags.post(post.id))


async def _own_post(session: AsyncSession, author: CallerRow, post_id: int) -> Post:
    post = _require_existing(await queries.lock_post(session, post_id))
    if post.author_id != author.id:
        raise Forbidden("Only the author may change a post.")
    return post


def _require_existing(post: PostT | None) -> PostT:
    if post is None:
        raise NotFound("There is no such post.")
    return post
