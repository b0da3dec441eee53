"""Sends mails to a mail server."""

import asyncio
import logging
import time
from contextlib import suppress
from email.headerregistry import Address

from aiosmtplib import (
    SMTP,
    SMTPDataError,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
)

from app.errors import PermanentError, Unavailable
from app.infra.mail.message import Mail, compose, recipient_of
from app.infra.mail.refusals import PERMANENT, is_recipient_refused
from app.infra.observability.metrics import MAILS
from app.infra.settings_base.urls import SmtpServer

logger = logging.getLogger(__name__)

CHECK_AFTER_SECONDS = 1.0  # servers close idle connections, some of them after seconds
CLOSE_SECONDS = 1.0


class SmtpMailer:
    """Sends over one connection, one mail after the other. It opens at the first mail.

    A connection saves the TLS handshake and the login of each further mail. The server has
    `timeout_seconds` for all its answers to one mail. The time in which a mail waits for the mails
    before it does not count.
    """

    can_send = True

    def __init__(self, server: SmtpServer, sender: Address, timeout_seconds: float) -> None:
        self._server = server
        self._sender = sender
        self._timeout_seconds = timeout_seconds
        self._turn = asyncio.Lock()
        self._connection: SMTP | None = None
        self._used_at = 0.0
        self._away_at = 0.0  # when the server was last not reached, or did not answer in time

    async def send(self, mail: Mail) -> None:
        came_at = time.monotonic()
        try:
            async with self._turn:
                if self._away_at > came_at:  # otherwise each waits for the whole timeout
                    raise Unavailable("The mail server did not answer for the mail before this.")
                try:
                    async with asyncio.timeout(self._timeout_seconds):
                        result = await self._send(mail)
                except TimeoutError:
                    self._away_at = time.monotonic()
                    raise
        except Exception:
            MAILS.labels("failed").inc()
            raise
        MAILS.labels(result).inc()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SMTPException, OSError, TimeoutError):
                await connection.quit(timeout=CLOSE_SECONDS)
            connection.close()

    async def _send(self, mail: Mail) -> str:
        """Return whether the mail was sent, or its recipient was refused."""
        recipient = recipient_of(mail).addr_spec
        message = compose(mail, self._sender)
        connection = await self._open()
        try:
            # The recipient is not read from the header, which is for people.
            await connection.send_message(
                message, sender=self._sender.addr_spec, recipients=[recipient]
            )
        except SMTPNotSupported:  # the connection is still usable
            return _refused("it takes ASCII addresses only")
        except (SMTPDataError, SMTPRecipientsRefused, SMTPSenderRefused) as error:
            code, text = _reply_of(error)
            to_rcpt = isinstance(error, SMTPRecipientsRefused)
            is_sender = isinstance(error, SMTPSenderRefused)
            if not is_sender and is_recipient_refused(code, text, recipient, to_rcpt=to_rcpt):
                return _refused(f"its reply is {code}")
            if code < PERMANENT:
                raise
            raise PermanentError(f"The mail server refused the mail with {code}.") from None
        except BaseException:  # the state of the connection is unknown: also after a timeout
            self._drop()
            raise
        self._used_at = time.monotonic()
        return "sent"

    async def _open(self) -> SMTP:
        """Return the connection, or a new one if there is none or the server has closed it."""
        connection = self._connection
        if connection is not None and time.monotonic() - self._used_at > CHECK_AFTER_SECONDS:
            try:
                await connection.noop()
            except (SMTPException, OSError):
                self._drop()
        if self._connection is None or not self._connection.is_connected:
            self._connection = connection = SMTP(
                hostname=self._server.host,
                port=self._server.port,
                username=self._server.user,
                password=self._server.password,
                use_tls=self._server.use_tls,
                start_tls=self._server.start_tls,
                timeout=self._timeout_seconds,
            )
            try:
                await connection.connect()
            except BaseException:
                self._away_at = time.monotonic()
                self._drop()
                raise
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _refused(reason: str) -> str:
    """Log this without the address. Another delivery would be refused too."""
    logger.warning(
        "A mail is not sent, because the mail server refuses its recipient for good: %s", reason
    )
    return "refused"


def _reply_of(
    error: SMTPDataError | SMTPRecipientsRefused | SMTPSenderRefused,
) -> tuple[int, str]:
    if isinstance(error, SMTPRecipientsRefused):
        [refused] = error.recipients  # each mail has one
        return refused.code, refused.message
    return error.code, error.message
