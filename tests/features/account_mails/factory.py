"""Makes the tokens that mails contain."""

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

from app.features.account_mails import queries
from app.features.account_mails.models import Purpose
from app.features.users.models import User
from tests.factory import Factory


@dataclass(frozen=True)
class MailFactory(Factory):
    async def mail(
        self,
        user: User,
        purpose: Purpose,
        *,
        token: str,
        lifetime: timedelta = timedelta(hours=1),
    ) -> None:
        """Store a mail as if a job had sent it."""
        token_hash = sha256(token.encode()).digest()
        async with self.resources.database.transaction() as session:
            await queries.insert_mail(
                session, user, user.email, purpose, 1, token_hash=token_hash, lifetime=lifetime
            )
