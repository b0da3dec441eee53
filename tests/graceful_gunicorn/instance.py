"""An instance of a service under Gunicorn, in processes of its own."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx2

TESTS, PROJECT = Path(__file__).parent, Path(__file__).parents[2]
PATIENCE_SECONDS = 60


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


async def wait_until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.05)


class Instance:
    """A running Gunicorn, its address and its log."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port = process, port
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def workers(self) -> list[int]:
        """Return the process ids of the master's children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(child) for child in children.read_text(encoding="utf-8").split()]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the master."""
        self.process.send_signal(number)

    async def get(self, path: str) -> int:
        """Send a GET request on a new connection. Return the status, or 0 if there is none."""
        # A client that verifies certificates takes 40 ms to read them.
        client = httpx2.AsyncClient(base_url=self.url, timeout=PATIENCE_SECONDS, verify=False)
        try:
            async with client:
                return (await client.get(path)).status_code
        except httpx2.HTTPError:
            return 0

    async def wait_for(self, path: str, status: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.get(path) != status:
                await asyncio.sleep(0.05)

    async def exit_code(self) -> int:
        """Wait until the master has exited."""
        return await asyncio.to_thread(self.process.wait, PATIENCE_SECONDS)

    async def send(self, content: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection and send `content`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(content)
        return reader, writer

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def start_standalone(
    folder: Path, app: str = "service:app", environment: Mapping[str, str] | None = None
) -> Instance:
    """Start the standalone service with two workers, in a folder of its own."""
    shutil.copy(TESTS / "standalone.py", folder / "service.py")
    shutil.copy(TESTS / "standalone_config.py", folder / "gunicorn_config.py")
    port = free_port()
    (folder / "bind").write_text(f"127.0.0.1:{port}", encoding="utf-8")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", "gunicorn_config.py", app],
            cwd=folder,
            env=environment or {**os.environ, "PYTHONPATH": str(PROJECT)},
            stdout=log,
            stderr=log,
        )
    return Instance(process, port, folder / "log")
