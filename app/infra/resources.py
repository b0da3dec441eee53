"""What a process holds open."""

from dataclasses import dataclass

from app.infra.database.replica import Replica
from app.infra.database.schema import Schema
from app.infra.database.separate_reads import SeparateReads
from app.infra.database.sessions import Database
from app.infra.http_client.client import HttpClient
from app.infra.mail.mailer import Mailer
from app.infra.rate_limits.limiter import RateLimiter
from app.infra.security.access_tokens import AccessTokens
from app.infra.security.passwords import Passwords
from app.infra.settings_base.section import Sections
from app.infra.storage.store import ObjectStore
from coherent_cache import Cache, NoCache, Reader


@dataclass(frozen=True, slots=True)
class ProcessResources:
    """Made once. Nothing connects before its first use. Only jobs use `mailer`.

    `cache` and `replica` are None if the settings have none. `reader` works in either case.
    """

    settings: Sections
    database: Database
    schema: Schema
    replica: Replica | None
    separate_reads: SeparateReads
    cache: Cache | None
    reader: Reader | NoCache
    passwords: Passwords
    access_tokens: AccessTokens
    rate_limiter: RateLimiter
    http: HttpClient
    mailer: Mailer
    objects: ObjectStore
