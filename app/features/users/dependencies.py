"""Authentication."""

from functools import partial
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from fastapi.security import OAuth2PasswordBearer

from app.errors import Forbidden, Unauthenticated
from app.features.users import cached_user, queries
from app.features.users.models import CallerRow, Role, UserRow
from app.infra.dependencies import process_resources
from app.infra.security.access_tokens import AccessToken
from app.infra.web.token_required import NO_TOKEN, access_token_required

UserT = TypeVar("UserT", CallerRow, UserRow)

bearer_token = OAuth2PasswordBearer("/v1/auth/token", auto_error=False, scheme_name="password")


@access_token_required
async def access_token(
    token: Annotated[str | None, Depends(bearer_token)], request: Request
) -> AccessToken:
    if token is None:
        raise Unauthenticated(NO_TOKEN)
    resources = await process_resources(request)
    return resources.access_tokens.verify(token)


Token = Annotated[AccessToken, Depends(access_token)]


async def current_user(token: Token, request: Request) -> CallerRow:
    """Return the fields of the caller that are cached.

    The cache in this process is skipped. So while Valkey is reachable, an account that is deleted
    or disabled, and a token that is revoked, are refused by all processes at once.
    """
    resources = await process_resources(request)
    load, key = partial(cached_user.load_entry, resources, token.user_id), token.user_id
    entry, _ = await resources.reader.read(cached_user.cache_key(key), load, skip_memory=True)
    return _require_valid(cached_user.to_caller(entry), token)


async def fresh_user(token: Token, request: Request) -> UserRow:
    """Return the caller from the database, with email and credentials.

    This session is closed, and its connection returned, before the session of the route takes one.
    So no request needs two connections at once.
    """
    resources = await process_resources(request)
    async with resources.database.read() as session:
        return _require_valid(await queries.read_account(session, token.user_id), token)


def _require_valid(user: UserT | None, token: AccessToken) -> UserT:
    if user is None or user.deleted_at is not None:
        raise Unauthenticated("The account of this access token has been deleted.")
    if user.disabled:
        raise Unauthenticated("The account of this access token has been disabled.")
    if token.credential_version not in (None, user.credential_version):
        raise Unauthenticated("The access token has been revoked. Log in again.")
    return user


CurrentUser = Annotated[CallerRow, Depends(current_user)]


async def current_admin(user: CurrentUser) -> CallerRow:
    if user.role is not Role.ADMIN:
        raise Forbidden("Only an administrator may do this.")
    return user


CurrentAdmin = Annotated[CallerRow, Depends(current_admin)]
# Read anew for each dependent, because passwords are checked against it.
FreshUser = Annotated[UserRow, Depends(fresh_user, use_cache=False)]
