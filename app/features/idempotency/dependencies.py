"""`Idempotency-Key`: a POST that may be sent again without doing its work twice.

A router with `route_class=IdempotentRoute` and a route with `session: IdempotentSession` belong
together. The session locks the key and looks for an answer before the endpoint runs. The route
stores the answer after the endpoint has run and before the session is committed.
"""

from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from fastapi.routing import APIRoute
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.types import Receive, Scope, Send

from app.errors import InvalidRequest
from app.features.idempotency import service
from app.features.idempotency.models import MAX_KEY_LENGTH
from app.features.users.dependencies import CurrentUser
from app.infra.dependencies import WriteSession

HEADER, REPLAYED = "Idempotency-Key", (b"idempotent-replayed", b"true")
NO_ROUTE_CLASS = (
    "An IdempotentSession needs a router with `route_class=IdempotentRoute`, which keeps the answer"
)
NO_BODY = (
    "A route with an IdempotentSession has to return a response whose body is known before the "
    "commit. Ask for a WriteSession to send a stream or a file."
)

Key = Annotated[str, Field(min_length=1, max_length=MAX_KEY_LENGTH, pattern="^[!-~]+$")]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(slots=True)
class Attempt:
    """One attempt to answer a request with a key. `claim` says that the key is locked."""

    fingerprint: bytes
    claim: tuple[AsyncSession, int, str] | None = None


class Replay(Exception):
    """There is an answer already. What other dependencies have changed is rolled back."""

    def __init__(self, answer: service.Answer) -> None:
        super().__init__()
        self.answer = answer


_attempt: ContextVar[Attempt | None] = ContextVar("idempotent_attempt", default=None)


class IdempotentRoute(APIRoute):
    """Keeps the answer to a request whose endpoint has an `IdempotentSession`."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handle_once(request: Request) -> Response:
            if HEADER not in request.headers:
                return await handle(request)
            attempt = Attempt(await _fingerprint(request))
            token = _attempt.set(attempt)
            try:
                response = await handle(request)
            finally:
                _attempt.reset(token)
            if attempt.claim is not None and 200 <= response.status_code < 300:
                session, user_id, key = attempt.claim
                answer = _to_answer(response)
                await service.keep(session, user_id, key, attempt.fingerprint, answer)
            return response

        return handle_once

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().handle(scope, receive, send)
        except Replay as replay:  # the transaction has been rolled back
            await _to_response(replay.answer)(scope, receive, send)


async def idempotent_session(
    request: Request,
    user: CurrentUser,
    session: WriteSession,
    key: Annotated[
        Key | None,
        Header(
            alias=HEADER,
            description="A value of your choice for this request, such as a UUID. If the request "
            "is sent again with it within 24 hours, it is not run again: the first answer is.",
        ),
    ] = None,
) -> AsyncSession:
    """Return the session of the request. If there is a key, it is locked in its transaction."""
    if key is None:
        return session
    attempt = _attempt.get()
    if attempt is None:
        raise TypeError(NO_ROUTE_CLASS)
    if len(request.headers.getlist(HEADER)) > 1:
        raise InvalidRequest("Send one Idempotency-Key.")
    answer = await service.begin(session, user.id, key, attempt.fingerprint)
    if answer is not None:
        raise Replay(answer)
    attempt.claim = session, user.id, key
    return session


# The same session as `WriteSession`, of a route that accepts an Idempotency-Key. Ask for the user
# first: a `FreshUser` is read with a connection that is given back before this one takes its own.
IdempotentSession = Annotated[AsyncSession, Depends(idempotent_session)]


async def _fingerprint(request: Request) -> bytes:
    """Return a digest of the method, the path with its query, and the body.

    The body is read here, because a form that the framework has parsed cannot be read again.
    """
    scope = request.scope
    target = (scope["method"], scope["path"], scope["query_string"])
    digest = sha256(repr(target).encode())
    digest.update(await request.body())
    return digest.digest()


def _to_answer(response: Response) -> service.Answer:
    body = getattr(response, "body", None)
    if body is None:
        raise TypeError(NO_BODY)
    headers = [[part.decode("latin-1") for part in header] for header in response.raw_headers]
    return service.Answer(response.status_code, headers, bytes(body))


def _to_response(answer: service.Answer) -> Response:
    response = Response(answer.body, answer.status)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    response.raw_headers = [*headers, REPLAYED]
    return response
