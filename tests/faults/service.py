"""The service under Gunicorn with two workers."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx2
import psutil
import pytest

from dev.address import Address
from dev.servers import Servers
from dev.service import open_service, wait_until_ready
from tests.faults.controls import CONTROL, SETTINGS
from tests.faults.load import free_port
from tests.faults.postgres import Backend
from tests.faults.troubles import TROUBLE
from tests.faults.verdicts import GUARDED
from tests.quotas import unreachable_quotas

Section = dict[str, Any]

WORKERS = 2
GUNICORN = ("app.serve", "-c", "tests/faults/master.py", "tests.faults.served:app")
# A control without limits would use all of the graceful timeout.
GRACEFUL_TIMEOUT_SECONDS = 15
SERVER = {"drain_seconds": 0, "graceful_timeout_seconds": GRACEFUL_TIMEOUT_SECONDS}
# Cheap hashes, because most cases do not measure passwords.
CHEAP_PASSWORDS = {"argon2_memory_kib": 8192, "argon2_time_cost": 1}


# For `serving`: the worker class of this project, and as a control the one that most services use.
WORKER_CLASSES = {GUARDED: "", "with Uvicorn's own worker class": "uvicorn_worker.UvicornWorker"}


@dataclass(frozen=True)
class Service:
    """The address of the service, and a client for it."""

    address: Address
    client: httpx2.AsyncClient
    workers: int = WORKERS

    async def processes(self) -> set[int]:
        """Return the process ids of all workers."""
        return {worker["process_id"] for worker in await self.each_worker("/faults/vitals")}

    async def oldest_process(self) -> int:
        """Return the process id of the worker that started first.

        This need not be the lowest id, because the system starts again at low ids. If a case killed
        the newest worker each time, Gunicorn's master would believe that new workers cannot start,
        and would pause longer before each start.
        """
        return min(await self.processes(), key=lambda pid: psutil.Process(pid).create_time())

    async def each_worker(self, path: str) -> list[dict[str, Any]]:
        """Request this path from every worker.

        The connections stay open until all workers have responded, because a new connection goes
        to the worker that has the fewest. A worker that was killed has 20 s to be replaced.
        """
        answers: dict[int, dict[str, Any]] = {}
        async with AsyncExitStack() as stack:
            for number in range(200):
                if number > 2 * self.workers:
                    await asyncio.sleep(0.1)
                client = httpx2.AsyncClient(base_url=self.address.url, timeout=15)
                answer = (await (await stack.enter_async_context(client)).get(path)).json()
                answers[answer["process_id"]] = answer
                if len(answers) == self.workers:
                    return list(answers.values())
        raise AssertionError(f"{len(answers)} of {self.workers} workers answered {path}")

    async def until_whole(self, patience_seconds: float) -> float:
        """Return the seconds until each worker can use its whole pool at once."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        while (elapsed := loop.time() - started) < patience_seconds:
            if all(worker["whole"] for worker in await self.each_worker("/faults/pool")):
                return loop.time() - started
            await asyncio.sleep(0.1)
        return elapsed


@asynccontextmanager
async def serving(
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    control: str,
    *,
    auth: Section | None = None,
    trouble: str = "",
    workers: int = WORKERS,
    output: IO[bytes] | None = None,
    server: Section | None = None,
    worker_class: str = "",
    port: int | None = None,
    **sections: Section,
) -> AsyncIterator[Service]:
    """Start the service, and wait until all workers are ready.

    `sections` are sections of the settings. The service logs requests if there is an `output`.
    """
    server = {**SERVER, **(server or {})}
    settings: dict[str, Section] = {
        **sections,
        "server": server,
        "database": {"url": backend.database_url, **sections.get("database", {})},
        "valkey": {"url": backend.valkey_url, **sections.get("valkey", {})},
        # A server of its own, as in production, and more requests than a case sends.
        "rate_limits": {
            "url": os.environ["TEST_RATE_LIMITS_URL"],
            "quotas": unreachable_quotas(),
            **sections.get("rate_limits", {}),
        },
        "auth": CHEAP_PASSWORDS if auth is None else auth,
        "log": {"access": output is not None},
    }
    environment = {CONTROL: control, TROUBLE: trouble, SETTINGS: json.dumps(settings)}
    # gunicorn_config.py reads these.
    environment |= {f"SERVER_{name.upper()}": str(value) for name, value in server.items()}
    for name, value in {**environment, "WEB_CONCURRENCY": str(workers)}.items():
        monkeypatch.setenv(name, value)
    module = (*GUNICORN, "--worker-class", worker_class) if worker_class else GUNICORN
    servers = Servers(backend.database_url, backend.valkey_url)
    address = Address("127.0.0.1", port or free_port())
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
    with open_service(module, servers, address, output=output) as process:
        wait_until_ready(process, address, 60)
        async with httpx2.AsyncClient(base_url=address.url, limits=limits, timeout=20) as client:
            service = Service(address, client, workers)
            while not all(
                worker["ready"] for worker in await service.each_worker("/faults/vitals")
            ):
                await asyncio.sleep(0.1)
            yield service


def master_of(worker: int) -> int:
    """Return the process id of Gunicorn's master."""
    return int(
        Path(f"/proc/{worker}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
    )


def resident_mib(process_id: int, field: str) -> float:
    """Return `VmRSS`, the resident memory, or `VmHWM`, its maximum, in MiB."""
    for line in Path(f"/proc/{process_id}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"{field} is missing")
