"""`/mailbox`: the mails of development, which are files. It is not part of the API.

`make remove name=mailbox` removes it.
"""

from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from jinja2 import Environment, FileSystemLoader, select_autoescape
from starlette.responses import HTMLResponse

from app.errors import NotFound
from app.infra.mail.folder import list_mails, read_mail
from app.infra.validation.fields import Id
from app.infra.web.mailbox_access import MailFolder
from app.infra.web.response_headers import PAGE_HEADERS, PAGE_POLICY, content_hash

SHOWN = 100
PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("pages")), autoescape=select_autoescape()
)
STYLE = Path(__file__).with_name("pages").joinpath("page.css").read_text(encoding="utf-8")
HEADERS = {
    **PAGE_HEADERS,
    "Content-Security-Policy": (
        f"default-src 'none'; style-src '{content_hash(STYLE)}'; img-src data:; frame-src 'self'; "
        f"{PAGE_POLICY}"
    ),
}
# A mail is shown as a mail program shows it: without scripts, forms, and anything from elsewhere.
MAIL_HEADERS = {
    **PAGE_HEADERS,
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'self'; "
        "sandbox allow-popups allow-popups-to-escape-sandbox"
    ),
}
NEW_TAB = '<base target="_blank">'  # links leave the frame

router = APIRouter(prefix="/mailbox", include_in_schema=False)
MailId = Annotated[Id, PathParameter()]


@router.get("")
@router.get("/")
async def mailbox(request: Request, folder: MailFolder) -> HTMLResponse:
    """List the newest mails. Links are relative, because a proxy may add a prefix."""
    ids = list_mails(folder)[:SHOWN]
    mails = [(mail_id, mail) for mail_id in ids if (mail := read_mail(folder, mail_id))]
    links = "mails" if request.url.path.endswith("/") else "mailbox/mails"
    return _page("list.html", mails=mails, links=links)


@router.get("/mails/{mail_id}")
async def mail(mail_id: MailId, folder: MailFolder) -> HTMLResponse:
    """Show a mail as text and as HTML."""
    found = _require_existing(read_mail(folder, mail_id))
    sent_at = parsedate_to_datetime(found["Date"])
    return _page("mail.html", mail=found, sent_at=sent_at, text=_part(found, "plain"), id=mail_id)


@router.get("/mails/{mail_id}/html")
async def mail_as_html(mail_id: MailId, folder: MailFolder) -> HTMLResponse:
    """Return the HTML of a mail, for the frame of the page above."""
    html = _part(_require_existing(read_mail(folder, mail_id)), "html")
    return HTMLResponse(NEW_TAB + html, headers=MAIL_HEADERS)


def _page(name: str, **values: object) -> HTMLResponse:
    page = PAGES.get_template(name).render(style=STYLE, **values)
    return HTMLResponse(page, headers=HEADERS)


def _require_existing(mail: EmailMessage | None) -> EmailMessage:
    if mail is None:
        raise NotFound("There is no such mail.")
    return mail


def _part(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    return "" if body is None else str(body.get_content())
