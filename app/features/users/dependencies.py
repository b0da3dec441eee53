"""Who is calling."""

from functools import partial
from typing import Annotated

from fastapi import Depends
from fastapi.security import OAuth2PasswordBearer

from app.errors import Unauthenticated
from app.features.users import cached_user, queries
from app.features.users.models import User
from app.infra.dependencies import Resources

bearer_token = OAuth2PasswordBearer("/v1/auth/token", auto_error=False, scheme_name="password")


async def user_id(token: Annotated[str | None, Depends(bearer_token)], held: Resources) -> int:
    """Return whom the access token was given to."""
    if token is None:
        raise Unauthenticated("This call needs an access token.")
    return held.access_tokens.verify(token)


UserId = Annotated[int, Depends(user_id)]


async def current_user(caller: UserId, held: Resources) -> User:
    """Return what everybody may know of the caller, from the cache, once a request whoever asks.

    This worker's memory is not asked: while Valkey can be reached, an account that was deleted is
    refused everywhere at once.
    """
    load = partial(cached_user.load, held, caller)
    entry, _ = await held.reader.read(cached_user.key(caller), load, skip_memory=True)
    return _existing(cached_user.read(entry))


async def fresh_user(caller: UserId, held: Resources) -> User:
    """Return the caller as the database has them, with what the cache never holds.

    The session is a short one of its own: its connection is back in the pool before the route's own
    session takes one, so that no request needs two at once.
    """
    async with held.database.read() as session:
        return _existing(await queries.get_user(session, caller))


def _existing(user: User | None) -> User:
    if user is None or user.deleted_at is not None:
        raise Unauthenticated("The account of this access token is gone.")
    return user


CurrentUser = Annotated[User, Depends(current_user)]
# Read anew, whoever asked before in this request: passwords are checked against it, and only here
# are the address and the credentials.
FreshUser = Annotated[User, Depends(fresh_user, use_cache=False)]
