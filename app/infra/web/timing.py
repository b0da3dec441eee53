"""Tells how long an answer took, in its headers: X-Process-Time, and Server-Timing if asked for."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.infra.exchange import Exchange, exchange


class TimingMiddleware:
    """Pure ASGI. Times are seconds until the response began; Server-Timing's are milliseconds."""

    def __init__(self, app: ASGIApp, *, server_timing: bool = False) -> None:
        self.app = app
        self._server_timing = server_timing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        current = exchange.get()
        if scope["type"] != "http" or current is None:
            await self.app(scope, receive, send)
            return

        async def send_timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                current.status = message["status"]
                process_time = (b"x-process-time", b"%.6f" % current.seconds)
                message["headers"] = [*message.get("headers", ()), process_time]
                if self._server_timing:
                    message["headers"].append((b"server-timing", _server_timing(current)))
            await send(message)

        await self.app(scope, receive, send_timed)


def _server_timing(current: Exchange) -> bytes:
    """Write the header of the Server-Timing draft of the W3C, which browsers show."""
    parts = [f"app;dur={current.seconds * 1e3:.2f}"]
    if current.statements:
        count = len(current.statements)
        parts.append(f'db;dur={current.database_seconds * 1e3:.2f};desc="{count} statements"')
    if current.cache is not None:
        parts.append(f"cache;desc={current.cache}")
    return ", ".join(parts).encode()
