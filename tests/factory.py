"""What the factories of all features share."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.infra.resources import ProcessResources

MORNING = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Factory:
    """Makes rows for tests. Each row is committed, and drops the cached answers that show it."""

    resources: ProcessResources


def minute(number: int) -> datetime:
    """Return the creation time of row `number`. Rows 3n and 3n+1 have the same time."""
    return MORNING + timedelta(minutes=number - (number % 3 == 1))
