"""A project that is served by `graceful_gunicorn`, and uses nothing else of this repository."""

import asyncio
from pathlib import Path

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


@app.get("/ready")
def ready(response: Response) -> None:
    """Answer 503 while the instance shuts down. The callback `on_drain` creates the file."""
    if Path(__file__).with_name("draining").exists():
        response.status_code = 503


@app.get("/metrics")
def metrics() -> Response:
    return Response(generate_latest(registry_of_all_workers()))
