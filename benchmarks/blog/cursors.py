"""Opaque cursors of lists that are ordered by creation time and id."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime


def encode(created_at: datetime, post_id: int) -> str:
    return urlsafe_b64encode(f"{created_at.isoformat()},{post_id}".encode()).decode()


def decode(cursor: str) -> tuple[datetime, int]:
    time, _, number = urlsafe_b64decode(cursor).decode().partition(",")
    return datetime.fromisoformat(time), int(number)
