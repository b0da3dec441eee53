"""The settings DATABASE_…."""

from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from app.infra.settings_base.section import Seconds, Section, SmallCount, WholeSeconds
from app.infra.settings_base.urls import postgresql_url


class DatabaseSettings(Section):
    """PostgreSQL. `pool_size` is for each worker process. `pooler` is PgBouncer."""

    url: SecretStr = SecretStr("postgresql://app:app@127.0.0.1:5432/app")
    pooler: bool = False
    replica_url: SecretStr | None = None
    replica_lag_seconds: Annotated[float, Field(ge=2, le=3_600)] = 5
    pool_size: SmallCount = 8
    pool_timeout_seconds: Seconds = 1
    pool_recycle_seconds: WholeSeconds = 1800
    connect_timeout_seconds: Seconds = 3
    command_timeout_seconds: Seconds = 6
    statement_timeout_seconds: Seconds = 5
    lock_timeout_seconds: Seconds = 2
    idle_in_transaction_timeout_seconds: Seconds = 10

    @field_validator("url", "replica_url")
    @classmethod
    def _convert_url(cls, url: SecretStr | None) -> SecretStr | None:
        return url and SecretStr(postgresql_url(url.get_secret_value()))
