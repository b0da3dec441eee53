"""`/v1/users`: accounts and profiles."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from app.features.users import service
from app.features.users.dependencies import FreshUser
from app.features.users.models import PublicUserRow, User, UserRow
from app.features.users.schemas import PublicUserRead, UserCreate, UserRead, UserUpdate
from app.infra.dependencies import Conditions, ReadSession, Resources, WriteSession
from app.infra.rate_limits.limit import By, Limit
from app.infra.validation.fields import KIB, Id
from app.infra.web.cacheable import cacheable
from app.infra.web.openapi import NOT_MODIFIED, problems
from app.infra.web.rate_limited import ADDRESS, WRITES, rate_limited

router = APIRouter(prefix="/v1/users", tags=["users"])

REGISTRATIONS = Limit("registrations", quota=20, seconds=3_600, by=By.ADDRESS)


@router.post(
    "",
    status_code=201,
    response_model=UserRead,
    responses=problems(409, 413, 415, 422),
    max_body_size=8 * KIB,
)
@rate_limited(REGISTRATIONS)
async def create_user(
    data: UserCreate, session: WriteSession, resources: Resources, response: Response
) -> User:
    """Register an account. 409 `email_taken` when there is one with this address."""
    user = await service.create_user(session, resources, data)
    response.headers["Location"] = f"/v1/users/{user.id}"
    return user


@router.get("/me", response_model=UserRead, responses=problems(401))
async def read_me(user: FreshUser) -> UserRow:
    """Return the account of the caller."""
    return user


@router.patch(
    "/me",
    response_model=UserRead,
    responses=problems(401, 403, 409, 412, 413, 415, 422),
    max_body_size=32 * KIB,
)
@rate_limited(ADDRESS, WRITES, service.PASSWORD_FAILURES, service.ACCOUNT_CHANGES)
async def update_me(
    data: UserUpdate,
    user: FreshUser,
    session: WriteSession,
    resources: Resources,
    precondition: Conditions,
) -> User | UserRow:
    """Change the account of the caller. 403 `invalid_credentials` for a wrong current password."""
    precondition.require()
    return await service.update_user(session, resources, user, data)


@router.delete(
    "/me", status_code=204, response_class=Response, responses=problems(401, 409, 412, 422)
)
async def delete_me(user: FreshUser, session: WriteSession, precondition: Conditions) -> None:
    """Delete the account of the caller. What they published stays, as that of nobody.

    409 `last_admin` for the last administrator.
    """
    precondition.require()
    await service.delete_user(session, user)


@router.get(
    "/{user_id}", response_model=PublicUserRead, responses=NOT_MODIFIED | problems(404, 422)
)
@cacheable()
async def read_user(user_id: Annotated[Id, Path()], session: ReadSession) -> PublicUserRow:
    """Return what everybody may know of a user."""
    return await service.read_user(session, user_id)
