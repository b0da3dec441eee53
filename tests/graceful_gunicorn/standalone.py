"""A project that is served by `graceful_gunicorn`, and uses nothing else of this repository."""

import asyncio

from fastapi import FastAPI, Response
from prometheus_client import Counter, generate_latest

from graceful_gunicorn import registry_of_all_workers

NAPS = Counter("naps", "Naps taken.")
app = FastAPI()


@app.get("/sleep/{seconds}")
async def sleep(seconds: float) -> str:
    await asyncio.sleep(seconds)
    NAPS.inc()
    return "awake"


@app.get("/metrics")
def metrics() -> Response:
    with registry_of_all_workers() as registry:
        return Response(generate_latest(registry))
