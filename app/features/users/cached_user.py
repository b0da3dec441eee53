"""An account as the cache holds it: what everybody may know of it, no address and no credential."""

from datetime import datetime

import orjson
from sqlalchemy.orm import make_transient_to_detached

from app.features.users import queries, tags
from app.features.users.models import User
from app.infra.cache.settings import CacheSettings
from app.infra.dependencies import ProcessResources
from coherent_cache import Entry

SHOWN = ("id", "name", "bio", "avatar_url", "created_at", "deleted_at")


def key(user_id: int) -> str:
    """Return the key of the account's entry."""
    return f"account:{user_id}"


async def load(held: ProcessResources, user_id: int) -> Entry:
    """Read an account from the database; that there is none is an entry too."""
    settings = held.settings[CacheSettings]
    async with held.database.read() as session:
        user = await queries.get_user(session, user_id)
    shown = None if user is None else {name: getattr(user, name) for name in SHOWN}
    ttl = settings.missing_ttl_seconds if user is None else settings.ttl_seconds
    return Entry(key(user_id), (tags.user(user_id),), orjson.dumps(shown), ttl)


def read(entry: Entry) -> User | None:
    """Return the user, who belongs to no session: what is not here cannot be read."""
    shown = orjson.loads(entry.value)
    if shown is None:
        return None
    for name in ("created_at", "deleted_at"):
        shown[name] = shown[name] and datetime.fromisoformat(shown[name])
    user = User(**shown)
    make_transient_to_detached(user)
    return user
