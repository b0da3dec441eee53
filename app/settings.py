"""The settings of a process. Only entry points build them.

Values come from the environment, then `.env`, then files in SECRETS_DIR (default /run/secrets):
`database.pool_size` is DATABASE_POOL_SIZE, or a file named `database_pool_size`. Anything wrong
is refused at start-up by the name of the setting and the cure, never with its value. A misspelt
name is refused as well, except in the environment, where other programs have their names too.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from app.features.board.settings import BoardSettings
from app.infra.cache.settings import CacheSettings, ValkeySettings
from app.infra.database.settings import DatabaseSettings
from app.infra.observability.settings import DiagnosticsSettings, LogSettings, MetricsSettings
from app.infra.security.settings import DEVELOPMENT_SECRET, MINIMUM_SECRET_BYTES, AuthSettings
from app.infra.server.settings import CLOSING_SECONDS, ServerSettings
from app.infra.settings_base.names import SettingNames
from app.infra.settings_base.section import Section, Sections, SmallCount
from app.infra.settings_base.sources import (
    SettingsSourceError,
    ignore_libpq_variables,
    read_values,
    unknown_variables,
)
from app.infra.web.settings import CorsSettings, DocsSettings, LimitsSettings


def _workers(value: object) -> object:
    """Read `auto`, which means as many workers as there are cores, and refuse what is no number."""
    text = str(value).strip().lower()
    if value is None or text == "auto":
        return None
    if not (text.isascii() and text.isdecimal()):
        raise ValueError("a whole number from 1 to 256, or auto for one worker a core")
    return text


Workers = Annotated[Annotated[int, Field(gt=0, le=256)] | None, BeforeValidator(_workers)]


class Settings(BaseSettings):
    """All sections. Production refuses defaults that are only fit for development."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_nested_delimiter="_",
        env_nested_max_split=1,
        hide_input_in_errors=True,
    )

    environment: Literal["development", "production"] = "development"
    web_concurrency: Workers = None
    replicas: SmallCount = 1
    database: DatabaseSettings = DatabaseSettings()
    valkey: ValkeySettings = ValkeySettings()
    cache: CacheSettings = CacheSettings()
    auth: AuthSettings = AuthSettings()
    server: ServerSettings = ServerSettings()
    limits: LimitsSettings = LimitsSettings()
    cors: CorsSettings = CorsSettings()
    docs: DocsSettings = DocsSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    board: BoardSettings = BoardSettings()
    guards: DiagnosticsSettings = DiagnosticsSettings()

    @property
    def is_production(self) -> bool:
        """Whether defaults that are only fit for development are refused."""
        return self.environment == "production"

    def sections(self) -> Sections:
        """Return the sections by their class, for code that must not know the other ones."""
        sections = [value for _, value in self if isinstance(value, Section)]
        is_development = not self.is_production
        return Sections(*(it.with_switches(is_development=is_development) for it in sections))

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

    @model_validator(mode="after")
    def _refuse_one_port_for_two(self) -> Self:
        if self.metrics.port == self.server.port != 0:
            raise ValueError("METRICS_PORT is SERVER_PORT: choose another, or 0 for the same port")
        return self

    @model_validator(mode="after")
    def _refuse_an_end_too_soon(self) -> Self:
        busy_seconds = self.server.drain_seconds + self.limits.request_seconds
        if busy_seconds + CLOSING_SECONDS > self.server.graceful_timeout_seconds:
            raise ValueError(
                "SERVER_GRACEFUL_TIMEOUT_SECONDS is less than SERVER_DRAIN_SECONDS, "
                f"LIMITS_REQUEST_SECONDS and {CLOSING_SECONDS} s to close everything together: "
                "raise it, or lower one of those"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the hook's signature
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read, in this order: arguments, environment, `.env`, secret files."""
        return init_settings, _Values(settings_cls, read_values(names()))


class _Values(EnvSettingsSource):
    """Puts values that were read by name into their sections."""

    def __init__(self, settings_cls: type[BaseSettings], values: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self.env_vars = {name.lower(): value for name, value in values.items()}


def names() -> SettingNames:
    """Return the names of all settings, as they are in the environment."""
    fields = Settings.model_fields
    sections = {name: field.default for name, field in fields.items() if _is_section(field)}
    return SettingNames(
        sections=frozenset(name.upper() for name in sections),
        settings=frozenset(name.upper() for name in fields.keys() - sections.keys()).union(
            f"{name}_{key}".upper()
            for name, section in sections.items()
            for key in type(section).model_fields
        ),
    )


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.default, BaseModel)


def misspelt_variables() -> list[str]:
    """Say which variables of the environment look like misspelt settings, one sentence for each."""
    return unknown_variables(names())


def load_settings() -> Settings:
    """Read the settings, or end the process with a sentence for each thing that is wrong."""
    ignore_libpq_variables()
    try:
        return Settings()
    except ValidationError as error:
        problems = [_sentence(entry["loc"], entry["msg"]) for entry in error.errors()]
    except SettingsSourceError as error:
        problems = [str(error)]
    raise SystemExit("The service cannot start with these settings.\n  " + "\n  ".join(problems))


def _sentence(location: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not location:
        return f"{message}."
    return f"{'_'.join(map(str, location)).upper()}: {message} (.env.example shows the default)."
