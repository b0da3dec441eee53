"""The pool has 5 connections, and opens and closes none when requests wait for one."""

import logging
import sys
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException
from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import joinedload
from sqlalchemy.orm.attributes import set_committed_value
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.blog import cursors
from benchmarks.blog.schemas import PostCreate, PostPage, PostRead, UserRead
from benchmarks.blog.settings import Settings
from benchmarks.blog.tables import Post, User
from benchmarks.blog.tokens import InvalidToken, verified_user_id

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
logger = logging.getLogger("access")

POOL_SIZE = 5

settings = Settings()
engine = create_async_engine(settings.url("asyncpg"), pool_size=POOL_SIZE, max_overflow=0)
reading = engine.execution_options(isolation_level="AUTOCOMMIT")


async def open_session() -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session


async def open_read_session() -> AsyncIterator[AsyncSession]:
    async with AsyncSession(reading, expire_on_commit=False) as session:
        yield session


DatabaseSession = Annotated[AsyncSession, Depends(open_session)]
ReadSession = Annotated[AsyncSession, Depends(open_read_session)]


async def current_user(authorization: Annotated[str | None, Header()] = None) -> User:
    try:
        user_id, version = verified_user_id(authorization, settings)
    except InvalidToken:
        raise HTTPException(401) from None
    # This session ends here: no request holds two connections at once.
    async with AsyncSession(reading) as session:
        user = await session.get(User, user_id)
    if user is None or user.deleted_at or user.disabled or user.credential_version != version:
        raise HTTPException(401)
    return user


CurrentUser = Annotated[User, Depends(current_user)]


class ObservationMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def send_with_time(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                seconds = f"{time.perf_counter() - started:.4f}".encode()
                message["headers"] = [*message["headers"], (b"x-process-time", seconds)]
            await send(message)

        await self.app(scope, receive, send_with_time)
        logger.info("%s %s %s", scope["method"], scope["path"], status)


POSTS = select(Post).options(joinedload(Post.author, innerjoin=True))

app = FastAPI()
app.add_middleware(ObservationMiddleware)


@app.get("/v1/posts", response_model=PostPage)
async def list_posts(session: ReadSession, cursor: str | None = None, limit: int = 20) -> Any:
    newest_first = POSTS.order_by(Post.created_at.desc(), Post.id.desc())
    if cursor is not None:
        newest_first = newest_first.where(
            tuple_(Post.created_at, Post.id) < tuple_(*cursors.decode(cursor))
        )
    posts = (await session.scalars(newest_first.limit(limit))).all()
    following = cursors.encode(posts[-1].created_at, posts[-1].id) if posts else None
    return {"items": posts, "next": following, "prev": None}


@app.get("/v1/posts/{post_id}", response_model=PostRead)
async def read_post(post_id: int, session: ReadSession) -> Any:
    post = await session.scalar(POSTS.where(Post.id == post_id))
    if post is None:
        raise HTTPException(404)
    return post


@app.post("/v1/posts", status_code=201, response_model=PostRead)
async def create_post(data: PostCreate, user: CurrentUser, session: DatabaseSession) -> Any:
    post = Post(author_id=user.id, title=data.title, body=data.body)
    session.add(post)
    await session.commit()
    await session.refresh(post)
    set_committed_value(post, "author", user)
    return post


@app.get("/v1/users/me", response_model=UserRead)
async def read_me(user: CurrentUser) -> Any:
    return user
