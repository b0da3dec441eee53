"""The service with one more route, and others before it, for benchmarks/sections/routes.py."""

import os

from fastapi import APIRouter

from app.main import app

# How many routes are before the measured one, and the prefix of their router. Each has a number in
# the place of `#` in its path.
COUNT, PREFIX = int(os.environ["BENCHMARK_ROUTES"]), os.environ["BENCHMARK_PREFIX"]
PATH = os.environ["BENCHMARK_PATH"]


async def nothing() -> None:
    pass


async def answer(number: int) -> dict[str, int]:
    """Answer at once."""
    return {"number": number}


measured = APIRouter(prefix="/v1/measured")
others = measured if measured.prefix == PREFIX else APIRouter(prefix=PREFIX)
for count in range(COUNT):
    others.add_api_route(PATH.replace("#", str(count)), nothing, name=f"part_{count}")
measured.add_api_route("/{number}/last", answer, name="last")
if others is not measured:
    app.include_router(others)
app.include_router(measured)
