"""The settings, from the same variables as those of the service."""

from pydantic_settings import BaseSettings

from app.infra.security.settings import AuthSettings

OF_SERVICE = AuthSettings.model_fields


class Settings(BaseSettings):
    database_url: str
    auth_secret: str
    auth_issuer: str = OF_SERVICE["issuer"].default
    auth_audience: str = OF_SERVICE["audience"].default

    def url(self, driver: str) -> str:
        """Return the URL of the database for a driver of SQLAlchemy."""
        return self.database_url.replace("postgresql://", f"postgresql+{driver}://")
