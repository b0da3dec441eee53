"""`/v1/admin/users`: accounts, for administrators."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from app.features.accounts import service
from app.features.accounts.models import AccountRow
from app.features.accounts.schemas import AccountUpdate, AdminUserPage, AdminUserRead
from app.features.users.dependencies import CurrentAdmin
from app.features.users.models import Role, User
from app.infra.database.pagination import Page
from app.infra.dependencies import Conditions, PageQuery, ReadSession, WriteSession
from app.infra.validation.fields import KIB, MAX_EMAIL_LENGTH, Id, Text
from app.infra.web.link_header import link_neighbours
from app.infra.web.openapi import problems

router = APIRouter(prefix="/v1/admin/users", tags=["admin"])

Beginning = Annotated[Text, Field(max_length=MAX_EMAIL_LENGTH)]


@router.get("", response_model=AdminUserPage, responses=problems(401, 403, 422))
async def list_accounts(
    _admin: CurrentAdmin,
    request: Request,
    response: Response,
    session: ReadSession,
    query: PageQuery,
    q: Annotated[Beginning, Query(description="The beginning of an e-mail address.")] = "",
    role: Annotated[Role | None, Query()] = None,
) -> Page[AccountRow]:
    """List accounts in the order of their addresses. Deleted accounts are left out."""
    page = await service.list_accounts(session, query, q=q, role=role)
    link_neighbours(request, response, page, limit=query.limit, q=q, role=role)
    return page


@router.patch(
    "/{user_id}",
    response_model=AdminUserRead,
    responses=problems(401, 403, 404, 409, 412, 413, 415, 422),
    max_body_size=8 * KIB,
)
async def update_account(
    user_id: Annotated[Id, Path()],
    data: AccountUpdate,
    _admin: CurrentAdmin,
    session: WriteSession,
    precondition: Conditions,
) -> User:
    """Change a role, or disable an account.

    409 `last_admin` for the last administrator, and 409 `not_verified` if an account is to become
    an administrator and its address is not verified.
    """
    precondition.require()
    return await service.update_account(session, user_id, data)
