"""Who is calling."""

from typing import Annotated

from fastapi import Depends
from fastapi.security import OAuth2PasswordBearer

from app.errors import Unauthenticated
from app.features.users import queries
from app.features.users.models import User
from app.infra.dependencies import Resources

bearer_token = OAuth2PasswordBearer("/v1/auth/token", auto_error=False, scheme_name="password")


async def current_user(
    token: Annotated[str | None, Depends(bearer_token)], held: Resources
) -> User:
    """Return the caller, read once a request whoever asks, in a short session of its own.

    Its connection is back in the pool before the route's own session takes one, so that no request
    needs two at once.
    """
    if token is None:
        raise Unauthenticated("This call needs an access token.")
    user_id = held.access_tokens.verify(token)
    async with held.database.read() as session:
        user = await queries.get_user(session, user_id)
    if user is None or user.deleted_at is not None:
        raise Unauthenticated("The account of this access token is gone.")
    return user


CurrentUser = Annotated[User, Depends(current_user)]
# Read anew, whoever asked before in this request: passwords are checked against it.
FreshUser = Annotated[User, Depends(current_user, use_cache=False)]
