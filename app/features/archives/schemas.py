"""Responses of `/v1/archives`."""

from pydantic import BaseModel, ConfigDict

from app.features.archives.models import ArchiveStatus


class ArchiveRead(BaseModel):
    """The state of an archive. `progress` is in per cent, and `url` is there when it is done."""

    model_config = ConfigDict(title="Archive", from_attributes=True)

    id: int
    status: ArchiveStatus
    progress: int
    url: str | None
