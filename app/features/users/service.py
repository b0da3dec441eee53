"""Operations on accounts."""

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, Forbidden, NotFound, Unauthenticated
from app.features.users import queries, tags
from app.features.users.models import (
    UNIQUE_EMAIL,
    CallerRow,
    PublicUserRow,
    Role,
    User,
    UserRow,
)
from app.features.users.schemas import UserCreate, UserUpdate
from app.infra.database.error_mapping import violated_constraint
from app.infra.jobs.enqueue import enqueue
from app.infra.jobs.inspection import discard_jobs_of_account
from app.infra.rate_limits.limit import By, Limit
from app.infra.resources import ProcessResources
from app.infra.validation.fields import normalise_email
from coherent_cache import invalidate, shows

# Wrong passwords for one account, at the login and where the current password is asked for.
PASSWORD_FAILURES = Limit("password_failures", quota=10, seconds=900, by=By.ACCOUNT)
# New addresses and passwords of one account. A new address tells whether it is taken, and gets a
# mail.
ACCOUNT_CHANGES = Limit("account_changes", quota=30, seconds=3_600, by=By.ACCOUNT)


async def create_user(session: AsyncSession, resources: ProcessResources, data: UserCreate) -> User:
    """Register an account. A mail asks its owner to verify the address.

    The password is hashed before a connection is taken.
    """
    password_hash = await resources.passwords.hash(data.password)
    user = await queries.insert_user(
        session, {"email": data.email, "name": data.name, "password_hash": password_hash}
    )
    if user is None:
        raise _email_taken()
    invalidate(session, tags.user(user.id))  # the cache may know that this user does not exist
    await _send_verification(session, resources, user, is_welcome=True)
    return user


async def update_user(
    session: AsyncSession, resources: ProcessResources, user: User | UserRow, data: UserUpdate
) -> User | UserRow:
    """Change the caller's account. A new password revokes all tokens, also that of this request.

    A new address is not verified. Mails go to the new and to the old address.
    Passwords are checked and hashed before a connection is taken.
    """
    changes = data.model_dump()
    current = changes.pop("current_password", None)
    if data.changes_credentials:
        async with resources.rate_limiter.counting_failures(PASSWORD_FAILURES, user.email):
            if not await resources.passwords.verify(current, user.password_hash):
                raise Forbidden("The current password is wrong.", code="invalid_credentials")
        await resources.rate_limiter.count(ACCOUNT_CHANGES, f"user:{user.id}")
    if (password := changes.pop("password", None)) is not None:
        changes["password_hash"] = await resources.passwords.hash(password)
        changes["credential_version"] = user.credential_version + 1
    if not changes:
        return user
    is_new_address = changes.get("email", user.email) != user.email
    if is_new_address:
        changes["verified"] = False
    try:
        updated = await queries.update_user(session, user, changes)
    except IntegrityError as error:
        if violated_constraint(error) != UNIQUE_EMAIL:
            raise
        raise _email_taken() from None
    if updated is None:
        raise _just_changed()
    invalidate(session, tags.user(user.id))
    if is_new_address:
        await _tell_old_address(session, resources, user)
        await _send_verification(session, resources, updated)
    return updated


async def delete_user(session: AsyncSession, user: User | UserRow) -> None:
    """Delete the caller's account, its jobs, and each row that references it with CASCADE.

    The row of the account stays, without personal data. What references it without CASCADE, such
    as what the user published, stays under the name "Deleted user". Raises `Conflict` for the last
    administrator, and if the role was changed since `user` was read.
    """
    if user.role is Role.ADMIN:
        await keep_an_admin(session, user.id)
    if not await queries.anonymise_user(session, user):
        raise _just_changed()
    await queries.delete_owned_rows(session, user.id)
    await discard_jobs_of_account(session, user.id, user.email)
    invalidate(session, tags.user(user.id), tags.account(user.id))


async def keep_account(session: AsyncSession, user: CallerRow) -> None:
    """Let a concurrent deletion of the account wait for the end of this transaction.

    Call this before inserting a row that must go with the account. Without it, the row could be
    inserted after the deletion. Raises `Unauthenticated` if the account has been deleted.
    """
    if not await queries.lock_active_user(session, user.id):
        raise Unauthenticated("The account of this access token has been deleted.")


async def keep_an_admin(session: AsyncSession, user_id: int) -> None:
    """Raise `Conflict` if this account is the last administrator that is not disabled.

    Call this before an account stops to be one. It locks all administrators, so that two requests
    cannot remove the last two at the same time.
    """
    if await queries.lock_admins(session) == [user_id]:
        raise Conflict(
            "This is the last administrator. Make another account one first.", code="last_admin"
        )


async def make_admin(session: AsyncSession, email: str, *, is_known: bool) -> None:
    """Make the account with this address an administrator, or raise `NotFound` or `Conflict`.

    `is_known` says that the operator knows the owner of the account. The address is then marked as
    verified.
    """
    user = await queries.lock_user_by_email(session, normalise_email(email) or email)
    if user is None:
        raise NotFound("There is no account with this e-mail address.")
    if user.disabled:
        raise Conflict("This account is disabled.", code="disabled")
    if not (user.verified or is_known):
        raise not_verified()
    user.role, user.verified = Role.ADMIN, True
    invalidate(session, tags.user(user.id))


def not_verified() -> Conflict:
    return Conflict(
        "The e-mail address of this account is not verified, so somebody else may have registered "
        "it. Its owner has to follow the link in the verification mail first.",
        code="not_verified",
    )


async def read_user(session: AsyncSession, user_id: int) -> PublicUserRow:
    shows(session, tags.user(user_id))
    user = await queries.get_public_user(session, user_id)
    if user is None:
        raise NotFound("There is no such user.")
    return user


async def _send_verification(
    session: AsyncSession, resources: ProcessResources, user: User, *, is_welcome: bool = False
) -> None:
    """Send a link that verifies the address, if mails can be sent."""
    if resources.mailer.can_send:
        await enqueue(
            session, "account_mails.send_verification", user_id=user.id, is_welcome=is_welcome
        )


async def _tell_old_address(
    session: AsyncSession, resources: ProcessResources, user: User | UserRow
) -> None:
    """Send a mail to the address that was replaced, if mails can be sent.

    An address that was stored before today's rules for addresses, and does not follow them, gets
    none: the mail could reach another mailbox. Its account can still be given a better one.
    """
    if resources.mailer.can_send and normalise_email(user.email) is not None:
        await enqueue(session, "account_mails.tell_old_address", user_id=user.id, email=user.email)


def _just_changed() -> Conflict:
    return Conflict("The account has just been changed by another request. Try again.")


def _email_taken() -> Conflict:
    return Conflict("An account with this e-mail address exists already.", code="email_taken")
