"""FastAPI sends the same bytes each time."""

import json
import os
from pathlib import Path

from fastapi import FastAPI, Response

HEADERS, BODY = json.loads(Path(os.environ["BENCHMARK_BYTES"]).read_text(encoding="utf-8"))
CONTENT = BODY.encode()

app = FastAPI()


@app.get("/{path:path}")
async def read_bytes() -> Response:
    return Response(CONTENT, media_type="application/json")
