"""A service that uses `coherent_cache` and nothing else of this repository."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI, Request, Response
from sqlalchemy import Column, Integer, MetaData, Table, Text, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from coherent_cache import Cache, CacheBusy, CacheConfig, Entry, invalidate, outbox_table

metadata = MetaData()
outbox_table(metadata)  # adds the table `cache_outbox`
notes = Table("notes", metadata, Column("id", Integer, primary_key=True), Column("text", Text))
url = os.environ["DATABASE_URL"]
engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
sessions = async_sessionmaker(engine)
cache = Cache(CacheConfig(valkey_url=os.environ["VALKEY_URL"], code_version="1"))


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    errors = (asyncpg.PostgresError, asyncpg.InterfaceError)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        async with (
            # One connection for the cache alone, and not the pool of the requests.
            asyncpg.create_pool(url, min_size=0, max_size=1, command_timeout=0.5) as outbox_pool,
            cache.running(outbox_pool.fetch, errors),
        ):
            yield
    finally:
        await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.exception_handler(CacheBusy)
async def refuse_read(_request: Request, busy: CacheBusy) -> Response:
    return Response(str(busy), status_code=503, headers={"Retry-After": "1"})


@app.get("/notes/{note_id}")
async def read_note(note_id: int) -> Response:
    async def load() -> Entry:
        async with sessions() as session:
            text = await session.scalar(select(notes.c.text).where(notes.c.id == note_id))
        # The key, the tags of all data that the value shows, and the value.
        return Entry(f"note:{note_id}", (f"note:{note_id}",), (text or "").encode())

    answer = await cache.reader.read(f"note:{note_id}", load, skip_memory=True)
    return Response(answer.entry.value, headers={"X-Cache": answer.source})


@app.put("/notes/{note_id}")
async def write_note(note_id: int, text: str) -> None:
    async with sessions() as session:
        values = {"id": note_id, "text": text}
        written = (
            insert(notes).values(values).on_conflict_do_update(index_elements=["id"], set_=values)
        )
        await session.execute(written)
        invalidate(session, f"note:{note_id}")
        # Call both hooks around the commit, and await the second one before the response starts.
        await cache.before_commit(session)
        await session.commit()
        await cache.after_commit(session)
