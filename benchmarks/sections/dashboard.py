"""The dashboard: four reads in parallel, compared with their sum."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

from pydantic import SecretStr
from sqlalchemy import text

from app.features.dashboard import service
from app.features.users.models import CallerRow
from app.features.users.queries import read_caller
from app.infra.database.connection_budget import APPLICATION_NAME
from app.infra.lifespan import open_resources
from app.infra.resources import ProcessResources
from app.settings import Settings
from benchmarks.section import Data, number, share, table
from benchmarks.world import DEMO_USER, World
from dev.database import upgrade
from dev.servers import embedded_servers
from dev.terminal import say

ORDER = 12
TITLE = "The dashboard: reads in parallel"
IN_QUICK = False

ROUNDS, POSTS = 60, 20_000
DELAYS = (0.0, 0.01, 0.05)  # seconds that the other service takes

USER = "INSERT INTO users (email, name, password_hash) VALUES ('a@example.com', 'A', 'x')"
OWN_POSTS = """
    INSERT INTO posts (author_id, title, body, created_at)
        SELECT 1, i, 'A body', now() - i * interval '1 hour' FROM generate_series(1, :posts) i
"""
BODY = b'{"headline": "A text"}'
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)

Read = Callable[[ProcessResources, CallerRow], Awaitable[object]]
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


async def measure_reads(settings: Settings, delay: float, rounds: int) -> list[float]:
    """Return the median of each read in seconds. They are measured in turns."""
    async with other_service(delay) as url:
        dashboard = settings.dashboard.model_copy(update={"upstream_url": url})
        own = settings.model_copy(update={"dashboard": dashboard}).sections()
        async with open_resources(own, APPLICATION_NAME) as resources:
            async with resources.database.read() as session:
                user = await read_caller(session, DEMO_USER)
            assert user is not None
            times = {name: list[float]() for name in READS}
            for _ in range(rounds):
                for name, read in READS.items():
                    started = time.perf_counter()
                    await read(resources, user)
                    times[name].append(time.perf_counter() - started)
    return [median(found) for found in times.values()]


async def measure_all(settings: Settings, rounds: int) -> Data:
    async with (
        open_resources(settings.sections(), APPLICATION_NAME) as resources,
        resources.database.transaction() as session,
    ):
        await session.execute(text(USER))
        await session.execute(text(OWN_POSTS), {"posts": POSTS})
    found = Data()
    for delay in DELAYS:
        say(f"{rounds} rounds with a service that takes {delay * 1_000:.0f} ms")
        medians = await measure_reads(settings, delay, rounds)
        milliseconds = [float(f"{seconds * 1_000:.3g}") for seconds in medians]
        found[f"{delay * 1_000:.0f}"] = dict(zip(READS, milliseconds, strict=True))
    return found


def measure(world: World) -> Data:
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
        return asyncio.run(measure_all(settings, 20 if world.effort.is_quick else ROUNDS))


def figures(data: Data) -> dict[str, str]:
    found = {}
    for delay, values in data.items():
        *parts, whole = values.values()
        found[f"dashboard.{delay}.sum"] = f"{number(sum(parts))} ms"
        found[f"dashboard.{delay}.whole"] = f"{number(whole)} ms"
        found[f"dashboard.{delay}.share"] = share(whole / sum(parts))
    return found


def report(data: Data) -> str:
    head = ["median", *(f"the other service takes {delay} ms" for delay in data)]
    rows = [
        [name, *(f"{number(values[name])} ms" for values in data.values())]
        for name in next(iter(data.values()))
    ]
    sums = [sum(list(values.values())[:-1]) for values in data.values()]
    wholes = [list(values.values())[-1] for values in data.values()]
    rows.insert(-1, ["the sum of these four", *(f"{number(one)} ms" for one in sums)])
    rows.append(
        [
            "the dashboard, as a share of the sum",
            *(share(whole / total) for whole, total in zip(wholes, sums, strict=True)),
        ]
    )
    return f"{INTRODUCTION}\n\n{table(head, rows)}"


INTRODUCTION = f"""The dashboard gathers four reads in parallel, one of them from another
service. One process calls it without HTTP. The caller has {POSTS:,} posts."""
