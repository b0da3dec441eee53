"""Uploads of pictures: bombs, damaged files, many at once, and processes that are killed."""

import asyncio
import multiprocessing
import os
import signal
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from PIL import Image

from dev.address import Address
from tests.faults.conftest import Judge, Serve
from tests.faults.counters import Counters
from tests.faults.load import late, outcome, register
from tests.faults.service import resident_mib
from tests.faults.test_bodies import LONGEST_HOLD_SECONDS, request_bytes, send
from tests.faults.test_limits import Load, not_served, share
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Reply

pytestmark = pytest.mark.faults

SCRIPT = b"<script>alert(1)</script>"
ROUTE = "PUT /v1/users/me/avatar"
UPLOADS, GOOD_RATE, CONNECTIONS, WATCHED_SECONDS = 200, 50, 40, 15
UPLOADS_AND_KILLS = 40
# The limit on waiting, that on decoding, and the time in which a busy machine answers.
ANSWERED_WITHIN_SECONDS = 4 + 4 + 2
NO_TROUBLE_SECONDS = 0.05
BLOCKED = "event_loop_blocked_total"
# The body of each upload beyond a MiB comes out of a budget of 32 MiB.
LIMIT_MIB = 160


def written(image: Image.Image, file_format: str, **options: Any) -> bytes:
    target = BytesIO()
    image.save(target, file_format, **options)
    return target.getvalue()


def claiming_png(width: int, height: int) -> bytes:
    """Return a PNG of this size that compresses to next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + width // 8)) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows + packer.flush()) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def text_bomb() -> bytes:
    """Return a PNG whose texts are 64 MB when they are decompressed."""
    plain = written(Image.new("1", (8, 8)), "PNG")
    content = b"Comment\0\0" + zlib.compress(bytes(64_000_000), 9)
    chunk = struct.pack(">I", len(content)) + b"zTXt" + content
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    return plain[:33] + chunk + plain[33:]


def animation(file_format: str, frames: int, side: int, **options: Any) -> bytes:
    images = [Image.new("RGB", (side, side), (n % 256, n // 256, 0)) for n in range(frames)]
    return written(images[0], file_format, save_all=True, append_images=images[1:], **options)


def zip_with_script() -> bytes:
    target = BytesIO()
    with ZipFile(target, "w") as archive:
        archive.writestr("index.html", SCRIPT)
    return target.getvalue()


@cache
def files() -> dict[str, bytes]:
    """Return what is uploaded, by name."""
    small = Image.effect_noise((400, 300), 60).convert("RGB")
    in_formats = {name: written(small, name) for name in ("PNG", "WEBP", "AVIF")}
    noise = Image.effect_noise((1_000, 750), 60).convert("RGB")
    photo = noise.resize((4_000, 3_000))
    large = Image.new("RGB", (4_100, 4_100), "red")
    photo_file = written(photo, "JPEG", quality=60)
    return {
        "photo": photo_file,
        # Decoding each of these takes about half a second.
        "progressive photo of 50 megapixels": written(
            noise.resize((8_160, 6_120)), "JPEG", quality=40, progressive=True
        ),
        "WebP photo of 17 megapixels": written(noise.resize((4_700, 3_600)), "WEBP", method=0),
        "PNG of 17 megapixels": written(large, "PNG"),
        "WebP of 17 megapixels": written(large, "WEBP", method=0),
        "AVIF of 17 megapixels": written(large, "AVIF", speed=10),
        "PNG bomb of 900 megapixels": claiming_png(30_000, 30_000),
        "WebP bomb": written(Image.new("RGB", (16_383, 8_000), "red"), "WEBP", method=0),
        "AVIF bomb": written(Image.new("L", (12_000, 12_000)), "AVIF", speed=10),
        "GIF of 65,535 × 65,535": b"GIF89a" + b"\xff" * 4 + b"\0\0\0" + bytes(100),
        "text bomb": text_bomb(),
        "animated GIF": animation("GIF", 900, 64),
        "animated WebP": animation("WEBP", 1_100, 16, lossless=True),
        "animated AVIF": animation("AVIF", 1_100, 16, speed=10),
        "animated PNG": animation("PNG", 1_100, 16),
        "animated WebP of 17 megapixels": animation("WEBP", 3, 4_100, method=0),
        "animated AVIF of 17 megapixels": animation("AVIF", 3, 4_100, speed=10),
        "truncated": photo_file[: len(photo_file) // 2],
        **{f"truncated {name}": one[: len(one) // 2] for name, one in in_formats.items()},
        "polyglot": written(Image.new("RGB", (9, 9)), "GIF") + SCRIPT,
        "polyglot of PNG and ZIP": in_formats["PNG"] + zip_with_script(),
        "polyglot of JPEG and HTML": written(small, "JPEG", comment=SCRIPT) + SCRIPT,
        "script that begins like a GIF": b"GIF89a=1;alert(1)//" + SCRIPT,
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    }


POLYGLOTS = ("polyglot", "polyglot of PNG and ZIP", "polyglot of JPEG and HTML")
TAKEN = ("photo", "animated GIF", *POLYGLOTS)
MAY_BE_TAKEN = (
    *("PNG of 17 megapixels", "WebP of 17 megapixels", "AVIF of 17 megapixels"),
    *("animated WebP of 17 megapixels", "animated AVIF of 17 megapixels"),
    *("progressive photo of 50 megapixels", "WebP photo of 17 megapixels"),
)
MANY = (
    *("photo", *MAY_BE_TAKEN[:3], "GIF of 65,535 × 65,535", "animated GIF", "animated WebP"),
    *("truncated", "polyglot", "SVG"),
)


def upload_at_once(address: Address, headers: dict[str, str], number: int) -> list[Reply]:
    """Upload this number of files at once, each on a new connection."""
    content = [files()[name] for name in MANY]
    requests = requests_with([content[n % len(content)] for n in range(number)], headers)

    async def flood() -> list[Reply]:
        return await asyncio.gather(*(send(address, request) for request in requests))

    return asyncio.run(flood())


def children(process_id: int) -> list[int]:
    tasks = Path(f"/proc/{process_id}/task").glob("*/children")
    return [int(one) for task in tasks for one in task.read_text(encoding="utf-8").split()]


async def kill_children(workers: Sequence[int], times: int) -> int:
    """Kill a process that decodes pictures, again and again. Return how many were killed."""
    killed = 0
    for _ in range(times):
        await asyncio.sleep(0.5)
        for worker in workers:
            for child in children(worker):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                    killed += 1
    return killed


def requests_with(content: Sequence[bytes], headers: dict[str, str]) -> list[bytes]:
    return [request_bytes(ROUTE, "image/jpeg", one, headers) for one in content]


@pytest.mark.parametrize("control", [GUARDED, "with pictures decoded on the event loop"])
async def test_bombs_and_damaged_pictures_are_refused_in_time(
    serve: Serve, judge: Judge, tmp_path: Path, control: str
) -> None:
    async with serve(control, storage={"folder": str(tmp_path)}) as service:
        _, headers = await register(service.client)
        await service.each_worker("/faults/held")  # starts the measurement
        replies = {
            name: await send(service.address, *requests_with([content], headers))
            for name, content in files().items()
        }
        held = max(worker["held"] for worker in await service.each_worker("/faults/held"))
        alive = await send(service.address, *requests_with([files()["photo"]], headers))
        shown = [
            (await service.client.get(replies[name].json()["url"])).content
            for name in POLYGLOTS
            if replies[name].status == 200
        ]
    slowest = max(reply.seconds for reply in replies.values())
    wrong = [
        f"{name}: {outcome(reply.status)}"
        for name, reply in replies.items()
        if reply.status not in ((200,) if name in TAKEN else (200, 415, 422))
        or (reply.status == 200 and name not in (*TAKEN, *MAY_BE_TAKEN))
    ]
    broken = [
        *wrong,
        *[f"a picture blocked the event loop for {held * 1000:.0f} ms"]
        * (held > LONGEST_HOLD_SECONDS),
        *late("the last answer came", slowest, ANSWERED_WITHIN_SECONDS),
        *[f"a photo afterwards: {outcome(alive.status)}"] * (alive.status != 200),
        *["a picture contains a script"] * any(SCRIPT in content for content in shown),
    ]
    refused = sum(reply.status in (415, 422) for reply in replies.values())
    figure = (
        f"{refused} of {len(replies)} refused, within {slowest:.2f} s; none blocked the event loop "
        f"for more than {held * 1000:.0f} ms of CPU"
    )
    judge(
        "Decompression bombs, truncated files and polyglots are uploaded", control, figure, broken
    )


@pytest.mark.parametrize("control", [GUARDED, "with pictures decoded on the event loop"])
async def test_many_uploads_at_once_do_not_delay_other_requests(
    serve: Serve, judge: Judge, tmp_path: Path, control: str
) -> None:
    async with serve(control, storage={"folder": str(tmp_path)}) as service:
        _, headers = await register(service.client)
        post = {"title": "T", "body": "B"}
        (await service.client.post("/v1/posts", json=post, headers=headers)).raise_for_status()
        workers = [worker["process_id"] for worker in await service.each_worker("/faults/vitals")]
        load = Load(service.address, "/v1/users/me", headers)
        await load.connect(CONNECTIONS)
        counters = Counters(service.client)
        before = (await counters.scrape()).get(BLOCKED, 0)
        resident = [resident_mib(worker, "VmRSS") for worker in workers]
        # In another process, so that sending the uploads does not delay the other requests.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other_process:
            ask = partial(asyncio.get_running_loop().run_in_executor, other_process)
            await ask(files)
            calm = await load.run(GOOD_RATE, WATCHED_SECONDS)
            flood = ask(partial(upload_at_once, service.address, headers, UPLOADS))
            meanwhile = await load.run(GOOD_RATE, WATCHED_SECONDS)
            replies = await flood
            again = ask(partial(upload_at_once, service.address, headers, UPLOADS_AND_KILLS))
            killed = await kill_children(workers, 4)
            replies += await again
        load.close()
        blocked = (await counters.scrape()).get(BLOCKED, 0) - before
        alive_workers = [worker for worker in workers if Path(f"/proc/{worker}").exists()]
        grown = max(
            (resident_mib(worker, "VmHWM") - min(resident) for worker in alive_workers), default=0
        )
        alive = await send(service.address, *requests_with([files()["photo"]], headers))
    last = max(reply.seconds for reply in replies)
    p99_before, p99 = share(calm, 0.99), share(meanwhile, 0.99)
    statuses = Counter(reply.status for reply in replies)
    wrong = sorted(statuses.keys() - {200, 415, 422, 503})
    broken = [
        *late("the last answer came", last, ANSWERED_WITHIN_SECONDS),
        *[f"unexpected statuses {wrong}"] * bool(wrong),
        *[f"the event loop was blocked {blocked:.0f} times"] * (blocked > 0),
        *[f"p99 of other requests {p99 * 1000:.0f} ms, {p99_before * 1000:.0f} ms before"]
        * (p99 > max(2 * p99_before, NO_TROUBLE_SECONDS)),
        *[f"{len(workers) - len(alive_workers)} workers ended"] * (alive_workers != workers),
        *[f"the memory of a worker grew by {grown:.0f} MiB"] * (grown > LIMIT_MIB),
        *[f"a photo afterwards: {outcome(alive.status)}"] * (alive.status != 200),
        *not_served(meanwhile),
    ]
    figure = (
        f"{statuses[200]} pictures taken, {statuses[415] + statuses[422]} refused, "
        f"{statuses[503]} × 503, within {last:.1f} s, the last 40 while {killed} processes were "
        f"killed; p99 of other requests {p99_before * 1000:.0f} ms before, {p99 * 1000:.0f} ms "
        f"meanwhile; loop blocked 0 times; the memory of a worker grew by at most {grown:.0f} MiB"
    )
    judge("200 uploads of pictures at once", control, figure, broken)
