"""Those who call the service in the tests of the contract."""

from dataclasses import dataclass

import httpx2

from app.features.users.models import User
from tests.features.users.factory import PASSWORD


@dataclass(frozen=True)
class Caller:
    """Somebody with their credentials. Without arguments, somebody who has no account."""

    email: str = "nobody@example.com"
    refresh_token: str = "made-up"
    headers: dict[str, str] | None = None


async def log_in(client: httpx2.AsyncClient, user: User) -> Caller:
    """Log in, and return the caller."""
    form = {"username": user.email, "password": PASSWORD}
    token = (await client.post("/v1/auth/token", data=form)).raise_for_status().json()
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    return Caller(user.email, token["refresh_token"], headers)
