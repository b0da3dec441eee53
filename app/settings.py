"""The settings of a process. Only entry points import this module.

The setting `database.pool_size` is the variable DATABASE_POOL_SIZE in the environment or in `.env`,
or a file `database_pool_size` in SECRETS_DIR. Errors at start-up name the setting and the remedy,
and never contain the value.
"""

from typing import Literal, Self

from pydantic import ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from app.features.avatars.settings import AvatarSettings
from app.features.board.settings import BoardSettings
from app.features.dashboard.settings import DashboardSettings
from app.infra.cache.settings import CacheSettings, ValkeySettings
from app.infra.database.settings import DatabaseSettings
from app.infra.events.settings import EventsSettings
from app.infra.http_client.settings import HttpClientSettings
from app.infra.jobs.settings import JobsSettings
from app.infra.mail.settings import MailSettings
from app.infra.observability.settings import DiagnosticsSettings, LogSettings, MetricsSettings
from app.infra.rate_limits.settings import RateLimitSettings
from app.infra.security.settings import DEVELOPMENT_SECRET, MINIMUM_SECRET_BYTES, AuthSettings
from app.infra.server.settings import CLOSING_SECONDS, ServerSettings, Workers
from app.infra.settings_base import sources
from app.infra.settings_base.names import SettingNames
from app.infra.settings_base.section import Section, Sections, SmallCount
from app.infra.storage.settings import StorageSettings
from app.infra.web.settings import CorsSettings, DocsSettings, LimitsSettings


class Settings(BaseSettings):
    """All sections, and the checks that concern several of them."""

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
    events: EventsSettings = EventsSettings()
    rate_limits: RateLimitSettings = RateLimitSettings()
    cors: CorsSettings = CorsSettings()
    docs: DocsSettings = DocsSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    http_client: HttpClientSettings = HttpClientSettings()
    jobs: JobsSettings = JobsSettings()
    mail: MailSettings = MailSettings()
    storage: StorageSettings = StorageSettings()
    avatars: AvatarSettings = AvatarSettings()
    board: BoardSettings = BoardSettings()
    dashboard: DashboardSettings = DashboardSettings()
    guards: DiagnosticsSettings = DiagnosticsSettings()

    @property
    def is_production(self) -> bool:
        return self.environment == "production"

    def sections(self) -> Sections:
        """Return the sections with all switches set, for code that does not import this module."""
        return Sections(
            *(
                section.with_switches(is_development=not self.is_production)
                for _, section in self
                if isinstance(section, Section)
            )
        )

    @model_validator(mode="after")
    def _check_secret(self) -> Self:
        secret, error = self.auth.secret.get_secret_value(), None
        if len(secret.encode()) < MINIMUM_SECRET_BYTES:
            error = f"AUTH_SECRET is shorter than {MINIMUM_SECRET_BYTES} bytes"
        elif self.is_production and secret == DEVELOPMENT_SECRET:
            error = "AUTH_SECRET is the development default, which production refuses"
        if error:
            raise ValueError(f"{error}. Generate one with: openssl rand -base64 48")
        return self

    @model_validator(mode="after")
    def _check_mail(self) -> Self:
        if self.is_production and self.mail.folder is not None:
            raise ValueError(
                "MAIL_FOLDER is for development only, because everybody who reads a mail in it can "
                "follow its links: remove it, and set MAIL_URL"
            )
        if self.is_production and self.mail.url is not None and self.mail.links_url is None:
            raise ValueError(
                "MAIL_LINKS_URL is missing, and links in mails need it: set it to the address of "
                "the pages of your frontend, such as https://app.example.com"
            )
        return self

    @model_validator(mode="after")
    def _check_storage(self) -> Self:
        storage = self.storage
        is_local = storage.folder and not storage.bucket and not storage.folder_shared
        if self.is_production and is_local and self.replicas > 1:
            raise ValueError(
                "STORAGE_FOLDER is a folder of one machine, but REPLICAS says that there are "
                "several instances: set STORAGE_BUCKET instead, or STORAGE_FOLDER_SHARED=true if "
                "all instances and job workers see the same folder"
            )
        return self

    @model_validator(mode="after")
    def _check_ports(self) -> Self:
        if self.metrics.port == self.server.port != 0:
            raise ValueError(
                "METRICS_PORT is the same as SERVER_PORT: choose another port, or 0 to serve the "
                "metrics on SERVER_PORT"
            )
        return self

    @model_validator(mode="after")
    def _check_graceful_timeout(self) -> Self:
        needed = self.server.drain_seconds + self.limits.request_seconds + CLOSING_SECONDS
        if needed > self.server.graceful_timeout_seconds:
            raise ValueError(
                "SERVER_GRACEFUL_TIMEOUT_SECONDS is less than the sum of SERVER_DRAIN_SECONDS, "
                f"LIMITS_REQUEST_SECONDS and {CLOSING_SECONDS} s for closing everything: "
                "raise it, or lower one of those"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature of the hook
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        values = EnvSettingsSource(settings_cls)
        found = sources.read_values(setting_names())
        values.env_vars = {name.lower(): value for name, value in found.items()}
        return init_settings, values


def setting_names() -> SettingNames:
    sections, settings = set(), set()
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, Section):
            sections.add(name.upper())
            keys = type(field.default).model_fields.items()
            settings |= {f"{name}_{key.alias or own}".upper() for own, key in keys}
        else:
            settings.add(name.upper())
    return SettingNames(frozenset(sections), frozenset(settings))


def misspelt_variables() -> list[str]:
    """Return a sentence for each environment variable that looks like a misspelt setting."""
    return sources.misspelt_variables(setting_names())


def load_settings() -> Settings:
    """Read the settings, or exit with a sentence for each error."""
    sources.ignore_libpq_variables()
    try:
        return Settings()
    except ValidationError as error:
        sentences = [_sentence(entry["loc"], entry["msg"]) for entry in error.errors()]
    except sources.SettingsSourceError as error:
        sentences = [str(error)]
    raise SystemExit("The service cannot start with these settings.\n  " + "\n  ".join(sentences))


def _sentence(location: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not location:
        return f"{message}."
    return f"{'_'.join(map(str, location)).upper()}: {message} (.env.example shows the default)."
