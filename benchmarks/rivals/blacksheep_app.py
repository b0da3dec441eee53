"""BlackSheep with asyncpg, dataclasses for the input, and orjson for the JSON."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson
from blacksheep import Application, Content, FromHeader, FromJSON, Response

from benchmarks.blog import cursors, sql
from benchmarks.blog.settings import Settings
from benchmarks.blog.tokens import InvalidToken, verified_user_id

settings = Settings()
app = Application()


@app.lifespan
async def open_pool() -> AsyncIterator[None]:
    async with asyncpg.create_pool(settings.database_url, min_size=5, max_size=5) as pool:
        app.services.add_instance(pool, asyncpg.Pool)
        yield


@dataclass
class PostCreate:
    title: str
    body: str

    def __post_init__(self) -> None:
        if not (1 <= len(self.title) <= 200 and 1 <= len(self.body) <= 20_000):
            raise ValueError


class FromAuthorization(FromHeader[str]):
    name = "Authorization"


@app.router.get("/v1/posts")
async def list_posts(pool: asyncpg.Pool, cursor: str | None = None) -> Response:
    if cursor is None:
        posts = await pool.fetch(sql.FIRST_PAGE)
    else:
        posts = await pool.fetch(sql.NEXT_PAGE, *cursors.decode(cursor))
    following = cursors.encode(posts[-1]["created_at"], posts[-1]["id"]) if posts else None
    items = [sql.post_as_dictionary(post, post) for post in posts]
    return as_json({"items": items, "next": following, "prev": None})


@app.router.get("/v1/posts/{post_id}")
async def read_post(pool: asyncpg.Pool, post_id: int) -> Response:
    post = await pool.fetchrow(sql.BY_ID, post_id)
    return Response(404) if post is None else as_json(sql.post_as_dictionary(post, post))


@app.router.post("/v1/posts")
async def create_post(
    pool: asyncpg.Pool, data: FromJSON[PostCreate], authorization: FromAuthorization
) -> Response:
    user = await current_user(pool, authorization.value)
    if user is None:
        return Response(401)
    post = await pool.fetchrow(sql.INSERT, user["id"], data.value.title, data.value.body)
    assert post is not None
    return as_json(sql.post_as_dictionary(post, user), 201)


@app.router.get("/v1/users/me")
async def read_me(pool: asyncpg.Pool, authorization: FromAuthorization) -> Response:
    user = await current_user(pool, authorization.value)
    return Response(401) if user is None else as_json(sql.user_as_dictionary(user))


async def current_user(pool: asyncpg.Pool, authorization: str) -> asyncpg.Record | None:
    try:
        user_id, version = verified_user_id(authorization, settings)
    except InvalidToken:
        return None
    user = await pool.fetchrow(sql.USER, user_id)
    if user is None or user["deleted_at"] or user["disabled"]:
        return None
    return user if user["credential_version"] == version else None


def as_json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(status, content=Content(b"application/json", orjson.dumps(content)))
