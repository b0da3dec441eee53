"""Serves an application of the test's process on a port, with the protocol of the service."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from app.infra.server.wiring import server_config
from app.settings import Settings
from graceful_gunicorn import protocol_class

PATIENCE_SECONDS = 60


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def served(app: FastAPI, settings: Settings) -> AsyncIterator[str]:
    """Serve an application whose lifespan has begun on a port of the loopback."""
    config = uvicorn.Config(
        app,
        http=protocol_class(server_config(settings.server)),
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(sockets=[listener]))
            await until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            server.should_exit = True


async def send_request(url: str, path: str, headers: dict[str, str]) -> asyncio.StreamWriter:
    """Send a request and return its connection, of which nothing was read. Close it to leave."""
    host, _, port = url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n{head}\r\n".encode())
    return writer
