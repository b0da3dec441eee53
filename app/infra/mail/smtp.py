"""Sends mails to a mail server."""

import asyncio
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

from app.errors import PermanentError
from app.infra.mail.message import Mail, compose
from app.infra.settings_base.urls import SmtpServer

PERMANENT = 500  # replies from here on mean that the same mail would be refused again (RFC 5321)
CHECK_AFTER_SECONDS = 1.0  # servers close idle connections, some of them after seconds
CLOSE_SECONDS = 1.0


class SmtpMailer:
    """Sends over one connection, one mail after the other. It opens at the first mail.

    A connection saves the TLS handshake and the login of each further mail. A mail gets
    `timeout_seconds`, in which the mails before it have to be sent too.
    """

    can_send = True

    def __init__(self, server: SmtpServer, sender: Address, timeout_seconds: float) -> None:
        self._server = server
        self._sender = sender
        self._timeout_seconds = timeout_seconds
        self._turn = asyncio.Lock()
        self._connection: SMTP | None = None
        self._used_at = 0.0

    async def send(self, mail: Mail) -> None:
        message = compose(mail, self._sender)
        async with asyncio.timeout(self._timeout_seconds), self._turn:
            connection = await self._open()
            try:
                await connection.send_message(message)
            except SMTPNotSupported:  # the connection is still usable
                raise PermanentError("The mail server takes ASCII addresses only.") from None
            except (SMTPDataError, SMTPRecipientsRefused, SMTPSenderRefused) as error:
                code = _code_of(error)
                if code < PERMANENT:
                    raise
                raise PermanentError(f"The mail server refused the mail with {code}.") from None
            except BaseException:  # the state of the connection is unknown: also after a timeout
                self._drop()
                raise
            self._used_at = time.monotonic()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SMTPException, OSError, TimeoutError):
                await connection.quit(timeout=CLOSE_SECONDS)
            connection.close()

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
                self._drop()
                raise
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _code_of(error: SMTPDataError | SMTPRecipientsRefused | SMTPSenderRefused) -> int:
    if isinstance(error, SMTPRecipientsRefused):
        return min(one.code for one in error.recipients)
    return error.code
