"""The response of `/v1/dashboard`."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.features.posts.schemas import PostRead
from app.features.users.schemas import UserRead

PartName = Literal["profile", "recent_posts", "stats", "upstream"]


class StatsRead(BaseModel):
    """What the caller has published. With a replica, it may be a little old."""

    model_config = ConfigDict(title="Stats")

    posts: int
    posts_in_30_days: int
    last_post_at: datetime | None


class UpstreamProfile(BaseModel):
    """What the profile service knows of the caller. Other fields of its response are ignored."""

    headline: Annotated[str, Field(max_length=200)]
    location: Annotated[str, Field(max_length=100)] | None = None


class DashboardRead(BaseModel):
    """What the caller sees first. A part that failed is null, and `degraded` names it."""

    model_config = ConfigDict(title="Dashboard")

    profile: UserRead | None
    recent_posts: list[PostRead] | None
    stats: StatsRead | None
    upstream: UpstreamProfile | None
    degraded: list[PartName]
