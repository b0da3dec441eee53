"""Mails, rendered from templates, and as messages that a mail server takes."""

from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import localtime, make_msgid
from pathlib import Path

from email_validator import EmailNotValidError, validate_email
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

SHARED = Path(__file__).with_name("templates")


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to one address, as text and as HTML."""

    to: str
    subject: str
    text: str
    html: str


class MailTemplates:
    """The templates of a feature: `name.txt` and `name.html` in one folder.

    Values are escaped in HTML. A value that is missing raises an error. Do not put text that a user
    has written into a mail to an address that is not verified: anybody could then send their own
    text to any address.
    """

    def __init__(self, folder: Path) -> None:
        self._templates = Environment(
            loader=FileSystemLoader([folder, SHARED]),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )

    def render(self, name: str, *, to: str, subject: str, **values: object) -> Mail:
        """Render both templates, with `subject` among the values."""
        text, html = (
            self._templates.get_template(f"{name}.{suffix}").render(subject=subject, **values)
            for suffix in ("txt", "html")
        )
        return Mail(to, subject, text, html)


def compose(mail: Mail, sender: Address) -> EmailMessage:
    """Return the message. Raises ValueError for a line break in a header."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = recipient_of(mail)
    message["Subject"] = mail.subject
    message["Date"] = localtime()
    message["Message-ID"] = make_msgid(domain=sender.domain)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office reply, please
    message.set_content(mail.text)
    message.add_alternative(mail.html, subtype="html")
    return message


def recipient_of(mail: Mail) -> Address:
    """Return the address with its domain in ASCII, which every mail server takes."""
    try:
        parts = validate_email(mail.to, check_deliverability=False)
    except EmailNotValidError:
        name, _, domain = mail.to.rpartition("@")
    else:
        name, domain = parts.local_part, parts.ascii_domain or parts.domain
    return Address(username=name, domain=domain)
