"""A mail server for tests, which keeps what it receives."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


@dataclass
class Inbox:
    """What the server was sent, and the replies that it gives to the next mails."""

    mails: list[EmailMessage] = field(default_factory=list)
    logins: list[tuple[str, str, bool]] = field(default_factory=list)  # and whether over TLS
    recipients: list[str] = field(default_factory=list)
    seconds: float = 0  # before each reply to a mail
    to_sender: str = "250 OK"
    to_recipient: str = "250 OK"
    to_data: str = "250 OK"
    port: int = 0
    open_connections: list[SMTP] = field(default_factory=list)

    @property
    def connections(self) -> int:
        """How many there have been."""
        return len(self.open_connections)

    def disconnect(self) -> None:
        """Close all connections, as a server does that is restarted."""
        for connection in self.open_connections:
            assert connection.transport is not None
            connection.transport.close()

    async def handle_MAIL(  # noqa: N802 - the name of a hook
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return self.to_sender

    async def handle_RCPT(  # noqa: N802 - the name of a hook
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        self.recipients.append(address)
        if self.to_recipient.startswith("2"):
            envelope.rcpt_tos.append(address)
        return self.to_recipient

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        await asyncio.sleep(self.seconds)
        if self.to_data.startswith("2"):
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return self.to_data

    def authenticate(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        is_encrypted = server.transport.get_extra_info("sslcontext") is not None
        self.logins.append((data.login.decode(), data.password.decode(), is_encrypted))
        return AuthResult(success=True)


@asynccontextmanager
async def mail_server(
    tls: ssl.SSLContext | None = None, *, starts_with_tls: bool = False, takes_utf8: bool = False
) -> AsyncIterator[Inbox]:
    """Run a server on a free port of the loopback. It offers STARTTLS if there is a certificate."""
    inbox = Inbox()
    options: dict[str, Any] = {"authenticator": inbox.authenticate, "auth_require_tls": False}
    options["enable_SMTPUTF8"] = takes_utf8
    if not starts_with_tls:
        options["tls_context"] = tls
    loop = asyncio.get_running_loop()

    def connect() -> SMTP:
        inbox.open_connections.append(SMTP(inbox, loop=loop, **options))
        return inbox.open_connections[-1]

    server = await loop.create_server(
        connect,
        *("127.0.0.1", 0),
        ssl=tls if starts_with_tls else None,
    )
    inbox.port = server.sockets[0].getsockname()[1]
    try:
        yield inbox
    finally:
        server.close()
