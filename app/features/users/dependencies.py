"""Authentication."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Request
from fastapi.security import OAuth2PasswordBearer
from fastapi.security.base import SecurityBase

from app.errors import Forbidden, Unauthenticated
from app.features.users import cached_user, queries
from app.features.users.models import CallerRow, Role, UserRow
from app.infra.dependencies import process_resources
from app.infra.resources import ProcessResources
from app.infra.security.access_tokens import AccessToken
from app.infra.web.client_address import bearer_token
from app.infra.web.token_required import NO_TOKEN, access_token_required

UserT = TypeVar("UserT", CallerRow, UserRow)
Find = Callable[[ProcessResources, AccessToken], Awaitable[UserT | None]]

OAUTH2 = OAuth2PasswordBearer("/v1/auth/token", scheme_name="password")


@access_token_required
class TokenUser(SecurityBase, Generic[UserT]):
    """A dependency that returns the user of the access token, as `find` reads them.

    It is a security scheme itself, and reads the token itself. FastAPI solves the dependencies of a
    dependency again for each dependent, which takes longer than to verify a token.
    """

    def __init__(self, find: Find[UserT]) -> None:
        self.model, self.scheme_name = OAUTH2.model, OAUTH2.scheme_name
        self._find: Find[UserT] = find

    async def __call__(self, request: Request) -> UserT:
        token = bearer_token(request.scope)
        if token is None:
            raise Unauthenticated(NO_TOKEN)
        resources = await process_resources(request)
        verified = resources.access_tokens.verify(token)
        return _require_valid(await self._find(resources, verified), verified)


async def _find_caller(resources: ProcessResources, token: AccessToken) -> CallerRow | None:
    """Return the fields of the caller that are cached.

    The cache in this process is skipped. So while Valkey is reachable, an account that is deleted
    or disabled, and a token that is revoked, are refused by all processes at once.
    """
    user_id = token.user_id
    load, key = partial(cached_user.load_entry, resources, user_id), cached_user.cache_key(user_id)
    entry, _ = await resources.reader.read(key, load, skip_memory=True)
    caller = cached_user.to_caller(entry)
    if caller is not None and (token.credential_version or 0) > caller.credential_version:
        return await queries.read_caller(resources.database, user_id)  # the cache is behind
    return caller


async def _find_account(resources: ProcessResources, token: AccessToken) -> UserRow | None:
    """Return the caller from the database, with email and credentials.

    The connection is returned before the session of the route takes one. So no request needs two
    connections at once.
    """
    return await queries.read_account(resources.database, token.user_id)


def _require_valid(user: UserT | None, token: AccessToken) -> UserT:
    if user is None or user.deleted_at is not None:
        raise Unauthenticated("The account of this access token has been deleted.")
    if user.disabled:
        raise Unauthenticated("The account of this access token has been disabled.")
    if token.credential_version not in (None, user.credential_version):
        raise Unauthenticated("The access token has been revoked. Log in again.")
    return user


current_user, fresh_user = TokenUser(_find_caller), TokenUser(_find_account)
CurrentUser = Annotated[CallerRow, Depends(current_user)]


async def current_admin(user: CurrentUser) -> CallerRow:
    if user.role is not Role.ADMIN:
        raise Forbidden("Only an administrator may do this.")
    return user


CurrentAdmin = Annotated[CallerRow, Depends(current_admin)]
# Read anew for each dependent, because passwords are checked against it.
FreshUser = Annotated[UserRow, Depends(fresh_user, use_cache=False)]
