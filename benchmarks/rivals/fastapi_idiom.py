"""FastAPI as it is usually written: SQLAlchemy's ORM, an async session and response models."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import joinedload

from benchmarks.blog.schemas import PostCreate, PostPage, PostRead, UserRead
from benchmarks.blog.settings import Settings
from benchmarks.blog.tables import Post, User
from benchmarks.blog.tokens import InvalidToken, verified_user_id

settings = Settings()
engine = create_async_engine(settings.url("asyncpg"))
session_factory = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


async def open_session() -> AsyncIterator[AsyncSession]:
    async with session_factory() as session:
        yield session


DatabaseSession = Annotated[AsyncSession, Depends(open_session)]


async def current_user(
    session: DatabaseSession, authorization: Annotated[str | None, Header()] = None
) -> User:
    try:
        user_id, version = verified_user_id(authorization, settings)
    except InvalidToken:
        raise HTTPException(401) from None
    user = await session.get(User, user_id)
    if user is None or user.deleted_at or user.disabled or user.credential_version != version:
        raise HTTPException(401)
    return user


CurrentUser = Annotated[User, Depends(current_user)]


@app.get("/v1/posts", response_model=PostPage)
async def list_posts(session: DatabaseSession, offset: int = 0, limit: int = 20) -> Any:
    newest_first = (
        select(Post)
        .options(joinedload(Post.author))
        .order_by(Post.created_at.desc(), Post.id.desc())
        .offset(offset)
        .limit(limit)
    )
    posts = (await session.scalars(newest_first)).all()
    return {"items": posts, "next": str(offset + limit), "prev": None}


@app.get("/v1/posts/{post_id}", response_model=PostRead)
async def read_post(post_id: int, session: DatabaseSession) -> Any:
    post = await session.get(Post, post_id, options=[joinedload(Post.author)])
    if post is None:
        raise HTTPException(404)
    return post


@app.post("/v1/posts", status_code=201, response_model=PostRead)
async def create_post(data: PostCreate, user: CurrentUser, session: DatabaseSession) -> Any:
    post = Post(author=user, title=data.title, body=data.body)
    session.add(post)
    await session.commit()
    await session.refresh(post)
    return post


@app.get("/v1/users/me", response_model=UserRead)
async def read_me(user: CurrentUser) -> Any:
    return user
