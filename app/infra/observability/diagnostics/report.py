"""Reports a programming mistake."""

import logging
from collections.abc import Callable

from app.infra.observability.metrics import DIAGNOSTICS

logger = logging.getLogger(__name__)

# Functions that are called with the name and the description of every report.
listeners: list[Callable[[str, str], None]] = []


def report(name: str, description: str) -> None:
    """Log and count a mistake. `name` is one of the names that docs/observability.md lists."""
    DIAGNOSTICS.labels(name).inc()
    logger.error("%s: %s", name, description)
    for listener in listeners:
        listener(name, description)
