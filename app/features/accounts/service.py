"""Lists accounts, makes administrators, and disables accounts."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound
from app.features.accounts import queries
from app.features.accounts.models import AccountRow
from app.features.accounts.schemas import AccountUpdate
from app.features.users import tags
from app.features.users.models import Role, User
from app.features.users.service import keep_an_admin, not_verified
from app.infra.database.pagination import Page, PageRequest
from coherent_cache import invalidate


async def list_accounts(
    session: AsyncSession, query: PageRequest, *, q: str, role: Role | None
) -> Page[AccountRow]:
    """Return a page of the accounts whose address begins with `q`, in the order of addresses."""
    if role is None:
        return await queries.ALL_ACCOUNTS.page(session, query, q=q)
    return await queries.ACCOUNTS_BY_ROLE.page(session, query, q=q, role=role)


async def update_account(session: AsyncSession, user_id: int, data: AccountUpdate) -> User:
    """Change the role of an account, or disable it, which revokes its tokens.

    Raises `NotFound`, and `Conflict` for the last administrator, and for a new administrator whose
    address is not verified.
    """
    changes = data.model_dump()
    if changes.get("role") is Role.USER or changes.get("disabled"):
        await keep_an_admin(session, user_id)
    account = await queries.update_account(session, user_id, changes) if changes else None
    if account is not None:
        invalidate(session, tags.user(user_id))
        return account
    account = await queries.get_account(session, user_id)
    if account is None:
        raise NotFound("There is no such account.")
    if changes:
        raise not_verified()
    return account
