"""`/v1/auth`: log in, refresh, log out."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Response

from app.features.auth import service
from app.features.auth.dependencies import check_form
from app.features.auth.schemas import Credentials, RefreshTokenWrite, TokenRead
from app.features.users.service import PASSWORD_FAILURES
from app.infra.dependencies import Resources, WriteSession
from app.infra.rate_limits.limit import By, Limit
from app.infra.validation.fields import KIB
from app.infra.web.oauth2 import NOT_STORED, token_endpoint
from app.infra.web.openapi import problems
from app.infra.web.rate_limited import rate_limited

router = APIRouter(prefix="/v1/auth", tags=["auth"])

LOGINS = Limit("logins", quota=100, seconds=600, by=By.ADDRESS)


@router.post(
    "/token",
    response_model=TokenRead,
    responses=problems(400, 413, 415, schema="TokenProblem"),
    dependencies=[Depends(check_form)],
    max_body_size=8 * KIB,
)
@token_endpoint
@rate_limited(LOGINS, PASSWORD_FAILURES)
async def log_in(
    form: Annotated[Credentials, Form()], resources: Resources, response: Response
) -> TokenRead:
    """Exchange an e-mail address (as `username`) and a password, or a refresh token, for tokens.

    Errors have the `error` of RFC 6749, section 5.2, beside the members of a problem.
    """
    response.headers.update(NOT_STORED)
    if form.grant_type == "refresh_token":
        return await service.refresh(resources, form.refresh_token)
    return await service.log_in(resources, form.username, form.password)


@router.post(
    "/refresh",
    response_model=TokenRead,
    responses=problems(401, 413, 415, 422),
    max_body_size=8 * KIB,
)
async def refresh(data: RefreshTokenWrite, resources: Resources, response: Response) -> TokenRead:
    """Exchange a refresh token, which works once, for new tokens."""
    response.headers.update(NOT_STORED)
    return await service.refresh(resources, data.refresh_token)


@router.post(
    "/logout",
    status_code=204,
    response_class=Response,
    responses=problems(413, 415, 422),
    max_body_size=8 * KIB,
)
async def log_out(data: RefreshTokenWrite, session: WriteSession) -> None:
    """Give up a refresh token and all that it was exchanged for."""
    await service.revoke(session, data.refresh_token)
