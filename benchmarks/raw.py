"""The least that an ASGI application can do: send what the service answered, each time."""

import json
import os
from pathlib import Path

from starlette.types import Receive, Scope, Send

# The variable names a file: [[[name, value], …], body].
_headers, _body = json.loads(Path(os.environ["BENCHMARK_BYTES"]).read_text(encoding="utf-8"))
HEADERS = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in _headers]
BODY = _body.encode()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer everything alike."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
