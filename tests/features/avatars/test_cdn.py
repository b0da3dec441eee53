"""AVATARS_BASE_URL: clients get pictures from a CDN, and the URLs of users follow the setting."""

from dataclasses import replace

import httpx2
import pytest
from pydantic import ValidationError
from sqlalchemy import text

from app.features.avatars import service
from app.features.avatars.settings import AvatarSettings
from app.features.users.models import User
from app.infra.jobs.enqueue import enqueue
from app.infra.resources import ProcessResources
from app.settings import Settings
from tests.application import client_of, running
from tests.features.avatars.factory import AvatarFactory
from tests.features.avatars.pictures import quarters, written
from tests.jobs import run_jobs

Client = httpx2.AsyncClient
CDN = "https://cdn.example.com/pictures"


def with_cdn(settings: Settings, base_url: str | None) -> Settings:
    avatars = AvatarSettings.model_validate({**settings.avatars.model_dump(), "base_url": base_url})
    return settings.model_copy(update={"avatars": avatars})


async def correct_urls(resources: ProcessResources, settings: Settings) -> None:
    """Run the job in a worker with these settings."""
    async with resources.database.transaction() as session:
        await enqueue(session, "avatars.correct_urls")
    worker = replace(resources, settings=settings.sections())
    assert await run_jobs(worker) == ["avatars.correct_urls"]


async def avatar_url(client: Client, user: User) -> str | None:
    url: str | None = (await client.get(f"/v1/users/{user.id}")).json()["avatar_url"]
    return url


@pytest.mark.parametrize("base_url", [CDN, f"{CDN}/"])
async def test_new_picture_has_the_address_of_the_cdn(
    settings: Settings, owner: User, headers: dict[str, str], base_url: str
) -> None:
    async with running(with_cdn(settings, base_url)) as app, client_of(app) as client:
        uploaded = await client.put(
            "/v1/users/me/avatar", content=written(quarters()), headers=headers
        )
        url = uploaded.json()["url"]
        assert url.startswith(f"{CDN}/v1/avatars/")
        assert await avatar_url(client, owner) == url
        # The CDN fetches it from this service.
        assert (await client.get(url.removeprefix(CDN))).status_code == 200


async def test_urls_of_all_users_follow_the_setting(
    client: Client,
    resources: ProcessResources,
    settings: Settings,
    make: AvatarFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "MOST_URLS", 2)  # so that there are several batches
    users = [await make.user() for _ in range(5)]
    paths = [f"/v1/avatars/{await make.avatar(user)}.webp" for user in users]
    without = await make.user()
    for base_url in (CDN, "https://other.example.com", None):
        await correct_urls(resources, with_cdn(settings, base_url))
        # These pages are cached from the first round on.
        shown = [await avatar_url(client, user) for user in users]
        assert shown == [f"{base_url or ''}{path}" for path in paths]
        assert await avatar_url(client, without) is None


async def test_corrected_url_is_no_change_of_the_account(
    resources: ProcessResources, settings: Settings, make: AvatarFactory, owner: User
) -> None:
    changed = text("SELECT updated_at FROM users WHERE id = :id")
    await make.avatar(owner)
    async with resources.database.read() as session:
        before = await session.scalar(changed, {"id": owner.id})
    await correct_urls(resources, with_cdn(settings, CDN))
    async with resources.database.read() as session:
        assert await session.scalar(changed, {"id": owner.id}) == before


@pytest.mark.parametrize("base_url", ["cdn.example.com", f"{CDN}?size=1", f"{CDN}#a", "ftp://a"])
def test_base_url_that_cannot_work_is_refused(base_url: str) -> None:
    with pytest.raises(ValidationError):
        AvatarSettings(base_url=base_url)
