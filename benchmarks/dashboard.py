"""Measures the dashboard: `python -m benchmarks.dashboard`, about 15 s. It writes dashboard.md.

It starts a PostgreSQL of its own, and another service that takes a certain time. All of them share
the cores of the machine, so compare figures of one run only.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

from pydantic import SecretStr
from sqlalchemy import text

from app.features.dashboard import service
from app.features.users.models import User
from app.infra.database.connection_budget import APPLICATION_NAME
from app.infra.lifespan import open_resources
from app.infra.resources import ProcessResources
from app.settings import Settings
from dev.database import upgrade
from dev.servers import embedded_servers
from dev.terminal import say

REPORT = Path(__file__).with_name("dashboard.md")
ROUNDS, POSTS = 200, 20_000
DELAYS = (0.0, 0.01, 0.05)  # seconds that the other service takes

USER = "INSERT INTO users (email, name, password_hash) VALUES ('a@example.com', 'A', 'x')"
OWN_POSTS = """
    INSERT INTO posts (author_id, title, body, created_at)
        SELECT 1, i, 'A body', now() - i * interval '1 hour' FROM generate_series(1, :posts) i
"""
BODY = b'{"headline": "A text"}'
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)

Read = Callable[[ProcessResources, User], Awaitable[object]]
READS: dict[str, Read] = {
    "the profile alone": service.read_profile,
    "the newest posts alone": service.read_recent_posts,
    "the statistics alone": service.read_stats,
    "the other service alone": service.read_upstream,
    "the dashboard": service.read_dashboard,
}


@asynccontextmanager
async def other_service(seconds: float) -> AsyncIterator[str]:
    """Answer each request after so many seconds."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(seconds)
                writer.write(RESPONSE)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def measure(settings: Settings, delay: float) -> list[float]:
    """Return the median of each read in seconds. They are measured in turns."""
    async with other_service(delay) as url:
        dashboard = settings.dashboard.model_copy(update={"upstream_url": url})
        own = settings.model_copy(update={"dashboard": dashboard}).sections()
        async with open_resources(own, APPLICATION_NAME) as resources:
            user, times = User(id=1), {name: list[float]() for name in READS}
            for _ in range(ROUNDS):
                for name, read in READS.items():
                    started = time.perf_counter()
                    await read(resources, user)
                    times[name].append(time.perf_counter() - started)
    return [median(found) for found in times.values()]


async def measure_all(settings: Settings) -> list[str]:
    async with (
        open_resources(settings.sections(), APPLICATION_NAME) as resources,
        resources.database.transaction() as session,
    ):
        await session.execute(text(USER))
        await session.execute(text(OWN_POSTS), {"posts": POSTS})
    columns = []
    for delay in DELAYS:
        say(f"{ROUNDS} rounds with a service that takes {delay * 1_000:.0f} ms")
        columns.append(await measure(settings, delay))
    return rows(columns)


def rows(columns: list[list[float]]) -> list[str]:
    def row(name: str, values: list[float]) -> str:
        return f"| {name} | " + " | ".join(f"{value * 1_000:.1f} ms" for value in values) + " |"

    *parts, whole = [list(values) for values in zip(*columns, strict=True)]
    sums = [sum(values) for values in zip(*parts, strict=True)]
    shares = [f"{taken / total:.0%}" for taken, total in zip(whole, sums, strict=True)]
    heads = [f"the other service takes {delay * 1_000:.0f} ms" for delay in DELAYS]
    return [
        "| median of what is read | " + " | ".join(heads) + " |",
        "|---|" + "---|" * len(DELAYS),
        *(row(name, values) for name, values in zip(READS, parts, strict=False)),
        row("the sum of these four", sums),
        row("the dashboard", whole),
        "| the dashboard, as a share of the sum | " + " | ".join(shares) + " |",
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, embedded_servers(Path(folder)) as servers:
        upgrade(servers)
        settings = Settings.model_validate(
            {
                "database": {"url": SecretStr(servers.database_url)},
                "valkey": {"url": SecretStr(servers.valkey_url)},
                "cache": {"enabled": False},
                "log": {"level": "WARNING"},
            }
        )
        lines = asyncio.run(measure_all(settings))
    head = (
        "# The dashboard\n\n`python -m benchmarks.dashboard` writes this page. PostgreSQL, the "
        f"other service and one process share {os.cpu_count()} cores. The caller has {POSTS:,} "
        "posts.\n\n"
    )
    REPORT.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    say("\n".join(lines))


if __name__ == "__main__":
    main()
