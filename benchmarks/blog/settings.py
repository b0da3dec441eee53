"""The settings, from the same variables as those of the service."""

from pydantic_settings import BaseSettings


class Settings(BaseSettings):
    database_url: str
    auth_secret: str
    auth_issuer: str = "fastapi-reference-service"
    auth_audience: str = "fastapi-reference-service"

    def url(self, driver: str) -> str:
        """Return the URL of the database for a driver of SQLAlchemy."""
        return self.database_url.replace("postgresql://", f"postgresql+{driver}://")
