"""`/v1/users/me/avatar` and `/v1/avatars`: the pictures of users."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response

from app.features.avatars import service
from app.features.avatars.image import load_decoders
from app.features.avatars.schemas import AvatarRead
from app.features.avatars.settings import AvatarSettings
from app.features.users.dependencies import CurrentUser
from app.infra.dependencies import Conditions, Resources, WriteSession
from app.infra.observability.background import detached
from app.infra.process_pool import ProcessPool
from app.infra.rate_limits.limit import Limit
from app.infra.web.object_response import ObjectFile, object_response
from app.infra.web.openapi import NOT_MODIFIED, problems
from app.infra.web.rate_limited import ADDRESS, WRITES, rate_limited
from app.infra.web.upload import read_upload

LARGEST_FILE = 6 * 1024 * 1024
UPLOADS = Limit("avatars", quota=60, seconds=3_600)
# A picture never changes under its address.
IMMUTABLE = "public, max-age=31536000, immutable"
MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp", "image/avif", "image/gif")
BINARY = {"schema": {"type": "string", "format": "binary"}}
IMAGE_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": dict.fromkeys(MEDIA_TYPES, BINARY)}
}
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture", "content": {"image/webp": BINARY}},
    206: {"description": "The range that was asked for", "content": {"image/webp": BINARY}},
}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the processes that decode pictures. The first one starts in the background."""
    settings = app.state.settings[AvatarSettings]
    processes = app.state.avatar_processes = ProcessPool(
        settings.processes,
        queue=settings.queue,
        queue_seconds=settings.queue_seconds,
        seconds=settings.seconds,
        memory_bytes=settings.memory_bytes,
    )
    starting = detached(processes.warm(load_decoders))
    try:
        yield
    finally:
        starting.cancel()


router = APIRouter(prefix="/v1", tags=["avatars"], lifespan=lifespan)


async def avatar_processes(request: Request) -> ProcessPool:
    processes: ProcessPool = request.app.state.avatar_processes
    return processes


@router.put(
    "/users/me/avatar",
    response_model=AvatarRead,
    responses=problems(401, 412, 413, 415, 422),
    openapi_extra=IMAGE_BODY,
    max_body_size=LARGEST_FILE,
)
@rate_limited(ADDRESS, WRITES, UPLOADS)
async def put_avatar(
    request: Request,
    user: CurrentUser,
    session: WriteSession,
    resources: Resources,
    processes: Annotated[ProcessPool, Depends(avatar_processes)],
    precondition: Conditions,
) -> AvatarRead:
    """Replace one's own avatar. The body is the file, and its content decides about its type.

    Of an animation, the first picture is taken. 422 `invalid_image` for a file that is damaged, or
    has too many pixels.
    """
    file = service.read_file(await read_upload(request))
    picture = await service.store_picture(resources, processes, file)
    url = service.url_of(resources.settings, picture.sha256)
    await service.set_avatar(session, user, picture, url, precondition)
    return AvatarRead(url=url)


@router.delete(
    "/users/me/avatar",
    status_code=204,
    response_class=Response,
    responses=problems(401, 412, 422),
)
async def delete_avatar(user: CurrentUser, session: WriteSession, precondition: Conditions) -> None:
    """Remove one's own avatar, if there is one."""
    await service.delete_avatar(session, user, precondition)


@router.get(
    "/avatars/{sha256}.webp",
    response_class=Response,
    responses=PICTURE | NOT_MODIFIED | problems(404, 416, 422),
)
async def read_avatar(
    request: Request,
    sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$")],
    resources: Resources,
) -> Response:
    """Return a picture. Caches may keep it for a year."""
    key = service.object_key(sha256)
    file = ObjectFile(key, f'"{sha256[:32]}"', "image/webp", IMMUTABLE)
    return await object_response(request, resources.objects, file)
