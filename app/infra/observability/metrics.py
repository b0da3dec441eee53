"""What the service tells of itself, in one place: names, units and labels.

With several workers each keeps its own numbers in files of one folder, and a scrape of any worker
adds them up (prometheus_client's multiprocess mode). Every label has few values, whatever clients
send.
"""

from prometheus_client import Counter, Gauge, Histogram

TICKS_PER_SECOND = 2**20

REQUESTS = Histogram(
    "http_request_duration_seconds",
    "Seconds until a request was answered whole.",
    ("method", "route", "status"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
STATEMENTS = Histogram(
    "http_request_statements",
    "SQL statements of a request that sent any.",
    buckets=(1, 2, 3, 5, 8, 13, 21, 50),
)

REFUSED = Counter(
    "http_requests_refused", "Requests that were refused, by the limit that did.", ("limit",)
)  # docs/limits.md lists the limits.
IN_FLIGHT = Gauge(
    "http_requests_in_flight",
    "Requests that run, wait for their turn, or are answered as streams.",
    ("state",),
    multiprocess_mode="livesum",
)

POOL_SIZE = Gauge(
    "database_pool_connections_max",
    "Connections that the pools may hold.",
    multiprocess_mode="livesum",
)
POOL_IN_USE = Gauge(
    "database_pool_connections_in_use", "Connections that are held.", multiprocess_mode="livesum"
)
POOL_WAITING = Gauge(
    "database_pool_waiting", "Callers that wait for a connection.", multiprocess_mode="livesum"
)
POOL_WAIT = Histogram(
    "database_pool_wait_seconds",
    "Seconds that a caller waited for a connection, of those who had to.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1),
)
POOL_REFUSED = Counter("database_pool_refused", "Callers who waited in vain.")

REPLICA_LAG = Gauge(
    "database_replica_lag_seconds",
    "How old the replica's data may be; infinite while it is not known.",
    multiprocess_mode="livemax",
)
REPLICA_READS = Counter(
    "database_lagging_reads",
    "Sessions that may lag, by who was asked: replica, primary.",
    ("server",),
)

CACHE_READS = Counter(
    "cache_reads", "Answers from, or past, the cache: hit_l1, hit, miss, bypass.", ("result",)
)
LOOP_LAG = Gauge(
    "event_loop_lag_seconds",
    "The longest that an event loop came late, in the last second.",
    multiprocess_mode="livemax",
)
LOOP_BLOCKED = Counter("event_loop_blocked", "Times that something held an event loop up.")
RESIDENT = Gauge(
    "worker_resident_memory_bytes", "Memory of all workers.", multiprocess_mode="livesum"
)
WORKERS = Gauge("workers", "Workers that live.", multiprocess_mode="livesum")
LOG_DROPPED = Counter("log_lines_dropped", "Log lines that nobody read in time.")
BACKGROUND_RESTARTS = Counter(
    "background_task_restarts",
    "Times that a task or thread of the service ended by itself and was started again.",
    ("task",),
)
DIAGNOSTICS = Counter("guard_findings", "Mistakes that the guards have caught.", ("guard",))
for guard in ("blocked_loop", "statement_budget", "leaked_connection", "lost_task"):
    DIAGNOSTICS.labels(guard)  # from the start at 0: the first one is an increase


def exact(seconds: float) -> float:
    """Round to about a microsecond, such that sums are the same in whatever order they are made.

    Those of dead workers are added up anew. A total that came out lower by its last bit would read
    as a restart of the service.
    """
    return round(seconds * TICKS_PER_SECOND) / TICKS_PER_SECOND
