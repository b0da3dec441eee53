"""The calling user, as the cache stores it: the fields of `CallerRow`."""

from datetime import datetime

import orjson

from app.features.users import queries, tags
from app.features.users.models import CallerRow, Role
from app.infra.cache.settings import CacheSettings
from app.infra.resources import ProcessResources
from coherent_cache import Entry


def cache_key(user_id: int) -> str:
    return f"account:{user_id}"


async def load_entry(resources: ProcessResources, user_id: int) -> Entry:
    """Read the user from the database. The entry may also say that the user does not exist."""
    settings = resources.settings[CacheSettings]
    caller = await queries.read_caller(resources.database, user_id)
    fields = None if caller is None else caller._asdict()
    ttl = settings.missing_ttl_seconds if caller is None else settings.ttl_seconds
    return Entry(cache_key(user_id), (tags.user(user_id),), orjson.dumps(fields), ttl)


def to_caller(entry: Entry) -> CallerRow | None:
    """Return the calling user, or None if there is no such user."""
    fields = orjson.loads(entry.value)
    if fields is None:
        return None
    for name in ("created_at", "deleted_at"):
        fields[name] = fields[name] and datetime.fromisoformat(fields[name])
    return CallerRow(**fields | {"role": Role(fields["role"])})
