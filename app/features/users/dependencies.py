"""Authentication."""

from functools import partial
from typing import Annotated

from fastapi import Depends
from fastapi.security import OAuth2PasswordBearer

from app.errors import Unauthenticated
from app.features.users import cached_user, queries
from app.features.users.models import User
from app.infra.dependencies import Resources

bearer_token = OAuth2PasswordBearer("/v1/auth/token", auto_error=False, scheme_name="password")


async def authenticated_user_id(
    token: Annotated[str | None, Depends(bearer_token)], resources: Resources
) -> int:
    if token is None:
        raise Unauthenticated("This call needs an access token.")
    return resources.access_tokens.verify(token)


UserId = Annotated[int, Depends(authenticated_user_id)]


async def current_user(caller: UserId, resources: Resources) -> User:
    """Return the public fields of the caller, from the cache.

    The cache in this process is skipped. So while Valkey is reachable, a deleted account is refused
    by all processes at once.
    """
    load = partial(cached_user.load_entry, resources, caller)
    entry, _ = await resources.reader.read(cached_user.cache_key(caller), load, skip_memory=True)
    return _require_existing(cached_user.to_user(entry))


async def fresh_user(caller: UserId, resources: Resources) -> User:
    """Return the caller from the database, with email and credentials.

    This session is closed, and its connection returned, before the session of the route takes one.
    So no request needs two connections at once.
    """
    async with resources.database.read() as session:
        return _require_existing(await queries.get_user(session, caller))


def _require_existing(user: User | None) -> User:
    if user is None or user.deleted_at is not None:
        raise Unauthenticated("The account of this access token has been deleted.")
    return user


CurrentUser = Annotated[User, Depends(current_user)]
# Read anew for each dependent, because passwords are checked against it.
FreshUser = Annotated[User, Depends(fresh_user, use_cache=False)]
