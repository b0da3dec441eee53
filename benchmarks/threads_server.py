"""Routes that wait for 50 ms: in a thread of Starlette's limiter, and on the event loop."""

import asyncio
import time

from fastapi import FastAPI

app = FastAPI()


@app.get("/def")
def in_a_thread() -> None:
    time.sleep(0.05)


@app.get("/async")
async def on_the_loop() -> None:
    await asyncio.sleep(0.05)
