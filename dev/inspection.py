"""Looks into the service that runs from this clone: flame graph, connections, memory."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from app.infra.settings_base.urls import asyncpg_arguments, postgresql_url
from dev.servers import ROOT
from dev.terminal import CommandError, say

PROFILE_SECONDS = 10
PROFILE = ROOT / "profile.svg"
MARK = "app.serve"

CONNECTIONS = """
    SELECT coalesce(nullif(application_name, ''), '(unnamed)') AS application, state,
           count(*) AS connections,
           max(extract(epoch FROM clock_timestamp() - state_change)) AS oldest_seconds,
           max(extract(epoch FROM clock_timestamp() - xact_start)) AS transaction_seconds
    FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
    GROUP BY 1, 2 ORDER BY 1, 2
"""


@dataclass(frozen=True)
class Worker:
    """A process of the running service, and what it takes."""

    process_id: int
    resident_mib: float
    own_mib: float


def write_profile(seconds: int) -> None:
    """Record the stacks of the busiest worker, and draw them."""
    worker = max(_workers(), key=lambda worker: _cpu_ticks(worker.process_id))
    say(f"Recording worker {worker.process_id} for {seconds} s: put load on it meanwhile")
    command = [str(Path(sys.executable).parent / "py-spy"), "record", "--output", str(PROFILE)]
    result = subprocess.run(
        [*command, "--duration", str(seconds), "--pid", str(worker.process_id)],
        capture_output=True,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    if result.returncode:
        raise CommandError(
            f"py-spy failed: {result.stderr.strip().splitlines()[-1]}. It needs the right to read "
            "other processes: run it as the service's user, or as root."
        )
    say(f"Wrote {PROFILE.relative_to(ROOT)}: the wider a bar, the more time was spent in it.")


def show_memory() -> None:
    """Say what each worker takes, and how much of it is shared with the others."""
    workers = _workers()
    for worker in workers:
        shared = worker.resident_mib - worker.own_mib
        say(
            f"worker {worker.process_id}: {worker.resident_mib:.0f} MiB, of which {shared:.0f} MiB "
            "are shared with other processes"
        )
    say(f"All {len(workers)}: {sum(worker.own_mib for worker in workers):.0f} MiB of their own.")


async def show_connections(database_url: str) -> None:
    """Say who holds connections, in which state, and since when."""
    try:
        connection = await asyncpg.connect(**asyncpg_arguments(postgresql_url(database_url)))
    except (OSError, asyncpg.PostgresError) as error:
        raise CommandError(
            f"DATABASE_URL leads to no database that lets us in ({error}): correct it."
        ) from None
    try:
        rows = await connection.fetch(CONNECTIONS)
        most = await connection.fetchval("SELECT current_setting('max_connections')::int")
    finally:
        await connection.close()
    for row in rows:
        say(
            f"{row['application']}: {row['connections']} {row['state']}, "
            f"the oldest since {row['oldest_seconds'] or 0:.1f} s"
        )
    say(f"{sum(row['connections'] for row in rows)} of {most} connections are taken.")
    stuck = [row for row in rows if row["state"] == "idle in transaction"]
    if any((row["transaction_seconds"] or 0) > 2 for row in stuck):
        say("A transaction is open and does nothing for over 2 s.")


def _workers() -> list[Worker]:
    """Find the processes of the service: those of its command that have no others below them."""
    found = [pid for pid, line in _processes() if MARK in line]
    parents = {_parent(pid) for pid in found}
    workers = [pid for pid in found if pid not in parents]
    if not workers:
        raise CommandError("The service does not run from this clone: start it with `make run`.")
    return [Worker(pid, *_memory(pid)) for pid in workers]


def _processes() -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.joinpath("cwd").resolve() == ROOT:
                command = folder.joinpath("cmdline").read_text(encoding="utf-8", errors="replace")
                yield int(folder.name), command.replace("\0", " ")
        except OSError:
            continue


def _parent(process_id: int) -> int:
    return int(_stat(process_id)[1])


def _stat(process_id: int) -> list[str]:
    """Return the fields behind the name of the process."""
    text = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()


def _cpu_ticks(process_id: int) -> int:
    fields = _stat(process_id)
    return int(fields[11]) + int(fields[12])


def _memory(process_id: int) -> tuple[float, float]:
    """Return what is resident, and what no other process shares, in MiB."""
    found = dict.fromkeys(("Rss", "Private_Clean", "Private_Dirty"), 0)
    for line in Path(f"/proc/{process_id}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0])
    return found["Rss"] / 1024, (found["Private_Clean"] + found["Private_Dirty"]) / 1024
