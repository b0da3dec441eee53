"""How this service uses the cache, and Valkey below it."""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from app.infra.settings_base.section import Positive, Seconds, Section, SmallCount
from app.infra.settings_base.urls import valkey_url


class ValkeySettings(Section):
    """Valkey, or anything that speaks its protocol. Of a cluster, `url` is any node's.

    `timeout_seconds` limits one command, and all commands of one read together. A look-up that
    takes longer than `slow_seconds` is slow: reads go past a cache whose look-ups stay slow.
    """

    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    cluster: bool = False
    max_connections: SmallCount = 32
    timeout_seconds: Seconds = 0.1
    slow_seconds: Seconds = 0.02

    @field_validator("url")
    @classmethod
    def _for_redis_py(cls, url: SecretStr) -> SecretStr:
        return SecretStr(valkey_url(url.get_secret_value()))

    @model_validator(mode="after")
    def _has_no_other_database(self) -> Self:
        if self.cluster and urlsplit(self.url.get_secret_value()).path not in ("", "/", "/0"):
            raise ValueError("a cluster has database 0 alone: VALKEY_URL ends with its port")
        return self


class CacheSettings(Section):
    """The cache over Valkey and in process. A stale answer lives no longer than these allow."""

    enabled: bool = True
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")] = "cache"
    ttl_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300
    missing_ttl_seconds: Annotated[float, Field(ge=1, le=3_600)] = 5
    memory_bytes: Positive = 64 * 1024 * 1024
    memory_ttl_seconds: Annotated[float, Field(ge=0, le=60)] = 2
    relay_seconds: Annotated[float, Field(ge=0.01, le=1)] = 0.2
