"""Exports as they are often written, for benchmarks/export.py to compare with.

Both stream, and send a thousand rows at a time. They hold one connection and one snapshot until the
client has read everything.
"""

import csv
import io
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import asyncpg
import orjson
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import joinedload

from app.features.posts.models import Post
from app.features.posts.schemas import PostRead
from app.infra.settings_base.urls import asyncpg_arguments, postgresql_url
from benchmarks.blog import sql

ROWS = 1_000
SQL = f"{sql.POSTS} ORDER BY posts.created_at, posts.id"
POSTS = select(Post).options(joinedload(Post.author)).order_by(Post.created_at, Post.id)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = postgresql_url(os.environ["DATABASE_URL"])
    arguments = asyncpg_arguments(url)
    app.state.engine = create_async_engine("postgresql+asyncpg://", connect_args=arguments)
    async with asyncpg.create_pool(min_size=1, **arguments) as app.state.pool:
        yield
    await app.state.engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.get("/readyz")
async def readyz() -> None:
    """Tell the benchmark that the process serves."""


@app.get("/orm/{form}")
async def orm(form: str) -> StreamingResponse:
    return StreamingResponse(_orm(is_csv=form == "csv"))


@app.get("/asyncpg/{form}")
async def by_asyncpg(form: str) -> StreamingResponse:
    return StreamingResponse(_asyncpg(is_csv=form == "csv"))


async def _orm(*, is_csv: bool) -> AsyncIterator[bytes]:
    async with AsyncSession(app.state.engine) as session:
        found = await session.stream_scalars(POSTS.execution_options(yield_per=ROWS))
        async for posts in found.partitions(ROWS):
            shown = [PostRead.model_validate(post, from_attributes=True) for post in posts]
            if is_csv:
                yield _csv(_row(post) for post in shown)
            else:
                yield b"".join(post.model_dump_json().encode() + b"\n" for post in shown)


def _row(post: PostRead) -> list[object]:
    values = post.model_dump(mode="json")
    author = values.pop("author")
    return [*author.values(), *values.values()]


async def _asyncpg(*, is_csv: bool) -> AsyncIterator[bytes]:
    async with app.state.pool.acquire() as connection, connection.transaction():
        cursor = await connection.cursor(SQL)
        while records := await cursor.fetch(ROWS):
            if is_csv:
                yield _csv(map(tuple, records))
            else:
                yield b"".join(map(_json, records))


def _json(record: asyncpg.Record) -> bytes:
    post = dict(record)
    author = {"id": post.pop("author_id")}
    author |= {name: post.pop(name) for name in ("name", "avatar_url")}
    return orjson.dumps({"author": author, **post}, option=orjson.OPT_APPEND_NEWLINE)


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
