"""Tells a running request that its client has disconnected, even if another request follows it."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class NoticingProtocol(HttpToolsProtocol):
    """Uvicorn tells the latest request only, and with pipelining that one does not run yet.

    The running one would never get `http.disconnect`, and its next write would be an error.
    """

    _running: RequestResponseCycle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)
