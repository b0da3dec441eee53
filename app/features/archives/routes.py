"""`/v1/archives`: a zip of what one has written. Making it takes long, so a job does."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from app.features.archives import service
from app.features.archives.models import Archive, ArchiveStatus
from app.features.archives.schemas import ArchiveRead
from app.features.idempotency.dependencies import IdempotentRoute, IdempotentSession
from app.features.users.dependencies import CurrentUser
from app.infra.dependencies import ReadSession, Resources
from app.infra.resources import ProcessResources
from app.infra.server.settings import ServerSettings
from app.infra.validation.fields import Id
from app.infra.web.object_response import ObjectFile, object_response
from app.infra.web.openapi import problems
from app.infra.web.response_headers import PRIVATE

router = APIRouter(prefix="/v1/archives", tags=["archives"], route_class=IdempotentRoute)

ArchiveId = Annotated[Id, Path()]
MEDIA_TYPE = "application/zip"
ZIP = {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The archive", "content": ZIP},
    206: {"description": "The range that was asked for", "content": ZIP},
}


@router.post("", status_code=202, response_model=ArchiveRead, responses=problems(401, 409, 422))
async def create_archive(
    user: CurrentUser, session: IdempotentSession, resources: Resources, response: Response
) -> ArchiveRead:
    """Ask for an archive of one's own posts, comments and avatar, once a day.

    409 `archive_in_progress` while it is being made.
    """
    archive = await service.create_archive(session, resources.objects, user)
    response.headers["Location"] = f"/v1/archives/{archive.id}"
    return _to_read(archive, resources)


@router.get("/{archive_id}", response_model=ArchiveRead, responses=problems(401, 404, 422))
async def read_archive(
    archive_id: ArchiveId, user: CurrentUser, session: ReadSession, resources: Resources
) -> ArchiveRead:
    """Return the state of one's own archive."""
    return _to_read(await service.read_archive(session, user, archive_id), resources)


@router.get(
    "/{archive_id}/download",
    response_class=Response,
    responses=FILE | problems(401, 404, 409, 416, 422),
)
async def download_archive(
    archive_id: ArchiveId,
    request: Request,
    user: CurrentUser,
    resources: Resources,
) -> Response:
    """Download one's own archive, or a range of it. 409 `archive_not_done` until it is done."""
    async with resources.database.read() as session:  # a connection is not held while S3 answers
        archive = await service.read_finished_archive(session, user, archive_id)
    assert archive.key is not None
    assert archive.sha256 is not None
    file = ObjectFile(archive.key, f'"{archive.sha256[:32]}"', MEDIA_TYPE, PRIVATE)
    name = f'attachment; filename="archive-{archive.created_at:%Y-%m-%d}.zip"'
    return await object_response(request, resources.objects, file, {"Content-Disposition": name})


def _to_read(archive: Archive, resources: ProcessResources) -> ArchiveRead:
    root_path = resources.settings[ServerSettings].root_path
    url = f"{root_path}/v1/archives/{archive.id}/download"
    return ArchiveRead(
        id=archive.id,
        status=archive.status,
        progress=archive.progress,
        url=url if archive.status is ArchiveStatus.DONE else None,
    )
