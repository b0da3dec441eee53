"""The settings AUTH_…: access tokens, refresh tokens and password hashing."""

from typing import Annotated

from pydantic import Field, SecretStr

from app.infra.settings_base.section import Positive, Seconds, Section, SmallCount

DEVELOPMENT_SECRET = "a-secret-for-development-only-never-in-production"
MINIMUM_SECRET_BYTES = 32  # RFC 7518, §3.2: an HS256 key must be at least as long as its digest


class AuthSettings(Section):
    """`secret` signs the access tokens of all workers and instances."""

    secret: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    issuer: str = "fastapi-reference-service"
    audience: str = "fastapi-reference-service"
    access_token_seconds: Annotated[int, Field(gt=0, le=86_400)] = 900
    refresh_token_seconds: Annotated[int, Field(gt=0, le=366 * 86_400)] = 30 * 86_400
    hashing_threads: SmallCount = 2
    hashing_queue: Positive = 32
    hashing_queue_seconds: Seconds = 0.5
    argon2_memory_kib: Annotated[int, Field(ge=32, le=2**32 - 1)] = 65_536
    argon2_time_cost: SmallCount = 3
