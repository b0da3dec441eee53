"""Uploads of pictures: how many, and what other requests notice of them."""

import asyncio
import http.client
import time
from io import BytesIO

from PIL import Image

from benchmarks.arrival import constant_arrival, percentile
from benchmarks.load import Request
from benchmarks.section import Data, number, table
from benchmarks.world import World, service, uvicorn

ORDER = 11
TITLE = "Uploads: pictures beside other requests"
IN_QUICK = False

RATE, SECONDS, UPLOADERS, SIDE = 50, 8, 2, 2_000
OTHERS = Request("/v1/posts")
SERVERS = {"pool": "this service: a process resizes", "loop": "the event loop resizes"}


def measure(world: World) -> Data:
    environment = {
        "CACHE_ENABLED": "false",
        "STORAGE_FOLDER": str(world.folder / "objects"),
        "STORAGE_FOLDER_SHARED": "true",
        "RATE_LIMITS_QUOTAS": "*=1000000/1,avatars=1000000/1",
    }
    targets = (
        service("pool", environment),
        uvicorn("loop", "benchmarks.uploads_server:app"),
    )
    seconds, found = (2 if world.effort.is_quick else SECONDS), Data()
    (world.folder / "objects").mkdir(exist_ok=True)
    with world.serving(*targets) as servers:
        for name, server in servers.items():
            world.status.show(f"Uploads, {name}")
            asyncio.run(_upload_beside(server.url, world.authorized, 1))
            pictures, latencies = asyncio.run(_upload_beside(server.url, world.authorized, seconds))
            found[name] = {
                "rate": float(f"{pictures / seconds:.3g}"),
                "p50": float(f"{percentile(latencies, 0.5):.3g}"),
                "p99": float(f"{percentile(latencies, 0.99):.3g}"),
            }
    world.status.finish("Uploads: done")
    return found


async def _upload_beside(
    url: str, headers: dict[str, str], seconds: float
) -> tuple[int, list[float]]:
    """Upload pictures all the time, and send other requests at a constant rate meanwhile."""
    content, until = _picture(), time.monotonic() + seconds
    threads = [asyncio.to_thread(_upload, url, headers, content, until) for _ in range(UPLOADERS)]
    uploads = asyncio.gather(*threads)
    others = await constant_arrival(url, OTHERS, RATE, seconds)
    return sum(await uploads), others.latencies


def _upload(url: str, headers: dict[str, str], content: bytes, until: float) -> int:
    count = 0
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    while time.monotonic() < until:
        connection.request("PUT", "/v1/users/me/avatar", content, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"An upload failed: {response.status} {answer!r}")
        count += 1
    connection.close()
    return count


def _picture() -> bytes:
    """Return a photo of 4 million pixels, as a JPEG."""
    target = BytesIO()
    noise = Image.effect_noise((SIDE // 8, SIDE // 8), 80)
    noise.resize((SIDE, SIDE)).convert("RGB").save(target, "JPEG", quality=85)
    return target.getvalue()


def figures(data: Data) -> dict[str, str]:
    found = {}
    for name, one in data.items():
        found[f"uploads.{name}.rate"] = number(one["rate"])
        found[f"uploads.{name}.p50"] = f"{number(one['p50'])} ms"
        found[f"uploads.{name}.p99"] = f"{number(one['p99'])} ms"
    return found


def report(data: Data) -> str:
    rows = [
        [SERVERS[name], *(number(one[column]) for column in ("rate", "p50", "p99"))]
        for name, one in data.items()
    ]
    head = ("server", "pictures/s", "others: p50 ms", "others: p99 ms")
    return f"{INTRODUCTION}\n\n{table(head, rows)}"


INTRODUCTION = """Two clients upload a JPEG of 4 million pixels again and again, while others
request the first page of posts 50 times a second, not cached. One process each; the service has
one more for pictures, where it is bounded in time and memory."""
