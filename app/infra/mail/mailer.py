"""Sends mails. Only jobs do, because a mail server may be slow or away."""

from typing import Protocol

from app.errors import Unavailable
from app.infra.mail.folder import FolderMailer
from app.infra.mail.message import Mail
from app.infra.mail.settings import MailSettings
from app.infra.mail.smtp import SmtpMailer
from app.infra.settings_base.urls import smtp_server


class Mailer(Protocol):
    """`can_send` is False if the settings name neither a server nor a folder.

    Ask it before you enqueue a job that sends a mail. Such a job could only fail.
    """

    can_send: bool

    async def send(self, mail: Mail) -> None:
        """Send a mail. Raises `PermanentError` if the server refuses this mail for good.

        If it refuses the recipient for good, such as a mailbox that does not exist, this is logged
        and counted in the metric `mails`, and the call returns. Nobody could repair that, and
        anybody can register with such an address.

        A job whose worker dies while the server answers runs again, so a mail may arrive twice.
        """

    async def close(self) -> None: ...


class _NoMailer:
    can_send = False

    async def send(self, mail: Mail) -> None:  # noqa: ARG002 - the signature of the protocol
        raise Unavailable("MAIL_URL is not set, so mails cannot be sent.")

    async def close(self) -> None:
        """There is nothing to close."""


def open_mailer(settings: MailSettings) -> Mailer:
    """Return a mailer. It connects when it sends its first mail."""
    if settings.url is not None:
        server = smtp_server(settings.url.get_secret_value())
        return SmtpMailer(server, settings.from_address, settings.timeout_seconds)
    if settings.folder is not None:
        return FolderMailer(settings.folder, settings.from_address)
    return _NoMailer()
