"""The usual idiom, with pictures that are resized on the event loop: for the section `uploads`."""

from io import BytesIO

from fastapi import Request
from PIL import Image

from benchmarks.rivals.fastapi_idiom import app


@app.put("/v1/users/me/avatar")
async def put_avatar(request: Request) -> dict[str, int]:
    picture = Image.open(BytesIO(await request.body()))
    picture.thumbnail((256, 256))
    target = BytesIO()
    picture.convert("RGB").save(target, "WEBP")
    return {"bytes": len(target.getvalue())}
