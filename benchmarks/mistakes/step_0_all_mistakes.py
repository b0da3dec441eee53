"""What the guide calls a mistake, as far as these routes can make it.

- Each request reads the settings and makes a database engine, which opens a new connection.
- The driver blocks the event loop while PostgreSQL works.
- The author of each post of a page is loaded with a statement of its own (N+1).
- Pages are counted with OFFSET.
- Two middlewares use BaseHTTPMiddleware.
- Responses are dictionaries without a response model.
"""

import logging
import sys
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from benchmarks.blog.schemas import PostCreate
from benchmarks.blog.settings import Settings
from benchmarks.blog.tables import Post, User
from benchmarks.blog.tokens import InvalidToken, verified_user_id

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
logger = logging.getLogger("access")


async def open_session() -> AsyncIterator[Session]:
    engine = create_engine(Settings().url("psycopg"))
    try:
        with Session(engine) as session:
            yield session
    finally:
        engine.dispose()


DatabaseSession = Annotated[Session, Depends(open_session)]


async def current_user(
    session: DatabaseSession, authorization: Annotated[str | None, Header()] = None
) -> User:
    try:
        user_id, version = verified_user_id(authorization, Settings())
    except InvalidToken:
        raise HTTPException(401) from None
    user = session.get(User, user_id)
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


app = FastAPI()
app.add_middleware(TimingMiddleware)
app.add_middleware(LogMiddleware)


@app.get("/v1/posts")
async def list_posts(session: DatabaseSession, offset: int = 0, limit: int = 20) -> Any:
    newest_first = select(Post).order_by(Post.created_at.desc(), Post.id.desc())
    posts = session.scalars(newest_first.offset(offset).limit(limit)).all()
    items = [as_dictionary(post, post.author) for post in posts]
    return {"items": items, "next": str(offset + limit), "prev": None}


@app.get("/v1/posts/{post_id}")
async def read_post(post_id: int, session: DatabaseSession) -> Any:
    post = session.get(Post, post_id)
    if post is None:
        raise HTTPException(404)
    return as_dictionary(post, post.author)


@app.post("/v1/posts", status_code=201)
async def create_post(data: PostCreate, user: CurrentUser, session: DatabaseSession) -> Any:
    post = Post(author_id=user.id, title=data.title, body=data.body)
    session.add(post)
    session.commit()
    session.refresh(post)
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
