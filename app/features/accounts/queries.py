"""SQL for the administration of accounts."""

from sqlalchemy import bindparam, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.features.accounts.models import AccountRow
from app.features.users.models import Role, User
from app.infra.database.pagination import KeysetList
from app.infra.database.rows import Columns

LAST_CHARACTER = "\U0010ffff"

# The addresses that begin with `q`, as a range, which an index serves in the order of the list. The
# empty text is the beginning of all. Substrings would need the extension pg_trgm, and sorting.
BEGINNING = func.lower(bindparam("q"))
RANGE = BEGINNING, BEGINNING + literal(LAST_CHARACTER)
ACCOUNTS = select(User).where(User.deleted_at.is_(None))
ACCOUNT_COLUMNS = Columns(AccountRow, User)
ALL_ACCOUNTS = KeysetList(
    "accounts", ACCOUNT_COLUMNS, ACCOUNTS, order_by=User.email_key, within=RANGE
)
ACCOUNTS_BY_ROLE = KeysetList(
    "accounts",
    ACCOUNT_COLUMNS,
    ACCOUNTS.where(User.role == bindparam("role")),
    order_by=User.email_key,
    within=RANGE,
)
BY_ID = select(User).where(User.id == bindparam("user_id"), User.deleted_at.is_(None))


async def get_account(session: AsyncSession, user_id: int) -> User | None:
    return await session.scalar(BY_ID, {"user_id": user_id})


async def update_account(
    session: AsyncSession, user_id: int, values: dict[str, object]
) -> User | None:
    """Change an account and return it, or None if there is none, or it may not become an admin.

    An account whose address is not verified may not. Disabling an account also revokes its tokens.
    """
    if values.get("disabled"):
        values = {**values, "credential_version": User.credential_version + 1}
    statement = update(User).where(User.id == user_id, User.deleted_at.is_(None))
    if values.get("role") is Role.ADMIN:
        # A condition of the statement, because the address may be changed at the same time.
        statement = statement.where(or_(User.verified, User.role == Role.ADMIN))
    return await session.scalar(statement.values(values).returning(User))
