"""The settings JOBS_…."""

from typing import Annotated

from pydantic import Field

from app.infra.settings_base.section import Seconds, Section, SmallCount


class JobsSettings(Section):
    """The job workers. .env.example describes each setting."""

    workers: Annotated[int, Field(ge=0, le=1_000)] = 1
    concurrency: Annotated[int, Field(gt=0, le=1_000)] = 8
    poll_seconds: Annotated[float, Field(ge=0.05, le=60)] = 0.5
    time_limit_seconds: Seconds = 60
    stop_seconds: Seconds = 20
    deliveries: SmallCount = 5
    retry_seconds: Seconds = 5
    heartbeat_timeout_seconds: Annotated[float, Field(ge=2, le=3_600)] = 10
    log_days: SmallCount = 7
