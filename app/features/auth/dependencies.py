"""Checks of the token form that a Pydantic model cannot make."""

from fastapi import Request

from app.errors import InvalidRequest
from app.features.auth.schemas import GRANTS


async def check_form(request: Request) -> None:
    """Raise `InvalidRequest` for a repeated field (RFC 6749, section 3.2) and an unknown grant."""
    form = await request.form()  # FastAPI has parsed and cached it
    if len(form.multi_items()) > len(form):
        raise InvalidRequest("A field of the form was sent more than once.")
    if form.get("grant_type", "") not in ("", *GRANTS):
        raise InvalidRequest(
            "The grant type is neither password nor refresh_token.", code="unsupported_grant_type"
        )
