"""Finds programming mistakes while the service runs, and reports them.

Each report is logged as an error and counted in `guard_findings_total`. The request that caused it
is answered as usual. In the tests, an unexpected report fails the test.
"""

from app.infra.observability.diagnostics.database_use import check_database_use, count_connections
from app.infra.observability.diagnostics.loop_watchdog import watch_event_loop
from app.infra.observability.diagnostics.lost_tasks import watch_tasks
from app.infra.observability.diagnostics.report import listeners

__all__ = [
    "check_database_use",
    "count_connections",
    "listeners",
    "watch_event_loop",
    "watch_tasks",
]
