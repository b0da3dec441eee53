"""What all sections measure in: PostgreSQL, Valkey, demo data, a token, and servers to compare."""

import asyncio
import http.client
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import asyncpg
from redis import Redis

from app.infra.security.access_tokens import AccessTokens
from app.infra.security.settings import AuthSettings
from benchmarks.load import Request, Sample, measure, median_of, probe
from dev import postgres
from dev.address import Address
from dev.database import seed, upgrade
from dev.server_process import free_port, wait_until
from dev.servers import Servers, embedded_servers
from dev.service import GUNICORN, open_service
from dev.terminal import CommandError, StatusLine

DEMO_USER = 1
# The load is a single client, and a busy machine must not refuse it.
PATIENT = {
    "RATE_LIMITS_QUOTAS": "*=1000000/1",
    "DATABASE_POOL_TIMEOUT_SECONDS": "20",
    "LIMITS_QUEUE_SECONDS": "20",
    "LIMITS_REQUEST_SECONDS": "25",
    "DATABASE_CONNECT_TIMEOUT_SECONDS": "20",
    "DATABASE_COMMAND_TIMEOUT_SECONDS": "20",
    "DATABASE_STATEMENT_TIMEOUT_SECONDS": "19",
}
SLOW = 4  # a case that needs so many times the usual time is measured in one round


@dataclass(frozen=True)
class Effort:
    """How much is measured. `seconds` is the length of a round."""

    rounds: int
    seconds: float
    posts: int
    is_quick: bool = False


FULL = Effort(rounds=3, seconds=2, posts=100_000)
QUICK = Effort(rounds=1, seconds=1, posts=10_000, is_quick=True)


@dataclass(frozen=True)
class Target:
    """A server to start: a module that Python runs, with variables."""

    name: str
    module: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """A server that runs. `process_id` is the root of its processes."""

    url: str
    process_id: int


def service(name: str, environment: Mapping[str, str] | None = None, *, workers: int = 1) -> Target:
    """Return the service itself, with the settings of production."""
    return Target(name, GUNICORN, {"WEB_CONCURRENCY": str(workers), **(environment or {})})


def uvicorn(name: str, application: str, *, workers: int = 1, fast: bool = True) -> Target:
    """Return an application under Uvicorn: with uvloop and httptools, or without both."""
    parts = ("uvloop", "httptools") if fast else ("asyncio", "h11")
    options = ("--loop", parts[0], "--http", parts[1], "--workers", str(workers))
    quiet = ("--no-access-log", "--log-level", "warning")
    return Target(name, ("uvicorn", application, *options, *quiet))


@dataclass
class World:
    """The servers that run for the whole benchmark, and what the sections need of them."""

    servers: Servers
    folder: Path
    effort: Effort
    postgres_id: int
    token: str
    environment: Mapping[str, str]
    status: StatusLine = field(default_factory=StatusLine)
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)  # by earlier sections

    @property
    def authorized(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def log_tail(self) -> str:
        """Return the last lines that the servers have logged."""
        log = (self.folder / "servers.log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(log.splitlines()[-15:])

    @contextmanager
    def serving(self, *targets: Target) -> Iterator[dict[str, Server]]:
        """Run the targets until the block is left."""
        with ExitStack() as stack:
            log = stack.enter_context((self.folder / "servers.log").open("wb"))
            started = {}
            for target in targets:
                self.status.show(f"Starting {target.name}")
                address = Address("127.0.0.1", free_port())
                variables = {**self.environment, **target.environment}
                with patch.dict(os.environ, variables):
                    opened = open_service(target.module, self.servers, address, output=log)
                    process = stack.enter_context(opened)
                started[target.name] = (address, process)
            for address, process in started.values():
                wait_until(lambda: process.poll() is not None or _answers(address), 60, "a server")  # noqa: B023 - it is called at once
                if process.poll() is not None:
                    raise CommandError(f"{self.log_tail()}\nA server ended by itself: {address}")
            yield {name: Server(to.url, process.pid) for name, (to, process) in started.items()}

    def compare(
        self,
        title: str,
        servers: Mapping[str, Server],
        request_of: Callable[[str], Request],
        *,
        rounds: int | None = None,
        **options: Any,
    ) -> dict[str, Sample]:
        """Measure all servers in turns, after a warm-up; of each figure return the median.

        A server that needs long for one request is measured in one round, which is long enough for
        three responses on each connection.
        """
        rounds = rounds or self.effort.rounds
        seconds = {
            name: self._warm_up(server, request_of(name)) for name, server in servers.items()
        }
        samples: dict[str, list[Sample]] = {name: [] for name in servers}
        for number in range(rounds):
            for name, server in servers.items():
                if number and seconds[name] > SLOW * self.effort.seconds:
                    continue
                self.status.show(f"{title}: round {number + 1} of {rounds}, {name}")
                found = measure(
                    server.url,
                    request_of(name),
                    server=server.process_id,
                    postgres=self.postgres_id,
                    seconds=seconds[name],
                    **options,
                )
                samples[name].append(found)
        self.status.finish(f"{title}: done")
        return {name: median_of(found) for name, found in samples.items()}

    def _warm_up(self, server: Server, request: Request) -> float:
        """Send some requests on one connection, and return how long a round has to be."""
        taken = probe(server.url, request)
        needed = 3 * 64 * taken
        most = 12 if self.effort.is_quick else 30
        return min(max(self.effort.seconds, needed if needed > 1 else 0), most)

    async def _run(self, sql: str, *values: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.servers.database_url)
        try:
            rows: list[asyncpg.Record] = await connection.fetch(sql, *values, timeout=600)
            return rows
        finally:
            await connection.close()

    def query(self, sql: str, *values: object) -> list[asyncpg.Record]:
        """Run a statement in the database."""
        return asyncio.run(self._run(sql, *values))

    def delete_new_posts(self) -> None:
        """Delete the posts that clients created, so that each case begins with the same data."""
        self.query("DELETE FROM posts WHERE id > $1", self.effort.posts)
        self.query("VACUUM ANALYZE posts")


@contextmanager
def open_world(effort: Effort) -> Iterator[World]:
    """Start PostgreSQL and Valkey in a temporary folder, and load the demo data."""
    many = patch.dict(postgres.SETTINGS, {"max_connections": "400"})  # many servers run at once
    with tempfile.TemporaryDirectory() as name, many:
        folder = Path(name)
        with embedded_servers(folder / "servers", durable=False) as servers:
            upgrade(servers)
            seed(servers, effort.posts)
            with Redis.from_url(servers.valkey_url) as valkey:
                valkey.config_set("maxmemory", "2gb")  # eviction is not measured
            auth = AuthSettings.model_validate(
                {"secret": secrets.token_urlsafe(48), "access_token_seconds": 86_400}
            )
            secret = auth.secret.get_secret_value()
            world = World(
                servers,
                folder,
                effort,
                int((folder / "servers/postgres/postmaster.pid").read_text("utf-8").split()[0]),
                AccessTokens(auth).issue(DEMO_USER, 1),
                {
                    "ENVIRONMENT": "production",
                    "AUTH_SECRET": secret,
                    **PATIENT,
                },
            )
            yield world


def _answers(address: Address) -> bool:
    """Whether the server responds at all. Not all servers have a readiness check."""
    connection = http.client.HTTPConnection(address.reachable_host, address.port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status != 503
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
