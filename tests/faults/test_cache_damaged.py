"""A damaged value in Valkey is never served, and the next read overwrites it."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.coherent_cache.test_damage import KINDS, cut, flipped, replace_key, replaced
from tests.faults.author import sign_up
from tests.faults.conftest import Judge, Serve
from tests.faults.valkey import Valkey
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Wire

pytestmark = pytest.mark.faults
EVERY = 5  # only every fifth damaged value, because each needs two or three requests
# Workers keep no copies in memory, because these would hide the damaged values.
NO_MEMORY = {"memory_bytes": 1}
# The case judges responses and no times, so a busy machine must not count as a slow Valkey.
PATIENCE = {"slow_seconds": 5, "timeout_seconds": 5}


def damages(raw: Any) -> Iterator[tuple[str, bytes]]:
    """Yield damaged values, with the kind of damage."""
    for damage in (flipped, cut, replaced):
        for number, value in enumerate(damage(raw)):
            if number % EVERY == 0 and value != raw:
                yield damage.__name__, value


@pytest.mark.parametrize("control", [GUARDED, "without checksums"])
async def test_damaged_values_in_valkey_are_never_served(
    valkey: Valkey, serve_cached: Serve, judge: Judge, control: str
) -> None:
    wrong, kept, tried = Counter[str](), Counter[str](), Counter[str]()
    async with (
        serve_cached(control, cache=NO_MEMORY, valkey=PATIENCE) as service,
        Redis.from_url(valkey.url) as own,
    ):
        author = await sign_up(service.client)
        wire = Wire(service.address, patience_seconds=5)
        truth = (await wire.get(author.post)).body
        [entry] = [name async for name in own.scan_iter("{cache}e:*:/v1/posts/*")]
        token, log = f"{{cache}}t:post:{author.post.rpartition('/')[2]}", "{cache}log"

        async def read(kind: str, key: str, damaged: bytes | None) -> None:
            """Read three times: the second or third response comes from Valkey."""
            tried[kind] += 1
            sources = []
            for _ in range(3):
                reply = await wire.get(author.post)
                wrong[kind] += reply.status != 200 or reply.body != truth
                sources.append(reply.source)
            kept[kind] += sources[-1] != "HIT" or (
                damaged is not None and await own.get(key) == damaged
            )

        raw = await own.get(entry)
        for kind, damaged in damages(raw):
            await own.set(entry, damaged)
            await read(f"entry {kind}", entry, damaged)
        for kind, damaged in damages(await own.get(token)):
            await own.set(token, damaged)
            await read(f"token {kind}", token, None)
        for name, key in (("entry", entry), ("token", token), ("log", log)):
            for other in KINDS:
                await replace_key(own, key, other)
                if key == log:
                    await own.delete(entry)
                await read(f"{name} of another type", key, None)
        wire.close()
    seen = ", ".join(f"{number} × {kind}" for kind, number in tried.items())
    broken = [f"{number} wrong responses ({kind})" for kind, number in wrong.items() if number]
    broken += [f"{number} not overwritten ({kind})" for kind, number in kept.items() if number]
    judge(
        "Values in Valkey are damaged",
        control,
        f"damaged: {seen}; no wrong response, and all were overwritten",
        broken,
    )
