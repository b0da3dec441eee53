"""Verification of addresses and password reset: `/v1/auth/verification`, `/v1/auth/password-reset`.

In development there are also the pages that the links in the mails lead to. In production these are
pages of your frontend, below MAIL_LINKS_URL.
"""

import re
from pathlib import Path

from fastapi import APIRouter, Response
from starlette.responses import HTMLResponse

from app.features.account_mails import service
from app.features.account_mails.schemas import PasswordReset, PasswordResetRequest, Verification
from app.features.idempotency.dependencies import IdempotentRoute, IdempotentSession
from app.features.users.dependencies import CurrentUser
from app.infra.dependencies import Resources, WriteSession
from app.infra.jobs.enqueue import enqueue
from app.infra.rate_limits.limit import By, Limit
from app.infra.validation.fields import KIB
from app.infra.web.mailbox_access import MailFolder
from app.infra.web.openapi import problems
from app.infra.web.rate_limited import ADDRESS, rate_limited
from app.infra.web.response_headers import PAGE_HEADERS, PAGE_POLICY, content_hash

MAILS = Limit("account_mails", quota=20, seconds=3_600, by=By.ADDRESS)
TOKENS = Limit("account_tokens", quota=60, seconds=600, by=By.ADDRESS)
PAGES = {
    name: Path(__file__).with_name("pages").joinpath(f"{name}.html").read_text(encoding="utf-8")
    for name in ("verify-email", "reset-password")
}

router = APIRouter(tags=["auth"], route_class=IdempotentRoute)


@router.post(
    "/v1/auth/verification",
    status_code=204,
    response_class=Response,
    responses=problems(401, 413, 415, 422),
    max_body_size=8 * KIB,
)
@rate_limited(TOKENS)
async def verify_address(data: Verification, session: WriteSession) -> None:
    """Verify the address to which the token was mailed. 401 `invalid_token` if it is not valid."""
    await service.verify_address(session, data.token)


@router.post(
    "/v1/users/me/verification",
    status_code=202,
    response_class=Response,
    responses=problems(401, 409, 422),
)
@rate_limited(ADDRESS, MAILS)
async def send_verification(
    user: CurrentUser, session: IdempotentSession, resources: Resources
) -> None:
    """Mail a new token, unless the address is verified, or such a mail was sent a minute ago."""
    if resources.mailer.can_send:
        await enqueue(session, "account_mails.send_verification", user_id=user.id)


@router.post(
    "/v1/auth/password-reset",
    status_code=202,
    response_class=Response,
    responses=problems(413, 415, 422),
    max_body_size=8 * KIB,
)
@rate_limited(MAILS)
async def request_password_reset(
    data: PasswordResetRequest, session: WriteSession, resources: Resources
) -> None:
    """Mail a token if there is an account. The answer is the same if there is none."""
    if resources.mailer.can_send:
        await enqueue(session, "account_mails.send_password_reset", email=data.email)


@router.post(
    "/v1/auth/password-reset/confirm",
    status_code=204,
    response_class=Response,
    responses=problems(401, 413, 415, 422),
    max_body_size=8 * KIB,
)
@rate_limited(TOKENS)
async def reset_password(data: PasswordReset, resources: Resources) -> None:
    """Replace the password, and revoke all tokens. 401 `invalid_token` if it is not valid."""
    await service.reset_password(resources, data.token, data.password)


@router.get("/mailbox/verify-email", include_in_schema=False)
async def verify_email_page(_folder: MailFolder) -> HTMLResponse:
    return _page("verify-email")


@router.get("/mailbox/reset-password", include_in_schema=False)
async def reset_password_page(_folder: MailFolder) -> HTMLResponse:
    return _page("reset-password")


def _page(name: str) -> HTMLResponse:
    page = PAGES[name]
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    policy = f"default-src 'none'; script-src '{content_hash(script)}'; connect-src 'self'"
    headers = {**PAGE_HEADERS, "Content-Security-Policy": f"{policy}; {PAGE_POLICY}"}
    return HTMLResponse(page, headers=headers)
