"""Every knob of the service, one frozen section a concern, built only by entry points.

Values come from the environment, then `.env`, then files in SECRETS_DIR (default /run/secrets):
`database.pool_size` is DATABASE_POOL_SIZE, or a file named `database_pool_size`. Anything wrong
is refused at start-up by the name of the setting and the cure, never with its value.
"""

import os
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

DEVELOPMENT_SECRET = "a-secret-for-development-only-never-in-production"
MINIMUM_SECRET_BYTES = 32  # RFC 7518 §3.2: an HS256 key is at least as long as its digest

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0.001, le=86_400)]


def _check_address(host: str | None, port: int | None) -> None:
    if not host or "," in host or not 1 <= (port or 1) <= 65_535:
        raise ValueError("it names one host, and a port between 1 and 65535")


class Section(BaseModel):
    """A frozen group of settings; its field name is the prefix of their names."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, validate_default=True)


class DatabaseSettings(Section):
    """PostgreSQL, and how many connections each worker process holds to it."""

    url: SecretStr = SecretStr("postgresql://app:app@127.0.0.1:5432/app")
    pool_size: Positive = 5
    pool_timeout_seconds: Seconds = 1
    pool_recycle_seconds: Positive = 1800
    connect_timeout_seconds: Seconds = 3
    command_timeout_seconds: Seconds = 6
    statement_timeout_seconds: Seconds = 5
    lock_timeout_seconds: Seconds = 2
    idle_in_transaction_timeout_seconds: Seconds = 10

    @field_validator("url")
    @classmethod
    def _for_asyncpg(cls, url: SecretStr) -> SecretStr:
        """Accept any common PostgreSQL URL, and name the driver that we use."""
        try:
            parsed = make_url(url.get_secret_value())
        except (ArgumentError, ValueError):
            raise ValueError("not a URL: postgresql://user:password@host:5432/name") from None
        if parsed.drivername not in ("postgres", "postgresql", "postgresql+asyncpg"):
            raise ValueError("not for PostgreSQL: it begins with postgresql://")
        query = {"ssl" if key == "sslmode" else key: value for key, value in parsed.query.items()}
        if query.keys() - {"ssl"} or query.get("ssl", "prefer") not in SSL_MODES:
            raise ValueError(f"after the `?` it takes sslmode alone: {', '.join(SSL_MODES)}")
        _check_address(parsed.host, parsed.port)
        parsed = parsed.set(drivername="postgresql+asyncpg", query=query)
        return SecretStr(parsed.render_as_string(hide_password=False))


class ValkeySettings(Section):
    """Valkey, or anything that speaks its protocol."""

    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    max_connections: Positive = 32
    timeout_seconds: Seconds = 0.1

    @field_validator("url")
    @classmethod
    def _for_redis_py(cls, url: SecretStr) -> SecretStr:
        """Accept valkey:// and valkeys://, which the client does not know, as redis://."""
        scheme, _, rest = url.get_secret_value().partition("://")
        scheme = scheme.replace("valkey", "redis")
        try:
            parsed = urlsplit(f"{scheme}://{rest}")
            _check_address(parsed.hostname, parsed.port)
        except ValueError:
            raise ValueError("not a URL: redis://:password@host:6379/0") from None
        if scheme not in ("redis", "rediss") or parsed.query:
            raise ValueError("not a Valkey URL: redis://:password@host:6379/0")
        return SecretStr(f"{scheme}://{rest}")


class CacheSettings(Section):
    """The cache over Valkey and in process. A stale answer lives no longer than these allow."""

    enabled: bool = True
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")] = "cache"
    ttl_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300
    missing_ttl_seconds: Annotated[float, Field(ge=1, le=3_600)] = 5
    memory_bytes: Positive = 64 * 1024 * 1024
    memory_ttl_seconds: Annotated[float, Field(ge=0, le=60)] = 2
    relay_seconds: Annotated[float, Field(ge=0.01, le=60)] = 0.2


class AuthSettings(Section):
    """Tokens and passwords. `secret` signs the access tokens of every worker and replica."""

    secret: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    issuer: str = "fastapi-reference-service"
    audience: str = "fastapi-reference-service"
    access_token_seconds: Annotated[int, Field(gt=0, le=86_400)] = 900
    refresh_token_seconds: Annotated[int, Field(gt=0, le=366 * 86_400)] = 30 * 86_400
    hashing_threads: Positive = 2
    hashing_queue: Positive = 32
    argon2_memory_kib: Annotated[int, Field(ge=32)] = 65_536
    argon2_time_cost: Positive = 3


class ServerSettings(Section):
    """Gunicorn and its Uvicorn workers. `threads` run what blocks, in each worker."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    threads: Positive = 8
    keep_alive_seconds: Positive = 75
    graceful_timeout_seconds: Annotated[int, Field(ge=15)] = 30


class DocsSettings(Section):
    """The interactive documentation."""

    enabled: bool = True


class LogSettings(Section):
    """What is written to standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Settings(BaseSettings):
    """All sections. Production refuses defaults that are only fit for development."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_file=".env",
        env_ignore_empty=True,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        secrets_dir_missing="ok",
        hide_input_in_errors=True,
    )

    environment: Literal["development", "production"] = "development"
    web_concurrency: Annotated[int, Field(gt=0, le=256)] | None = None
    replicas: Positive = 1
    database: DatabaseSettings = DatabaseSettings()
    valkey: ValkeySettings = ValkeySettings()
    cache: CacheSettings = CacheSettings()
    auth: AuthSettings = AuthSettings()
    server: ServerSettings = ServerSettings()
    docs: DocsSettings = DocsSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _refuse_weak_secrets(self) -> Self:
        secret = self.auth.secret.get_secret_value()
        if len(secret.encode()) < MINIMUM_SECRET_BYTES:
            raise ValueError(
                f"AUTH_SECRET is shorter than {MINIMUM_SECRET_BYTES} bytes: "
                "make one with `openssl rand -base64 48`"
            )
        if self.environment == "production" and secret == DEVELOPMENT_SECRET:
            raise ValueError(
                "AUTH_SECRET is the development default, which production refuses: "
                "make one with `openssl rand -base64 48`"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the hook's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read, in this order: arguments, environment, `.env`, secret files."""
        secrets = NestedSecretsSettingsSource(
            file_secret_settings, secrets_dir=os.environ.get("SECRETS_DIR", "/run/secrets")
        )
        return init_settings, env_settings, dotenv_settings, secrets


def load_settings() -> Settings:
    """Read the settings, or end the process with a sentence for each thing that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        problems = [_sentence(entry["loc"], entry["msg"]) for entry in error.errors()]
    except SettingsError as error:
        problems = [f"{error}: set its values one by one, such as DATABASE_URL."]
    raise SystemExit("The service cannot start with these settings.\n  " + "\n  ".join(problems))


def _sentence(location: tuple[int | str, ...], message: str) -> str:
    if not location:
        return message.removeprefix("Value error, ") + "."
    return f"{'_'.join(map(str, location)).upper()}: {message} (.env.example shows the default)."
