"""`/v1/auth`: how you get a token."""

from typing import Annotated

from fastapi import Form, Response

from app.features.auth import service
from app.features.auth.schemas import Credentials, RefreshTokenWrite, TokenRead
from app.infra.dependencies import Resources, WriteSession
from app.infra.web.openapi import problems
from app.infra.web.routing import feature_router

router = feature_router("/v1/auth")

NOT_STORED = {"Cache-Control": "no-store"}  # RFC 6749, §5.1


@router.post("/token", response_model=TokenRead, responses=problems(401, 415, 422))
async def log_in(
    credentials: Annotated[Credentials, Form()], held: Resources, response: Response
) -> TokenRead:
    """Exchange an e-mail address (as `username`) and a password for tokens."""
    response.headers.update(NOT_STORED)
    return await service.log_in(held, credentials.username, credentials.password)


@router.post("/refresh", response_model=TokenRead, responses=problems(401, 415, 422))
async def refresh(data: RefreshTokenWrite, held: Resources, response: Response) -> TokenRead:
    """Exchange a refresh token, which works once, for new tokens."""
    response.headers.update(NOT_STORED)
    return await service.refresh(held, data.refresh_token)


@router.post("/logout", status_code=204, response_class=Response, responses=problems(415, 422))
async def log_out(data: RefreshTokenWrite, session: WriteSession) -> None:
    """Give up a refresh token and all that it was exchanged for."""
    await service.revoke(session, data.refresh_token)
