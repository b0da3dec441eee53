"""The settings AVATARS_…."""

from typing import Annotated

from pydantic import Field, field_validator

from app.infra.settings_base.section import Count, Seconds, Section, SmallCount
from app.infra.validation.fields import Url

MIB = 1024 * 1024


class AvatarSettings(Section):
    """The processes of each worker that decode images, and the address of a CDN.

    .env.example describes each setting.
    """

    base_url: Annotated[Url, Field(max_length=110)] | None = None
    processes: SmallCount = 1
    queue: Count = 16
    queue_seconds: Seconds = 4
    seconds: Seconds = 4
    memory_bytes: Annotated[int, Field(ge=128 * MIB, le=2**40)] = 384 * MIB

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, url: str | None) -> str | None:
        if url is not None and ("?" in url or "#" in url):
            raise ValueError("an address without ? and #, such as https://cdn.example.com")
        return url and url.rstrip("/")
