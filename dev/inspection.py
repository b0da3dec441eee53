"""Looks into the service that runs from this clone: flame graph, connections, memory."""

import subprocess
import sys
from pathlib import Path

import asyncpg
import psutil

from app.infra.settings_base.urls import asyncpg_arguments, postgresql_url
from dev.servers import ROOT
from dev.service import GUNICORN
from dev.terminal import CommandError, say

PROFILE_SECONDS = 10
PROFILE = ROOT / "profile.svg"
MIB = 2**20

CONNECTIONS = """
    SELECT coalesce(nullif(application_name, ''), '(unnamed)') AS application, state,
           count(*) AS connections,
           max(extract(epoch FROM clock_timestamp() - state_change)) AS oldest_seconds,
           max(extract(epoch FROM clock_timestamp() - xact_start)) AS transaction_seconds
    FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
    GROUP BY 1, 2 ORDER BY 1, 2
"""


def write_profile(seconds: int) -> None:
    """Sample the stacks of the busiest worker, and draw them as a flame graph."""
    worker = max(_workers(), key=lambda worker: sum(worker.cpu_times()[:2]))
    say(f"Profiling worker {worker.pid} for {seconds} seconds. Send requests meanwhile.")
    command = [str(Path(sys.executable).parent / "py-spy"), "record", "--output", str(PROFILE)]
    result = subprocess.run(
        [*command, "--duration", str(seconds), "--pid", str(worker.pid)],
        capture_output=True,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    if result.returncode:
        raise CommandError(
            f"py-spy failed: {result.stderr.strip().splitlines()[-1]}. It must be allowed to read "
            "other processes. Run it as the user of the service, or as root."
        )
    say(f"Wrote {PROFILE.relative_to(ROOT)}. The wider a bar, the more time was spent in it.")


def show_memory() -> None:
    total = 0.0
    for worker in _workers():
        memory = worker.memory_full_info()
        resident, private = memory.rss / MIB, memory.uss / MIB
        shared = f"{resident - private:.0f} MiB are shared with other processes"
        say(f"Worker {worker.pid}: {resident:.0f} MiB, of which {shared}")
        total += private
    say(f"All workers together: {total:.0f} MiB that are not shared")


async def show_connections(database_url: str) -> None:
    try:
        connection = await asyncpg.connect(**asyncpg_arguments(postgresql_url(database_url)))
    except (OSError, asyncpg.PostgresError) as error:
        raise CommandError(
            f"Cannot connect to the database ({error}). Correct DATABASE_URL, or start the server."
        ) from None
    try:
        rows = await connection.fetch(CONNECTIONS)
        maximum = await connection.fetchval("SELECT current_setting('max_connections')::int")
    finally:
        await connection.close()
    for row in rows:
        say(
            f"{row['application']}: {row['connections']} {row['state']}, the oldest for "
            f"{row['oldest_seconds'] or 0:.1f} s"
        )
    say(f"{sum(row['connections'] for row in rows)} of {maximum} connections are in use.")
    idle = [row for row in rows if row["state"] == "idle in transaction"]
    if any((row["transaction_seconds"] or 0) > 2 for row in idle):
        say("A transaction has been open for more than 2 s and is idle.")


def _workers() -> list[psutil.Process]:
    """Find the workers: the processes of the service in this clone that have started no other one.

    A worker may have children that are not the service, such as those of a process pool.
    """
    found = [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if GUNICORN[0] in (process.info["cmdline"] or ()) and process.info["cwd"] == str(ROOT)
    ]
    parents = {process.ppid() for process in found}
    workers = [process for process in found if process.pid not in parents]
    if not workers:
        raise CommandError("The service is not running from this clone. Start it with: make run")
    return workers
