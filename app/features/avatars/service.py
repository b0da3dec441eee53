"""Operations on avatars: a picture is made in another process, stored by its hash, and shown."""

from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import InvalidRequest, Unauthenticated, UnsupportedMediaType
from app.features.avatars import queries
from app.features.avatars.image import RefusedImage, image_format, make_avatar
from app.features.avatars.settings import AvatarSettings
from app.features.users import tags
from app.features.users.models import CallerRow, User
from app.infra.process_pool import ProcessPool
from app.infra.resources import ProcessResources
from app.infra.server.settings import ServerSettings
from app.infra.settings_base.section import Sections
from app.infra.storage.stored_objects import refer, release, reserve
from app.infra.validation.preconditions import UNCONDITIONAL, Precondition
from app.infra.web.settings import LimitsSettings
from coherent_cache import invalidate

COMMIT_SECONDS = 60  # in which a request commits after its time limit, at the latest
MOST_URLS = 500  # of users, in one transaction


@dataclass(frozen=True, slots=True)
class PictureFile:
    """An uploaded file that begins like a picture. It may be damaged or too large."""

    content: bytes
    format: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in the store. Its name is the hash of its content."""

    object_id: int
    sha256: str


def read_file(content: bytes) -> PictureFile:
    """Raise `UnsupportedMediaType` if it is no picture. The first bytes decide about that."""
    if not content:
        raise InvalidRequest("The body has to be the file of a picture.")
    file_format = image_format(content)
    if file_format is None:
        raise UnsupportedMediaType("The body has to be a JPEG, PNG, WebP, AVIF or GIF file.")
    return PictureFile(content, file_format)


async def store_picture(
    resources: ProcessResources, processes: ProcessPool, file: PictureFile
) -> Picture:
    """Make an avatar of a file, and put it into the store. This holds no connection meanwhile.

    Raises `InvalidRequest` for a file that is damaged, or too large.
    """
    resources.objects.require()
    try:
        made = await processes.run(make_avatar, file.content, file.format)
    except RefusedImage as refused:
        raise InvalidRequest(str(refused), code="invalid_image") from None
    digest = sha256(made).hexdigest()
    key = object_key(digest)
    seconds = resources.settings[LimitsSettings].request_seconds + COMMIT_SECONDS
    object_id = await reserve(resources.database, key, seconds)
    await resources.objects.put(key, made)
    return Picture(object_id, digest)


async def set_avatar(
    session: AsyncSession,
    user: User | CallerRow,
    picture: Picture,
    url: str,
    precondition: Precondition = UNCONDITIONAL,
) -> None:
    """Show a picture as the avatar of the caller. The one before is deleted if nobody else has it.

    The account is locked first, so that two uploads of a user take turns. The condition is about
    the avatar that there is then.
    """
    if not await queries.set_url(session, user.id, url):
        raise Unauthenticated("The account of this access token has been deleted.")
    before = await queries.get_object_id(session, user.id)
    precondition.require(exists=before is not None)
    await refer(session, picture.object_id)
    await queries.put_avatar(session, user.id, picture.object_id, picture.sha256)
    if before not in (None, picture.object_id):
        await release(session, before)
    invalidate(session, tags.user(user.id))


async def delete_avatar(
    session: AsyncSession, user: User | CallerRow, precondition: Precondition = UNCONDITIONAL
) -> None:
    """Remove the avatar of the caller, if there is one."""
    if not await queries.set_url(session, user.id, None):
        raise Unauthenticated("The account of this access token has been deleted.")
    before = await queries.get_object_id(session, user.id)
    precondition.require(exists=before is not None)
    if before is not None:
        await queries.delete_avatar(session, user.id)
        await release(session, before)
    invalidate(session, tags.user(user.id))


async def correct_urls(session: AsyncSession, settings: Sections) -> int:
    """Change URLs that AVATARS_BASE_URL does not fit any more. Return how many were changed."""
    users = await queries.correct_urls(session, *_url_parts(settings), MOST_URLS)
    invalidate(session, *(tags.user(user_id) for user_id in users))
    return len(users)


def object_key(digest: str) -> str:
    return f"avatars/{digest}.webp"


def url_of(settings: Sections, digest: str) -> str:
    """Return where a client gets a picture: from the CDN if there is one, or from this service."""
    before, after = _url_parts(settings)
    return f"{before}{digest}{after}"


def _url_parts(settings: Sections) -> tuple[str, str]:
    base_url = settings[AvatarSettings].base_url or settings[ServerSettings].root_path
    return f"{base_url}/v1/avatars/", ".webp"
