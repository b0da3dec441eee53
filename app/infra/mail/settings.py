"""The settings MAIL_…."""

from email.headerregistry import Address
from email.utils import parseaddr
from pathlib import Path
from typing import Annotated, Self

from pydantic import ConfigDict, Field, SecretStr, field_validator

from app.infra.settings_base.section import Seconds, Section
from app.infra.settings_base.urls import smtp_server
from app.infra.validation.fields import Url, normalise_email

NO_MAIL = (
    "MAIL_URL is not set, so no mail is sent: new addresses cannot be verified, and forgotten "
    "passwords cannot be reset. Set MAIL_URL and MAIL_LINKS_URL, for the service and the job "
    "worker: .env.example shows how."
)
DEVELOPMENT_FOLDER = Path(".data/mails")
DEVELOPMENT_LINKS_URL = "http://127.0.0.1:8000/mailbox"


class MailSettings(Section):
    """`url` is the mail server. In development without it, mails are files in `folder`.

    `links_url` is the address of the pages that links in mails lead to. It is never taken from a
    request, because a client could send any Host header.
    """

    model_config = ConfigDict(populate_by_name=True)

    url: SecretStr | None = None
    sender: Annotated[str, Field(alias="from")] = "no-reply@localhost"
    folder: Path | None = None
    links_url: Url | None = None
    timeout_seconds: Seconds = 10

    def with_switches(self, *, is_development: bool) -> Self:
        """Return a copy with the defaults of development, which has a folder but no server."""
        if not is_development:
            return self
        folder = None if self.url else self.folder or DEVELOPMENT_FOLDER
        links_url = self.links_url or DEVELOPMENT_LINKS_URL
        return self.model_copy(update={"folder": folder, "links_url": links_url})

    @property
    def can_send(self) -> bool:
        """Whether there is a server or a folder for mails. Ask the section with its switches."""
        return self.url is not None or self.folder is not None

    @property
    def from_address(self) -> Address:
        name, address = parseaddr(self.sender)
        return Address(name, addr_spec=address)

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            smtp_server(url.get_secret_value())
        return url

    @field_validator("sender")
    @classmethod
    def _check_sender(cls, sender: str) -> str:
        name, address = parseaddr(sender)
        # The default is no address that can receive mail, but a mail needs one.
        is_address = address == "no-reply@localhost" or normalise_email(address) is not None
        if not is_address or not sender.isprintable() or not (name + address).isascii():
            raise ValueError("an address, or a name and an address: Shop <no-reply@example.com>")
        return sender

    @field_validator("links_url")
    @classmethod
    def _check_links_url(cls, url: str | None) -> str | None:
        if url is not None and ("?" in url or "#" in url):
            raise ValueError("an address without ? and #, such as https://app.example.com")
        return url and url.rstrip("/")
