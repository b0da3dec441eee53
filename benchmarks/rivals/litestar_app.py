"""Litestar with SQLAlchemy's ORM, dependencies, and msgspec for the JSON."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated

from litestar import Litestar, Request, get, post
from litestar.di import NamedDependency, Provide
from litestar.exceptions import NotAuthorizedException, NotFoundException
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Meta, Struct
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import joinedload

from benchmarks.blog.settings import Settings
from benchmarks.blog.tables import Post, User
from benchmarks.blog.tokens import InvalidToken, verified_user_id

settings = Settings()
engine = create_async_engine(settings.url("asyncpg"))
session_factory = async_sessionmaker(engine, expire_on_commit=False)


class PostCreate(Struct):
    title: Annotated[str, Meta(min_length=1, max_length=200)]
    body: Annotated[str, Meta(min_length=1, max_length=20_000)]


class Author(Struct):
    id: int
    name: str
    avatar_url: str | None


class PostRead(Struct):
    id: int
    author: Author
    title: str
    body: str
    comment_count: int
    version: int
    created_at: datetime
    updated_at: datetime


class PostPage(Struct):
    items: list[PostRead]
    next: str | None
    prev: str | None


class UserRead(Struct):
    id: int
    name: str
    bio: str
    avatar_url: str | None
    created_at: datetime
    email: str
    role: str
    verified: bool
    updated_at: datetime


async def open_session() -> AsyncIterator[AsyncSession]:
    async with session_factory() as session:
        yield session


async def current_user(request: Request, session: NamedDependency[AsyncSession]) -> User:
    try:
        user_id, version = verified_user_id(request.headers.get("authorization"), settings)
    except InvalidToken:
        raise NotAuthorizedException from None
    user: User | None = await session.get(User, user_id)
    if user is None or user.deleted_at or user.disabled or user.credential_version != version:
        raise NotAuthorizedException
    return user


@get("/v1/posts")
async def list_posts(
    session: NamedDependency[AsyncSession], offset: FromQuery[int] = 0, limit: FromQuery[int] = 20
) -> PostPage:
    newest_first = (
        select(Post)
        .options(joinedload(Post.author))
        .order_by(Post.created_at.desc(), Post.id.desc())
        .offset(offset)
        .limit(limit)
    )
    posts = (await session.scalars(newest_first)).all()
    return PostPage([shown(entity, entity.author) for entity in posts], str(offset + limit), None)


@get("/v1/posts/{post_id:int}")
async def read_post(post_id: FromPath[int], session: NamedDependency[AsyncSession]) -> PostRead:
    entity = await session.get(Post, post_id, options=[joinedload(Post.author)])
    if entity is None:
        raise NotFoundException
    return shown(entity, entity.author)


@post("/v1/posts", dependencies={"user": Provide(current_user)})
async def create_post(
    data: JSONBody[PostCreate], user: NamedDependency[User], session: NamedDependency[AsyncSession]
) -> PostRead:
    entity = Post(author=user, title=data.title, body=data.body)
    session.add(entity)
    await session.commit()
    await session.refresh(entity)
    return shown(entity, user)


@get("/v1/users/me", dependencies={"user": Provide(current_user)})
async def read_me(user: NamedDependency[User]) -> UserRead:
    return UserRead(*(getattr(user, name) for name in UserRead.__struct_fields__))


def shown(entity: Post, author: User) -> PostRead:
    return PostRead(
        entity.id,
        Author(author.id, author.name, author.avatar_url),
        entity.title,
        entity.body,
        entity.comment_count,
        entity.version,
        entity.created_at,
        entity.updated_at,
    )


@asynccontextmanager
async def lifespan(_: Litestar) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = Litestar(
    [list_posts, read_post, create_post, read_me],
    dependencies={"session": Provide(open_session)},
    lifespan=[lifespan],
)
