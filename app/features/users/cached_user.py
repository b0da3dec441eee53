"""The calling user, as the cache stores it: what decides whether and what the user may do.

There is no personal data in it but what everybody may see.
"""

from datetime import datetime

import orjson
from sqlalchemy.orm import make_transient_to_detached

from app.features.users import queries, tags
from app.features.users.models import Role, User
from app.infra.cache.settings import CacheSettings
from app.infra.resources import ProcessResources
from coherent_cache import Entry

CACHED_FIELDS = (
    *("id", "name", "bio", "avatar_url", "created_at", "deleted_at"),
    *("role", "verified", "disabled", "credential_version"),
)


def cache_key(user_id: int) -> str:
    return f"account:{user_id}"


async def load_entry(resources: ProcessResources, user_id: int) -> Entry:
    """Read the user from the database. The entry may also say that the user does not exist."""
    settings = resources.settings[CacheSettings]
    async with resources.database.read() as session:
        user = await queries.read_account(session, user_id)
    fields = None if user is None else {name: getattr(user, name) for name in CACHED_FIELDS}
    ttl = settings.missing_ttl_seconds if user is None else settings.ttl_seconds
    return Entry(cache_key(user_id), (tags.user(user_id),), orjson.dumps(fields), ttl)


def to_user(entry: Entry) -> User | None:
    """Return the user without a session. Reading a field that is not cached raises an error."""
    fields = orjson.loads(entry.value)
    if fields is None:
        return None
    for name in ("created_at", "deleted_at"):
        fields[name] = fields[name] and datetime.fromisoformat(fields[name])
    user = User(**fields | {"role": Role(fields["role"])})
    make_transient_to_detached(user)
    return user
