"""FastAPI with asyncpg and orjson: SQL and JSON are written by hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import asyncpg
import orjson
from fastapi import Depends, FastAPI, Header, HTTPException, Response

from benchmarks.blog import cursors, sql
from benchmarks.blog.schemas import PostCreate
from benchmarks.blog.settings import Settings
from benchmarks.blog.tokens import InvalidToken, verified_user_id

settings = Settings()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(settings.database_url, min_size=5, max_size=5) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


async def current_user(authorization: Annotated[str | None, Header()] = None) -> asyncpg.Record:
    try:
        user_id, version = verified_user_id(authorization, settings)
    except InvalidToken:
        raise HTTPException(401) from None
    user: asyncpg.Record | None = await app.state.pool.fetchrow(sql.USER, user_id)
    if user is None or user["deleted_at"] or user["disabled"]:
        raise HTTPException(401)
    if user["credential_version"] != version:
        raise HTTPException(401)
    return user


CurrentUser = Annotated[asyncpg.Record, Depends(current_user)]


@app.get("/v1/posts")
async def list_posts(cursor: str | None = None) -> Response:
    if cursor is None:
        posts = await app.state.pool.fetch(sql.FIRST_PAGE)
    else:
        posts = await app.state.pool.fetch(sql.NEXT_PAGE, *cursors.decode(cursor))
    following = cursors.encode(posts[-1]["created_at"], posts[-1]["id"]) if posts else None
    items = [sql.post_as_dictionary(post, post) for post in posts]
    return as_json({"items": items, "next": following, "prev": None})


@app.get("/v1/posts/{post_id}")
async def read_post(post_id: int) -> Response:
    post = await app.state.pool.fetchrow(sql.BY_ID, post_id)
    if post is None:
        raise HTTPException(404)
    return as_json(sql.post_as_dictionary(post, post))


@app.post("/v1/posts")
async def create_post(data: PostCreate, user: CurrentUser) -> Response:
    post = await app.state.pool.fetchrow(sql.INSERT, user["id"], data.title, data.body)
    return as_json(sql.post_as_dictionary(post, user), 201)


@app.get("/v1/users/me")
async def read_me(user: CurrentUser) -> Response:
    return as_json(sql.user_as_dictionary(user))


def as_json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
