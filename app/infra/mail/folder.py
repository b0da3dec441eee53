"""Mails as files, for development. The page /mailbox shows them."""

import os
import re
import time
from contextlib import suppress
from email import message_from_bytes, policy
from email.headerregistry import Address
from email.message import EmailMessage
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile

from anyio.to_thread import run_sync

from app.infra.mail.message import Mail, compose
from app.infra.observability.metrics import MAILS

FILE_NAME = re.compile(r"[0-9]{16,19}\.eml")
MOST_FILES = 500


class FolderMailer:
    """Writes each mail to a file that only this user can read. Old files are deleted."""

    can_send = True

    def __init__(self, folder: Path, sender: Address) -> None:
        self._folder = folder
        self._sender = sender

    async def send(self, mail: Mail) -> None:
        content = compose(mail, self._sender).as_bytes(policy=policy.SMTPUTF8)
        await run_sync(self._write, content)
        MAILS.labels("sent").inc()

    async def close(self) -> None:
        """There is nothing to close."""

    def _write(self, content: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=self._folder, prefix=".", delete=False) as unfinished:
            unfinished.write(content)
        # A link does not replace the mail of another process, and nobody reads half a mail.
        for mail_id in count(time.time_ns() // 1_000):
            with suppress(FileExistsError):
                os.link(unfinished.name, self._folder / f"{mail_id}.eml")
                break
        Path(unfinished.name).unlink()
        for old in list_mails(self._folder)[MOST_FILES:]:
            (self._folder / f"{old}.eml").unlink(missing_ok=True)


def list_mails(folder: Path) -> list[int]:
    """Return the ids of the mails, which are their times in microseconds, newest first."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if FILE_NAME.fullmatch(path.name)]
    return sorted((int(name.removesuffix(".eml")) for name in names), reverse=True)


def read_mail(folder: Path, mail_id: int) -> EmailMessage | None:
    try:
        content = (folder / f"{mail_id}.eml").read_bytes()
    except FileNotFoundError:
        return None
    return message_from_bytes(content, policy=policy.default)
