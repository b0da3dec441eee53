"""Reads the mails of one test."""

import re
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

from app.infra.mail.folder import list_mails, read_mail
from app.infra.resources import ProcessResources
from tests.jobs import run_jobs


@dataclass(frozen=True)
class Inbox:
    resources: ProcessResources
    folder: Path
    older: frozenset[int]

    async def receive(self) -> list[EmailMessage]:
        """Run the jobs that are due, and return all mails of the test, oldest first."""
        await run_jobs(self.resources)
        new = [mail_id for mail_id in list_mails(self.folder) if mail_id not in self.older]
        mails = [read_mail(self.folder, mail_id) for mail_id in reversed(new)]
        return [mail for mail in mails if mail is not None]

    async def token(self, address: str, page: str) -> str:
        """Return the token in the newest mail to this address with a link to this page."""
        found = [
            match[1]
            for mail in await self.receive()
            if mail["To"] == address
            and (match := re.search(rf"/{page}#token=([\w-]+)", text_of(mail)))
        ]
        return found[-1]


def text_of(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    return str(body.get_content())
