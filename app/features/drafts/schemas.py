"""Requests and responses of `/v1/drafts`."""

from datetime import date, datetime
from typing import Annotated

from pydantic import MISSING, BaseModel, ConfigDict, Field

from app.features.drafts.models import DraftStatus
from app.infra.validation.fields import Date, Input, Text
from app.infra.validation.page_schema import PageRead

Title = Annotated[Text, Field(min_length=1, max_length=200)]
Body = Annotated[Text, Field(min_length=1, max_length=20_000)]


class DraftCreate(Input):
    """A new draft. A `publish_on` in the past is allowed: the draft is due at once."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"title": "Hello", "body": "Not done yet", "publish_on": "2030-01-31"}]
        }
    )

    title: Title
    body: Body
    publish_on: Date | None = None


class DraftUpdate(Input):
    """Changes to a draft. Fields that are left out keep their values. Null removes `publish_on`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Hello again"}]})

    title: Title | MISSING = MISSING
    body: Body | MISSING = MISSING
    publish_on: Date | MISSING | None = MISSING


class DraftRead(BaseModel):
    """A draft. `publish_on` is a date in UTC. `version` moves with each change."""

    model_config = ConfigDict(title="Draft")

    id: int
    title: str
    body: str
    status: DraftStatus
    publish_on: date | None
    post_id: int | None
    version: int
    created_at: datetime
    updated_at: datetime


class DraftPage(PageRead[DraftRead]):
    """A page of drafts, newest first."""
