"""Serves the application on a port of the loopback, for clients of other libraries."""

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import uvicorn

from app.infra.resources import ProcessResources
from app.infra.server.wiring import server_config
from app.main import create_app
from app.settings import Settings
from graceful_gunicorn import protocol_class
from tests.features.users.factory import UserFactory

T = TypeVar("T")


class Served:
    """A server in a thread of its own, with an event loop of its own."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self.app = create_app(settings)
        self._protocol = protocol_class(server_config(settings.server))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._listener = listener
        self._loop = asyncio.new_event_loop()

    @property
    def resources(self) -> ProcessResources:
        held: ProcessResources = self.app.state.resources
        return held

    @property
    def make(self) -> UserFactory:
        """Makes users. Each coroutine of it has to be passed to `run`."""
        return UserFactory(self.resources)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the event loop of the application."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=60)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve while the block runs."""
        options: dict[str, Any] = {"http": self._protocol, "log_level": "error", "lifespan": "on"}
        server = uvicorn.Server(uvicorn.Config(self.app, **options))
        serve = server.serve(sockets=[self._listener])
        thread = threading.Thread(target=self._run_until_stopped, args=(serve,))
        thread.start()
        try:
            while thread.is_alive() and not server.started:
                thread.join(0.01)
            yield
        finally:
            server.should_exit = True
            thread.join()

    def _run_until_stopped(self, serve: Coroutine[Any, Any, None]) -> None:
        """Run the server, and cancel what is left at the end, as its worker does."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(serve)


@contextmanager
def serve(settings: Settings) -> Iterator[Served]:
    """Serve a new application while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = Served(settings, listener)
        with served.serving():
            yield served
