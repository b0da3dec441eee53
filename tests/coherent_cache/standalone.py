"""A service that uses `coherent_cache` and nothing else of this repository."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from sqlalchemy import Column, Integer, MetaData, Table, Text, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from coherent_cache import Cache, CacheBusy, CacheConfig, Entry, invalidate, outbox_table

metadata = MetaData()
outbox_table(metadata)  # adds the table `cache_outbox`
notes = Table("notes", metadata, Column("id", Integer, primary_key=True), Column("text", Text))
engine = create_async_engine(os.environ["DATABASE_URL"])
# A separate engine with one connection, not the engine of the requests.
outbox_engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=1, max_overflow=0)
sessions = async_sessionmaker(engine)
cache = Cache(CacheConfig(valkey_url=os.environ["VALKEY_URL"], code_version="1"))


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    try:
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        async with cache.running(outbox_engine):
            yield
    finally:
        await outbox_engine.dispose()
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
