"""A cursor says where a page begins.

- Two middlewares use BaseHTTPMiddleware.
- Responses are dictionaries without a response model.
"""

import logging
import sys
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import joinedload
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from benchmarks.blog import cursors
from benchmarks.blog.schemas import PostCreate
from benchmarks.blog.settings import Settings
from benchmarks.blog.tables import Post, User
from benchmarks.blog.tokens import InvalidToken, verified_user_id

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
logger = logging.getLogger("access")

settings = Settings()
engine = create_async_engine(settings.url("asyncpg"))


async def open_session() -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine, expire_on_commit=False) as session:
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


class TimingMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        started = time.perf_counter()
        response = await call_next(request)
        response.headers["X-Process-Time"] = f"{time.perf_counter() - started:.4f}"
        return response


class LogMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        logger.info("%s %s %s", request.method, request.url.path, response.status_code)
        return response


POSTS = select(Post).options(joinedload(Post.author, innerjoin=True))

app = FastAPI()
app.add_middleware(TimingMiddleware)
app.add_middleware(LogMiddleware)


@app.get("/v1/posts")
async def list_posts(session: DatabaseSession, cursor: str | None = None, limit: int = 20) -> Any:
    newest_first = POSTS.order_by(Post.created_at.desc(), Post.id.desc())
    if cursor is not None:
        newest_first = newest_first.where(
            tuple_(Post.created_at, Post.id) < tuple_(*cursors.decode(cursor))
        )
    posts = (await session.scalars(newest_first.limit(limit))).all()
    items = [as_dictionary(post, post.author) for post in posts]
    following = cursors.encode(posts[-1].created_at, posts[-1].id) if posts else None
    return {"items": items, "next": following, "prev": None}


@app.get("/v1/posts/{post_id}")
async def read_post(post_id: int, session: DatabaseSession) -> Any:
    post = await session.scalar(POSTS.where(Post.id == post_id))
    if post is None:
        raise HTTPException(404)
    return as_dictionary(post, post.author)


@app.post("/v1/posts", status_code=201)
async def create_post(data: PostCreate, user: CurrentUser, session: DatabaseSession) -> Any:
    post = Post(author_id=user.id, title=data.title, body=data.body)
    session.add(post)
    await session.commit()
    await session.refresh(post)
    return as_dictionary(post, user)


@app.get("/v1/users/me")
async def read_me(user: CurrentUser) -> Any:
    return {
        "id": user.id,
        "name": user.name,
        "bio": user.bio,
        "avatar_url": user.avatar_url,
        "created_at": user.created_at,
        "email": user.email,
        "role": user.role,
        "verified": user.verified,
        "updated_at": user.updated_at,
    }


def as_dictionary(post: Post, author: User) -> dict[str, Any]:
    return {
        "id": post.id,
        "author": {"id": author.id, "name": author.name, "avatar_url": author.avatar_url},
        "title": post.title,
        "body": post.body,
        "comment_count": post.comment_count,
        "version": post.version,
        "created_at": post.created_at,
        "updated_at": post.updated_at,
    }
