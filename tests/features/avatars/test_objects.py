"""Files that nobody needs are deleted, and no other ones."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx2
import pytest
from sqlalchemy import text

from app.errors import Unavailable
from app.features.avatars import service
from app.features.avatars.service import object_key
from app.features.users.models import User
from app.infra.process_pool import ProcessPool
from app.infra.resources import ProcessResources
from app.infra.storage.store import ObjectStore
from app.infra.storage.stored_objects import (
    FAILURES_TO_STOP,
    delete_unreferenced,
    refer,
    reserve,
)
from tests.features.avatars.factory import AvatarFactory
from tests.features.avatars.pictures import quarters, written

Client = httpx2.AsyncClient
Headers = dict[str, str]

ME = "/v1/users/me/avatar"


async def clean_up(resources: ProcessResources) -> None:
    """Run the job that deletes files, as if all requests had ended long ago."""
    async with resources.database.transaction() as session:
        soon = "UPDATE stored_objects SET check_at = now() WHERE check_at > now()"
        await session.execute(text(soon))
    await delete_unreferenced(resources.database, resources.objects)


async def exists(resources: ProcessResources, digest: str) -> bool:
    return await resources.objects.size(object_key(digest)) is not None


async def test_replaced_picture_is_deleted(
    client: Client, make: AvatarFactory, owner: User, headers: Headers, resources: ProcessResources
) -> None:
    digest = await make.avatar(owner)
    await clean_up(resources)  # from now on, the job looks at the file only when it is released
    response = await client.put(ME, content=written(quarters()), headers=headers)
    await clean_up(resources)
    assert not await exists(resources, digest)
    assert (await client.get(f"/v1/avatars/{digest}.webp")).status_code == 404
    assert (await client.get(response.json()["url"])).status_code == 200


@pytest.mark.parametrize("method", ["DELETE /v1/users/me/avatar", "DELETE /v1/users/me"])
async def test_shared_picture_stays_while_somebody_has_it(
    client: Client, make: AvatarFactory, resources: ProcessResources, method: str
) -> None:
    content = b"a picture of all that end by " + method.encode()
    users = [await make.user() for _ in range(3)]
    [digest] = {await make.avatar(user, content) for user in users}
    for user in users:
        await clean_up(resources)
        assert await exists(resources, digest)
        response = await client.request(*method.split(), headers=make.headers(user))
        assert response.status_code == 204
    await clean_up(resources)
    assert not await exists(resources, digest)
    async with resources.database.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM stored_objects")) == 0


async def test_deleted_account_shows_no_picture(
    client: Client, make: AvatarFactory, owner: User, headers: Headers
) -> None:
    await make.avatar(owner)
    await client.delete("/v1/users/me", headers=headers)
    assert (await client.get(f"/v1/users/{owner.id}")).json()["avatar_url"] is None


async def test_file_whose_request_fails_is_deleted_later(
    make: AvatarFactory, resources: ProcessResources
) -> None:
    await reserve(resources.database, object_key("failed"), 3_600)
    await resources.objects.put(object_key("failed"), b"x")
    await delete_unreferenced(resources.database, resources.objects)
    assert await exists(resources, "failed")  # the request could still commit
    await clean_up(resources)
    assert not await exists(resources, "failed")


async def test_file_is_not_deleted_while_a_request_begins_to_refer_to_it(
    make: AvatarFactory, owner: User, resources: ProcessResources
) -> None:
    digest = await make.avatar(owner)
    async with resources.database.transaction() as session:
        await service.delete_avatar(session, owner)
    object_id = await reserve(resources.database, object_key(digest), -1)
    async with resources.database.transaction() as session:
        await refer(session, object_id)
        await delete_unreferenced(resources.database, resources.objects)
        assert await exists(resources, digest)


async def test_request_that_is_too_late_is_refused(
    make: AvatarFactory, owner: User, resources: ProcessResources
) -> None:
    object_id = await reserve(resources.database, object_key("late"), -1)
    await delete_unreferenced(resources.database, resources.objects)
    with pytest.raises(Unavailable):
        async with resources.database.transaction() as session:
            await refer(session, object_id)


class SlowDeletion:
    """A call of the store that deletes nothing until `go_on` is set."""

    def __init__(self, resources: ProcessResources, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.go_on = asyncio.Event(), asyncio.Event()
        self._delete = resources.objects.delete
        monkeypatch.setattr(resources.objects, "delete", self._wait_and_delete)
        running = delete_unreferenced(resources.database, resources.objects)
        self.task = asyncio.create_task(running)

    async def _wait_and_delete(self, key: str) -> None:
        self.began.set()
        await self.go_on.wait()
        await self._delete(key)


@pytest.fixture
async def slow_deletion(
    make: AvatarFactory, resources: ProcessResources, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SlowDeletion]:
    """The job while it deletes the file `old`, which nobody needs any more."""
    await reserve(resources.database, object_key("old"), -1)
    await resources.objects.put(object_key("old"), b"before")
    deletion = SlowDeletion(resources, monkeypatch)
    await deletion.began.wait()
    yield deletion
    deletion.task.cancel()


async def test_no_connection_is_held_while_the_store_deletes(
    slow_deletion: SlowDeletion, resources: ProcessResources
) -> None:
    assert resources.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_file_that_is_being_deleted_is_stored_again_after_that(
    slow_deletion: SlowDeletion, resources: ProcessResources
) -> None:
    reserving = asyncio.create_task(reserve(resources.database, object_key("old"), 60))
    await asyncio.sleep(0.2)
    assert not reserving.done()
    slow_deletion.go_on.set()
    object_id = await reserving
    assert not await exists(resources, "old")
    await resources.objects.put(object_key("old"), b"again")
    await slow_deletion.task
    async with resources.database.transaction() as session:
        await refer(session, object_id)
    assert await exists(resources, "old")


async def test_file_that_is_being_deleted_cannot_be_referred_to(
    slow_deletion: SlowDeletion, resources: ProcessResources
) -> None:
    async with resources.database.read() as session:
        object_id = await session.scalar(text("SELECT id FROM stored_objects"))
    with pytest.raises(Unavailable):
        async with resources.database.transaction() as session:
            await refer(session, object_id)


async def test_deletion_whose_process_dies_is_done_by_the_next_run(
    slow_deletion: SlowDeletion, resources: ProcessResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then, nobody can store the file: the process could be alive, and delete it."""
    monkeypatch.setattr("app.infra.storage.stored_objects.WAIT_SECONDS", 0.1)
    slow_deletion.task.cancel()
    with pytest.raises(Unavailable, match="being deleted"):
        await reserve(resources.database, object_key("old"), 60)
    slow_deletion.go_on.set()
    await clean_up(resources)
    assert not await exists(resources, "old")
    assert await reserve(resources.database, object_key("old"), 60)


async def test_deletion_that_took_too_long_does_not_delete_the_row_of_a_new_file(
    slow_deletion: SlowDeletion, resources: ProcessResources
) -> None:
    async with resources.database.transaction() as session:
        past = "UPDATE stored_objects SET deleting_until = now() - interval '1 second'"
        await session.execute(text(past))
    object_id = await reserve(resources.database, object_key("old"), 60)
    slow_deletion.go_on.set()
    await slow_deletion.task
    async with resources.database.transaction() as session:
        await refer(session, object_id)


async def test_without_a_store_an_upload_is_refused_at_once(
    make: AvatarFactory, owner: User, resources: ProcessResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No picture is decoded, and the job for files waits for a store."""

    async def run(*_: object) -> None:
        raise AssertionError("A picture was decoded.")

    await make.avatar(owner)
    async with resources.database.transaction() as session:
        await service.delete_avatar(session, owner)
        await session.execute(text("UPDATE stored_objects SET check_at = now()"))
    without = replace(resources, objects=ObjectStore(None, 1))
    monkeypatch.setattr(ProcessPool, "run", run)
    processes = ProcessPool(1, queue=1, queue_seconds=1, seconds=1, memory_bytes=1)
    with pytest.raises(Unavailable, match="no store for files"):
        await service.store_picture(without, processes, service.read_file(written(quarters())))
    await delete_unreferenced(without.database, without.objects)
    async with resources.database.read() as session:
        waiting = "SELECT count(*) FROM stored_objects WHERE check_at <= now()"
        assert await session.scalar(text(waiting)) == 1


@pytest.mark.slow
async def test_upload_of_a_picture_that_is_being_deleted_is_kept(
    client: Client, make: AvatarFactory, resources: ProcessResources
) -> None:
    """Users upload and remove one picture again and again, while the job deletes."""
    content, stopped = written(quarters()), asyncio.Event()

    async def delete() -> None:
        while not stopped.is_set():
            await delete_unreferenced(resources.database, resources.objects)
            await asyncio.sleep(0)

    async def change() -> None:
        headers = make.headers(await make.user())
        for _ in range(15):
            response = await client.put(ME, content=content, headers=headers)
            assert response.status_code == 200, response.text
            assert (await client.get(response.json()["url"])).status_code == 200
            async with resources.database.transaction() as session:
                await session.execute(text("UPDATE stored_objects SET check_at = now()"))
            await client.delete(ME, headers=headers)

    deleting = asyncio.create_task(delete())
    await asyncio.gather(*(change() for _ in range(4)))
    stopped.set()
    await deleting


async def delete_own_avatars(make: AvatarFactory, resources: ProcessResources) -> list[str]:
    """Give avatars to a few users, and remove them. Return their hashes."""
    digests = []
    for _ in range(5):
        user = await make.user()
        digests.append(await make.avatar(user))
        async with resources.database.transaction() as session:
            await service.delete_avatar(session, user)
    return digests


async def test_store_that_fails_keeps_the_rows_for_a_later_run(
    make: AvatarFactory, resources: ProcessResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = await delete_own_avatars(make, resources)
    tried = []

    async def fail(key: str) -> None:
        tried.append(key)
        raise Unavailable("The store is away.")

    with monkeypatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(resources.objects, "delete", fail)
        await clean_up(resources)
    assert len(tried) == FAILURES_TO_STOP  # a store that is away is not asked for each file
    await clean_up(resources)
    assert not any([await exists(resources, digest) for digest in digests])


async def test_file_that_cannot_be_deleted_does_not_keep_the_others(
    make: AvatarFactory, resources: ProcessResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = await delete_own_avatars(make, resources)
    delete, tried = resources.objects.delete, []

    async def fail_for_first(key: str) -> None:
        tried.append(key)
        if key == object_key(first):
            raise Unavailable("The store refuses this one.")
        await delete(key)

    with monkeypatch.context() as patch:
        patch.setattr(resources.objects, "delete", fail_for_first)
        await clean_up(resources)
        await delete_unreferenced(resources.database, resources.objects)
    assert tried.count(object_key(first)) == 1  # the next run leaves it alone
    assert await exists(resources, first)
    assert not any([await exists(resources, digest) for digest in others])
    await clean_up(resources)
    assert not await exists(resources, first)
