"""All metrics of the service in one list: names, units and labels.

Every layer sets the metrics that concern it. With several workers, each keeps its own numbers in
the files of one folder, and a scrape of any worker adds them up (the multiprocess mode of
prometheus_client). Each label has few values, whatever clients send.
"""

from prometheus_client import Counter, Gauge, Histogram

TICKS_PER_SECOND = 2**20

REQUESTS = Histogram(
    "http_request_duration_seconds",
    "Seconds until a response was sent completely, or until a stream began.",
    ("method", "route", "status"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
STATEMENTS = Histogram(
    "http_request_statements",
    "SQL statements per request, of requests that sent any.",
    buckets=(1, 2, 3, 5, 8, 13, 21, 50),
)
REFUSED = Counter(
    "http_requests_refused",
    "Requests that were refused because of a limit.",
    ("limit",),  # docs/limits.md lists the limits
)
IN_FLIGHT = Gauge(
    "http_requests_in_flight",
    "Requests that are running, queued, or answered as streams.",
    ("state",),
    multiprocess_mode="livesum",
)

IDEMPOTENT_REQUESTS = Counter(
    "idempotent_requests",
    "Requests with an Idempotency-Key by result: kept, replayed, in_use, reused.",
    ("result",),
)

RATE_LIMITS_LOCAL = Gauge(
    "rate_limits_local",
    "Workers that count rate limits for themselves, because Valkey does not.",
    multiprocess_mode="livesum",
)

POOL_SIZE = Gauge(
    "database_pool_connections_max",
    "Connections that the pools may open.",
    multiprocess_mode="livesum",
)
POOL_IN_USE = Gauge(
    "database_pool_connections_in_use",
    "Connections that are checked out.",
    multiprocess_mode="livesum",
)
POOL_WAITING = Gauge(
    "database_pool_waiting", "Callers that wait for a connection.", multiprocess_mode="livesum"
)
POOL_WAIT = Histogram(
    "database_pool_wait_seconds",
    "Waiting time for a connection in seconds. A caller that need not wait is not counted.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1),
)
POOL_REFUSED = Counter("database_pool_refused", "Waits for a connection that timed out.")
REPLICA_LAG = Gauge(
    "database_replica_lag_seconds",
    "Age of the replica's data; infinite while it is unknown.",
    multiprocess_mode="livemax",
)
REPLICA_READS = Counter(
    "database_lagging_reads",
    "Sessions that accept older data, by the server that they read from: replica, primary.",
    ("server",),
)

CACHE_READS = Counter(
    "cache_reads", "Reads of cacheable responses by result: hit_l1, hit, miss, bypass.", ("result",)
)

UPSTREAM_SECONDS = Histogram(
    "upstream_request_duration_seconds",
    "Seconds that one request to another service took, by the result. A retry is a request.",
    ("upstream", "result"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
UPSTREAM_RETRIES = Counter(
    "upstream_retries", "Requests to another service that were sent again.", ("upstream",)
)
UPSTREAM_RUNNING = Gauge(
    "upstream_requests_in_flight",
    "Requests to another service that are waiting for its response.",
    ("upstream",),
    multiprocess_mode="livesum",
)
UPSTREAM_OPEN = Gauge(
    "upstream_breakers_open",
    "Workers that do not call another service, because it has failed.",
    ("upstream",),
    multiprocess_mode="livesum",
)
EVENT_LISTENERS = Gauge(
    "event_stream_listeners", "Clients that listen to event streams.", multiprocess_mode="livesum"
)
EVENTS_SENT = Counter("event_stream_events", "Events that were sent, counted for each client.")
EVENT_LISTENERS_CUT = Counter(
    "event_stream_listeners_cut", "Clients that were disconnected because they did not read."
)

PARTS_FAILED = Counter(
    "response_parts_failed",
    "Parts that are missing in a response, because what they need failed.",
    ("part",),
)

JOBS = Gauge(
    "jobs",
    "Jobs in the queue: waiting, due later, running, held. 10,000 means 10,000 or more.",
    ("state",),
    multiprocess_mode="livemax",
)
JOBS_OLDEST = Gauge(
    "jobs_oldest_waiting_seconds",
    "How long the oldest job that is due has been waiting.",
    multiprocess_mode="livemax",
)
JOBS_FINISHED = Counter(
    "jobs_finished", "Deliveries of jobs by result: done, failed, held.", ("job", "result")
)
JOB_SECONDS = Histogram(
    "job_duration_seconds",
    "Seconds that one delivery of a job took.",
    ("job",),
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300),
)

MAILS = Counter(
    "mails",
    "Attempts to send a mail by result: sent, refused (the server refuses the recipient), failed.",
    ("result",),
)
for result in ("sent", "refused", "failed"):
    MAILS.labels(result)  # starts at 0, so that an alert can compare them

THREADS = Gauge(
    "threads",
    "Threads for blocking functions that are busy, and calls that wait for one.",
    ("pool", "state"),
    multiprocess_mode="livesum",
)

STORAGE_SECONDS = Histogram(
    "storage_operation_seconds",
    "Seconds that a call of the store for files took, by result: ok, missing, error.",
    ("operation", "result"),
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 3, 10),
)

PROCESS_POOL_CALLS = Gauge(
    "process_pool_calls",
    "Calls that run in processes of their own, or wait for one.",
    multiprocess_mode="livesum",
)

LOOP_LAG = Gauge(
    "event_loop_lag_seconds",
    "Largest delay of an event loop within the last second.",
    multiprocess_mode="livemax",
)
LOOP_BLOCKED = Counter("event_loop_blocked", "Times that code blocked an event loop.")
RESIDENT = Gauge(
    "worker_resident_memory_bytes",
    "Resident memory of all workers.",
    multiprocess_mode="livesum",
)
WORKERS = Gauge("workers", "Running workers.", multiprocess_mode="livesum")
LOG_DROPPED = Counter("log_lines_dropped", "Log lines that could not be written in time.")
BACKGROUND_RESTARTS = Counter(
    "background_task_restarts",
    "Background tasks and threads that ended by themselves and were started again.",
    ("task",),
)
DIAGNOSTICS = Counter("guard_findings", "Programming mistakes that were reported.", ("guard",))
for name in ("blocked_loop", "statement_budget", "leaked_connection", "lost_task", "failed_part"):
    DIAGNOSTICS.labels(name)  # starts at 0, so that the first report is an increase


def exact(seconds: float) -> float:
    """Round to a multiple of 2**-20 s, so that sums do not depend on the order of addition.

    A scrape adds up the files of all workers in any order. Without the rounding, a total could
    become smaller by its last bit, which Prometheus takes for a restart.
    """
    return round(seconds * TICKS_PER_SECOND) / TICKS_PER_SECOND
