"""`/v1/auth`: how you get a token."""

from typing import Annotated

from fastapi import Form

from app.features.auth import service
from app.features.auth.schemas import Credentials, TokenRead
from app.infra.dependencies import Resources
from app.infra.web.routing import feature_router

router = feature_router("/v1/auth")


@router.post("/token", response_model=TokenRead)
async def log_in(credentials: Annotated[Credentials, Form()], held: Resources) -> TokenRead:
    """Exchange an e-mail address (as `username`) and a password for tokens."""
    return await service.log_in(held, credentials.username, credentials.password)
