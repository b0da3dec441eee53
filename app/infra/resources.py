"""What a process holds open, opened and closed in one function."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from app.infra.cache.client import open_valkey
from app.infra.database.engine import open_engine
from app.infra.database.session import Database
from app.infra.health import Readiness
from app.infra.security import AccessTokens, Passwords
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Resources:
    """Made once a process. Nothing in it has connected to anything before its first use."""

    settings: Settings
    database: Database
    valkey: Redis
    passwords: Passwords
    access_tokens: AccessTokens
    readiness: Readiness


@asynccontextmanager
async def open_resources(settings: Settings, application_name: str) -> AsyncIterator[Resources]:
    """Open everything; on leaving, close it in the reverse order, whatever happened."""
    async with AsyncExitStack() as stack:
        database = Database(open_engine(settings.database, application_name))
        stack.push_async_callback(database.close)
        valkey = open_valkey(settings.valkey)
        stack.push_async_callback(valkey.aclose)
        passwords = Passwords(settings.auth)
        stack.callback(passwords.close)
        readiness = Readiness(database, valkey)
        stack.callback(readiness.close)
        yield Resources(
            settings=settings,
            database=database,
            valkey=valkey,
            passwords=passwords,
            access_tokens=AccessTokens(settings.auth),
            readiness=readiness,
        )
