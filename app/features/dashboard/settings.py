"""The settings DASHBOARD_…."""

from pydantic import SecretStr, field_validator

from app.infra.settings_base.section import Seconds, Section
from app.infra.validation.fields import Url


class DashboardSettings(Section):
    """`part_seconds` is for each part from the database, `upstream_seconds` for the other service.

    Without `upstream_url`, there is no other service.
    """

    part_seconds: Seconds = 2
    upstream_url: Url | None = None
    upstream_token: SecretStr | None = None
    upstream_seconds: Seconds = 1

    @field_validator("upstream_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is not None and ("?" in url or "#" in url):
            raise ValueError("an address without ? and #, such as https://profiles.example.com")
        return url
