"""Sends the mails about accounts.

A job makes the token and stores its hash in a transaction of its own, which ends before the mail is
sent. So no connection is held while the mail server answers, and the token in a mail is valid.
"""

from datetime import timedelta
from pathlib import Path

from app.features.account_mails import queries, service
from app.features.account_mails.models import Purpose
from app.features.users.models import User
from app.infra.jobs.mail_job import mail_job
from app.infra.jobs.registry import JobContext, job
from app.infra.mail.message import MailTemplates
from app.infra.mail.settings import MailSettings
from app.infra.validation.fields import Email

MOST_BATCHES = 8
TEMPLATES = MailTemplates(Path(__file__).with_name("mails"))


@mail_job("account_mails.send_verification")
async def send_verification(context: JobContext, *, user_id: int, is_welcome: bool = False) -> None:
    """Mail a link that verifies the address of an account, unless it is verified."""
    async with context.resources.database.transaction() as session:
        user = await queries.lock_account(session, user_id)
        if user is None or user.verified:
            return
        token = await service.issue_token(session, user, Purpose.VERIFICATION, context.job_id)
    subject = f"{'Welcome! ' if is_welcome else ''}Please confirm your e-mail address"
    await _send(context, user, "verification", subject, "verify-email", token)


@mail_job("account_mails.send_password_reset")
async def send_password_reset(context: JobContext, *, email: Email) -> None:
    """Mail a link that resets the password, if there is an account with this address.

    The request enqueues this job for any address. So its answer and its time say nothing.
    """
    async with context.resources.database.transaction() as session:
        user = await queries.lock_account_by_email(session, email)
        if user is None:
            return
        token = await service.issue_token(session, user, Purpose.PASSWORD_RESET, context.job_id)
    subject = "Choose a new password"
    await _send(context, user, "password_reset", subject, "reset-password", token)


@mail_job("account_mails.tell_old_address")
async def tell_old_address(context: JobContext, *, user_id: int, email: Email) -> None:
    """Tell the old address of an account that it was replaced. Its owner may not know that."""
    async with context.resources.database.transaction() as session:
        user = await queries.lock_account_even_if_disabled(session, user_id)
        if user is None:
            return
        if not await service.note_address_change(session, user, email, context.job_id):
            return
    subject = "The e-mail address of your account was changed"
    mail = TEMPLATES.render("address_changed", to=email, subject=subject)
    await context.resources.mailer.send(mail)


@job("account_mails.delete_expired", every=timedelta(minutes=1))
async def delete_expired(context: JobContext) -> None:
    """Delete them in batches that are committed one by one."""
    for _ in range(MOST_BATCHES):
        async with context.resources.database.transaction() as session:
            if await queries.delete_expired_mails(session) < queries.EXPIRED_BATCH_SIZE:
                return


async def _send(
    context: JobContext, user: User, template: str, subject: str, page: str, token: str | None
) -> None:
    if token is None:
        return
    # After the #, because browsers send that part to no server: it is in no log and no Referer.
    link = f"{context.resources.settings[MailSettings].links_url}/{page}#token={token}"
    mail = TEMPLATES.render(template, to=user.email, subject=subject, link=link)
    await context.resources.mailer.send(mail)
