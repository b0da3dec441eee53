"""Routes as a user of the template would write them. Each one that runs adds a note."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, Form, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict
from app.features.idempotency.dependencies import IdempotentRoute, IdempotentSession
from app.features.users import service as users
from app.features.users.dependencies import CurrentUser, FreshUser
from app.features.users.models import CallerRow, UserRow
from app.infra.database.sessions import after_commit
from app.infra.dependencies import WriteSession
from tests.sample.notes import Note

UNDO = text("DO $$ BEGIN RAISE EXCEPTION USING errcode = '40001'; END $$")

router = APIRouter(prefix="/once", route_class=IdempotentRoute)
plain_router = APIRouter(prefix="/plain")

GATE = asyncio.Event()  # `wait` runs until it is set
RAN: list[str] = []  # what ran outside of the transaction
FAILURES: list[Exception | int] = []  # what `fail` does next


def reset() -> None:
    GATE.clear()
    RAN.clear()
    FAILURES.clear()


class NoteIn(BaseModel):
    title: str = "T"


class NoteOut(BaseModel):
    id: int
    title: str


async def add(session: AsyncSession, user: CallerRow | UserRow, title: str = "T") -> Note:
    session.add(note := Note(author_id=user.id, title=title, body=""))
    await session.flush()
    return note


@router.post("/model", status_code=201, response_model=NoteOut)
async def model(
    data: NoteIn, user: CurrentUser, session: IdempotentSession, response: Response
) -> Note:
    note = await add(session, user, data.title)
    response.headers["Location"] = f"/once/{note.id}"
    response.headers.append("Link", "</a>; rel=a")
    response.headers.append("Link", "</b>; rel=b")
    return note


@router.post("/empty", status_code=204)
async def empty(user: CurrentUser, session: IdempotentSession) -> None:
    await add(session, user)


@router.post("/form")
async def form(title: Annotated[str, Form()], user: CurrentUser, session: IdempotentSession) -> str:
    return (await add(session, user, title)).title


@router.post("/bytes")
async def send_bytes(user: CurrentUser, session: IdempotentSession, size: int = 3) -> Response:
    await add(session, user)
    return Response(b"\x00\xff\n" * (size // 3), media_type="application/octet-stream")


@router.post("/stream")
async def stream(user: CurrentUser, session: IdempotentSession) -> StreamingResponse:
    await add(session, user)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a piece"

    return StreamingResponse(pieces())


@router.post("/background", status_code=202)
async def background(
    user: CurrentUser, session: IdempotentSession, tasks: BackgroundTasks
) -> dict[str, bool]:
    await add(session, user)

    async def run(name: str) -> None:
        RAN.append(name)

    after_commit(session, lambda: run("after_commit"))
    tasks.add_task(run, "task")
    return {"accepted": True}


@router.post("/wait")
async def wait(user: CurrentUser, session: IdempotentSession) -> None:
    await add(session, user)
    RAN.append("waits")
    await GATE.wait()


@router.post("/fail")
async def fail(user: CurrentUser, session: IdempotentSession) -> Response:
    """Fail as `FAILURES` says, and succeed when it is empty."""
    await add(session, user)
    failure = FAILURES.pop(0) if FAILURES else 200
    if isinstance(failure, Exception):
        raise failure
    return JSONResponse({}, failure)


@router.post("/late")
async def late(user: CurrentUser, session: IdempotentSession) -> None:
    """Fail after the endpoint has returned, the first time."""
    await add(session, user)
    if not RAN:
        RAN.append("failed")
        session.add(Note(author_id=0, title="T", body=""))  # there is no such user


@router.post("/undone")
async def undone(user: CurrentUser, session: IdempotentSession) -> None:
    """Let the database undo the transaction, the first time."""
    await add(session, user)
    RAN.append("ran")
    if len(RAN) == 1:
        await session.execute(UNDO)


@router.post("/fresh")
async def fresh(user: FreshUser, session: IdempotentSession) -> None:
    await add(session, user)


async def audit(user: CurrentUser, session: WriteSession) -> None:
    """Change something before the key is looked at."""
    await add(session, user, "audit")
    after_commit(session, _note_audit)


async def _note_audit() -> None:
    RAN.append("audit")


@router.post("/audited", dependencies=[Depends(audit)])
async def audited(user: CurrentUser, session: IdempotentSession) -> None:
    await add(session, user)


@router.post("/leave", status_code=204)
async def leave(user: FreshUser, session: IdempotentSession) -> None:
    """Delete the account of the caller."""
    await users.delete_user(session, user)


@router.post("/refused")
async def refused(user: CurrentUser, session: IdempotentSession) -> None:
    raise Conflict("This is refused.", code="refused")


@router.post("/anonymous")
async def anonymous(session: WriteSession) -> str:
    RAN.append("anonymous")
    return "ran"


@plain_router.post("/model")
async def without_route_class(user: CurrentUser, session: IdempotentSession) -> None:
    """A route whose router has no `route_class`."""
