"""What runs beside the requests ends with the process, whatever it makes of a cancellation."""

import asyncio
from contextlib import suppress

from app.infra.background import in_background


async def test_a_cancellation_that_is_taken_for_a_timeout_does_not_hold_up_the_end() -> None:
    taken = 0

    async def stubborn() -> None:
        nonlocal taken
        while taken < 3:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3_600)
            taken += 1

    async with in_background(stubborn(), "stubborn"):
        await asyncio.sleep(0)
    assert taken == 3


async def test_what_has_failed_by_itself_is_no_matter_at_the_end() -> None:
    async def fail() -> None:
        raise ValueError

    async with in_background(fail(), "failing"):
        await asyncio.sleep(0)
