"""SQL for the mails about accounts."""

from datetime import timedelta

from sqlalchemy import bindparam, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.features.account_mails.models import AccountMail, Purpose
from app.features.users.models import User

PAUSE = timedelta(minutes=1)  # between two mails of one purpose about one account to one address
EXPIRED_BATCH_SIZE = 1_000

# Locked, so that jobs for one account take turns, and a deletion of the account waits.
LOCKED = select(User).where(User.deleted_at.is_(None)).with_for_update(key_share=True)
ACTIVE_LOCKED = LOCKED.where(User.disabled.is_(False))
BY_ID = ACTIVE_LOCKED.where(User.id == bindparam("user_id"))
BY_ID_EVEN_IF_DISABLED = LOCKED.where(User.id == bindparam("user_id"))
BY_EMAIL = ACTIVE_LOCKED.where(func.lower(User.email) == func.lower(bindparam("email")))
VALID = (
    AccountMail.token_hash == bindparam("hash"),
    AccountMail.purpose == bindparam("wanted"),
    AccountMail.used_at.is_(None),
    AccountMail.expires_at > func.now(),
    AccountMail.user_id == User.id,
    AccountMail.email == User.email,
    or_(
        AccountMail.purpose != Purpose.PASSWORD_RESET,
        AccountMail.credential_version == User.credential_version,
    ),
    User.deleted_at.is_(None),
    User.disabled.is_(False),
)
USE_TOKEN = update(AccountMail).where(*VALID).values(used_at=func.now()).returning(User)
IS_VALID = select(select(AccountMail.id).where(*VALID).exists())


async def lock_account(session: AsyncSession, user_id: int) -> User | None:
    """Return the account and lock it, or None if it is deleted or disabled."""
    return await session.scalar(BY_ID, {"user_id": user_id})


async def lock_account_even_if_disabled(session: AsyncSession, user_id: int) -> User | None:
    """Return the account and lock it, or None if it is deleted."""
    return await session.scalar(BY_ID_EVEN_IF_DISABLED, {"user_id": user_id})


async def lock_account_by_email(session: AsyncSession, email: str) -> User | None:
    """Return the account with this address and lock it, or None, also if it is disabled."""
    return await session.scalar(BY_EMAIL, {"email": email})


async def was_mailed(
    session: AsyncSession, user: User, email: str, purpose: Purpose, job_id: int
) -> bool:
    """Return whether another job has sent such a mail to this address within the last minute.

    Mails of the same job do not count, because it may run again after it failed. A mail whose token
    was used does not count either: its owner may need another one.
    """
    recent = select(AccountMail.id).where(
        AccountMail.user_id == user.id,
        AccountMail.purpose == purpose,
        AccountMail.email == email,
        AccountMail.used_at.is_(None),
        AccountMail.created_at > func.now() - PAUSE,
        AccountMail.job_id != job_id,
    )
    return bool(await session.scalar(select(recent.exists())))


async def insert_mail(
    session: AsyncSession,
    user: User,
    email: str,
    purpose: Purpose,
    job_id: int,
    *,
    token_hash: bytes | None,
    lifetime: timedelta,
) -> None:
    """Insert a mail to `email` that expires after `lifetime`, by the clock of the database."""
    await session.execute(
        insert(AccountMail).values(
            user_id=user.id,
            purpose=purpose,
            job_id=job_id,
            email=email,
            credential_version=user.credential_version,
            token_hash=token_hash,
            expires_at=func.now() + lifetime,
        )
    )


async def is_valid(session: AsyncSession, token_hash: bytes, purpose: Purpose) -> bool:
    return bool(await session.scalar(IS_VALID, {"hash": token_hash, "wanted": purpose}))


async def use_token(session: AsyncSession, token_hash: bytes, purpose: Purpose) -> User | None:
    """Mark a token as used and return its account, or None if the token is not valid."""
    return await session.scalar(USE_TOKEN, {"hash": token_hash, "wanted": purpose})


async def reset_password(session: AsyncSession, user: User, password_hash: str) -> bool:
    """Replace the password, revoke all tokens, and mark the address as verified.

    Return False if the account was changed since `user` was read.
    """
    statement = update(User).where(
        User.id == user.id,
        User.email == user.email,
        User.credential_version == user.credential_version,
        User.deleted_at.is_(None),
        User.disabled.is_(False),
    )
    values = {
        "password_hash": password_hash,
        "credential_version": user.credential_version + 1,
        "verified": True,
    }
    return await session.scalar(statement.values(values).returning(User.id)) is not None


async def set_verified(session: AsyncSession, user: User) -> bool:
    """Return False if the account got another address since `user` was read."""
    statement = update(User).where(User.id == user.id, User.email == user.email)
    found = await session.scalar(statement.values(verified=True).returning(User.id))
    return found is not None


async def delete_expired_mails(session: AsyncSession) -> int:
    """Delete a batch of expired mails, and return how many. Concurrent calls delete others."""
    expired = (
        select(AccountMail.id)
        .where(AccountMail.expires_at < func.now())
        .order_by(AccountMail.expires_at)
        .limit(EXPIRED_BATCH_SIZE)
        .with_for_update(skip_locked=True)
    )
    statement = delete(AccountMail).where(AccountMail.id.in_(expired))
    return len((await session.scalars(statement.returning(AccountMail.id))).all())
