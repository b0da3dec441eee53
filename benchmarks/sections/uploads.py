"""Uploads of pictures: how many, and what other requests notice of them."""

import asyncio
import http.client
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from multiprocessing import get_context
from statistics import median

from PIL import Image

from benchmarks.arrival import constant_arrival, percentile
from benchmarks.load import Request
from benchmarks.section import Data, number, ratio, table
from benchmarks.world import World, service, uvicorn
from dev.terminal import CommandError

ORDER = 11
TITLE = "Uploads: pictures beside other requests"
IN_QUICK = False

RATE, LONGEST_SECONDS = 50, 60
CALM_SECONDS = 7  # three rounds have 1,050 requests
UPLOADERS, UPLOADS_OF_EACH, QUICK_UPLOADS_OF_EACH, SIDE = 4, 50, 10, 2_000
OTHERS = Request("/v1/posts")
SERVERS = {"pool": "this service: a process resizes", "loop": "the event loop resizes"}
COLUMNS = ("rate", "calm-p50", "p50", "calm-p99", "p99", "ratio")


@dataclass(frozen=True)
class Round:
    """The pictures a second, and the latencies of other requests before and beside them."""

    rate: float
    calm: list[float]
    beside: list[float]


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
    (world.folder / "objects").mkdir(exist_ok=True)
    uploads = QUICK_UPLOADS_OF_EACH if world.effort.is_quick else UPLOADS_OF_EACH
    found: dict[str, list[Round]] = {target.name: [] for target in targets}
    # Other processes send the pictures, so that this does not delay the other requests.
    with (
        world.serving(*targets) as servers,
        ProcessPoolExecutor(UPLOADERS, get_context("spawn")) as uploaders,
    ):
        beside = partial(_upload_beside, uploaders, _picture(), world.authorized)
        for server in servers.values():
            asyncio.run(beside(server.url, uploads=1, calm_seconds=0.5))  # a warm-up
        for round_number in range(world.effort.rounds):
            for name, server in servers.items():
                world.status.show(f"Uploads: round {round_number + 1}, {name}")
                found[name].append(asyncio.run(beside(server.url, uploads, CALM_SECONDS)))
    world.status.finish("Uploads: done")
    return {
        name: {column: float(f"{value:.3g}") for column, value in of_all(rounds).items()}
        for name, rounds in found.items()
    }


def of_all(rounds: list[Round]) -> dict[str, float]:
    """Return the figures of all rounds. One round has too few requests for a p99."""
    calm = [latency for one in rounds for latency in one.calm]
    beside = [latency for one in rounds for latency in one.beside]
    found = {
        "rate": median(one.rate for one in rounds),
        "calm-p50": percentile(calm, 0.5),
        "calm-p99": percentile(calm, 0.99),
        "p50": percentile(beside, 0.5),
        "p99": percentile(beside, 0.99),
    }
    return found | {"ratio": found["p99"] / found["calm-p99"]}


async def _upload_beside(
    uploaders: ProcessPoolExecutor,
    picture: bytes,
    headers: dict[str, str],
    url: str,
    uploads: int,
    calm_seconds: float,
) -> Round:
    """Send other requests at a constant rate, first without uploads and then beside them."""
    calm = await constant_arrival(url, OTHERS, RATE, calm_seconds)
    run, began = asyncio.get_running_loop().run_in_executor, time.monotonic()
    uploading = asyncio.gather(
        *(run(uploaders, _upload, url, headers, picture, uploads) for _ in range(UPLOADERS))
    )
    async with asyncio.timeout(2 * LONGEST_SECONDS):
        beside = await constant_arrival(url, OTHERS, RATE, LONGEST_SECONDS, uploading.done)
        seconds = max(await uploading) - began
    if refused := calm.refused + beside.refused:
        raise CommandError(f"{refused} requests beside the uploads were not answered with 200.")
    return Round(UPLOADERS * uploads / seconds, calm.latencies, beside.latencies)


def _upload(url: str, headers: dict[str, str], picture: bytes, uploads: int) -> float:
    """Upload a picture again and again, and return when the last one was answered."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    for _ in range(uploads):
        connection.request("PUT", "/v1/users/me/avatar", picture, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"An upload failed: {response.status} {answer!r}")
    connection.close()
    return time.monotonic()


def _picture() -> bytes:
    """Return a photo of 4 million pixels, as a JPEG."""
    target = BytesIO()
    noise = Image.effect_noise((SIDE // 8, SIDE // 8), 80)
    noise.resize((SIDE, SIDE)).convert("RGB").save(target, "JPEG", quality=85)
    return target.getvalue()


def figures(data: Data) -> dict[str, str]:
    written = {"rate": number, "ratio": ratio}
    return {
        f"uploads.{name}.{column}": written.get(column, _milliseconds)(value)
        for name, one in data.items()
        for column, value in one.items()
    }


def _milliseconds(value: float) -> str:
    return f"{number(value)} ms"


def report(data: Data) -> str:
    rows = [
        [
            SERVERS[name],
            *(number(one[column]) for column in COLUMNS[:-1]),
            ratio(one["ratio"]),
        ]
        for name, one in data.items()
    ]
    return f"{INTRODUCTION}\n\n{table(HEAD, rows)}"


HEAD = (
    "server",
    "pictures/s",
    "others: p50 ms before",
    "beside",
    "p99 ms before",
    "beside",
    "ratio",
)
INTRODUCTION = f"""{UPLOADERS} clients upload {UPLOADERS * UPLOADS_OF_EACH} JPEGs of 4 million
pixels in total. Each sends its next one when it has its answer. Others request the first page of
posts {RATE} times a second, not cached: for {CALM_SECONDS} seconds before the uploads, and beside
them. The latencies are those of all rounds together. One process each; the service has one more for
pictures, where they are bounded in time and memory. The other server checks no token and stores
nothing."""
