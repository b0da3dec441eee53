"""What the guards have caught: said loudly, and counted. Tests fail for what they did not plant."""

import logging
from collections.abc import Callable

from app.infra.observability.metrics import GUARDED

logger = logging.getLogger(__name__)

Listener = Callable[[str, str], None]

listeners: list[Listener] = []


def report(guard: str, finding: str) -> None:
    """Say that a guard has caught a mistake. `guard` is one of few names, `finding` a sentence."""
    GUARDED.labels(guard).inc()
    logger.error("%s: %s", guard, finding)
    for listener in listeners:
        listener(guard, finding)
