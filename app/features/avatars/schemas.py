"""The response of `/v1/users/me/avatar`."""

from pydantic import BaseModel, ConfigDict


class AvatarRead(BaseModel):
    """Where everybody finds the picture. Another picture has another address."""

    model_config = ConfigDict(title="Avatar")

    url: str
