"""Accounts, as administrators see them."""

from datetime import datetime
from typing import NamedTuple

from app.features.users.models import Role


class AccountRow(NamedTuple):
    """What an administrator knows of an account. `email_key` is what the list is ordered by."""

    id: int
    name: str
    bio: str
    avatar_url: str | None
    created_at: datetime
    email: str
    email_key: str
    role: Role
    verified: bool
    disabled: bool
    updated_at: datetime
