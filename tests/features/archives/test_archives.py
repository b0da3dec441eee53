"""A user asks for an archive, a job makes it, and the user downloads it."""

import asyncio
import hashlib
import json
import logging
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any
from zipfile import ZipFile

import httpx2
import pytest
from sqlalchemy import text

from app.errors import Unavailable
from app.features.archives import queries, service
from app.features.users.models import User
from app.infra.jobs.enqueue import enqueue
from app.infra.resources import ProcessResources
from app.infra.storage.store import ObjectStore
from app.infra.storage.stored_objects import delete_unreferenced
from tests.features.archives.factory import ArchiveFactory
from tests.features.avatars.factory import AvatarFactory
from tests.jobs import queued, run_jobs

Client = httpx2.AsyncClient
Headers = dict[str, str]


async def ask(client: Client, headers: Headers) -> str:
    """Ask for an archive, and return its address."""
    response = await client.post("/v1/archives", headers=headers)
    assert response.status_code == 202, response.text
    state = response.json()
    assert state == {"id": state["id"], "status": "queued", "progress": 0, "url": None}
    location: str = response.headers["location"]
    assert location == f"/v1/archives/{state['id']}"
    return location


def lines(archive: ZipFile, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in archive.read(name).splitlines()]


async def test_archive_contains_what_the_user_has_written(
    client: Client, make: ArchiveFactory, owner: User, headers: Headers, resources: ProcessResources
) -> None:
    picture = b"the picture"
    await AvatarFactory(resources).avatar(owner, picture)
    posts = [await make.post(owner, title=f"Post {n} “é”") for n in range(230)]
    comments = [await make.comment(posts[0], owner, body=f"Comment {n}") for n in range(110)]
    await make.comment(posts[0])
    location = await ask(client, headers)
    assert await run_jobs(resources) == ["archives.build"]
    state = (await client.get(location, headers=headers)).json()
    assert (state["status"], state["progress"]) == ("done", 100)
    response = await client.get(state["url"], headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/zip")
    assert response.headers["content-disposition"].startswith('attachment; filename="archive-')
    assert response.headers["cache-control"] == "private, no-store"
    digest = hashlib.sha256(response.content).hexdigest()
    assert response.headers["etag"] == f'"{digest[:32]}"'
    archive = ZipFile(BytesIO(response.content))
    assert archive.testzip() is None
    assert archive.namelist() == ["profile.json", "avatar.webp", "posts.jsonl", "comments.jsonl"]
    profile = json.loads(archive.read("profile.json"))
    assert (profile["email"], profile["name"]) == ("ann@example.com", "Ann")
    assert "password_hash" not in profile
    assert archive.read("avatar.webp") == picture
    assert [post["id"] for post in lines(archive, "posts.jsonl")] == [post.id for post in posts]
    assert lines(archive, "posts.jsonl")[7]["title"] == "Post 7 “é”"
    found = [comment["body"] for comment in lines(archive, "comments.jsonl")]
    assert found == [comment.body for comment in comments]


async def test_archive_of_somebody_who_has_written_nothing(
    client: Client, owner: User, headers: Headers, resources: ProcessResources
) -> None:
    location = await ask(client, headers)
    await run_jobs(resources)
    response = await client.get(f"{location}/download", headers=headers)
    archive = ZipFile(BytesIO(response.content))
    assert archive.namelist() == ["profile.json", "posts.jsonl", "comments.jsonl"]
    assert archive.read("posts.jsonl") == b""


async def test_download_is_resumed(
    client: Client, make: ArchiveFactory, owner: User, headers: Headers
) -> None:
    archive = await make.archive(owner, b"0123456789")
    url = f"/v1/archives/{archive.id}/download"
    first = await client.get(url, headers={**headers, "Range": "bytes=0-3"})
    rest = {**headers, "Range": "bytes=4-", "If-Range": first.headers["etag"]}
    second = await client.get(url, headers=rest)
    assert (first.status_code, second.status_code) == (206, 206)
    assert first.content + second.content == b"0123456789"


async def test_download_holds_no_connection_while_the_store_is_asked(
    client: Client,
    make: ArchiveFactory,
    owner: User,
    headers: Headers,
    resources: ProcessResources,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def size(objects: ObjectStore, key: str) -> int | None:
        taken.append(resources.database.engine.pool.checkedout())  # type: ignore[attr-defined]
        return await size_of(objects, key)

    taken: list[int] = []
    archive = await make.archive(owner, b"0123456789")
    size_of = ObjectStore.size
    monkeypatch.setattr(ObjectStore, "size", size)
    response = await client.get(f"/v1/archives/{archive.id}/download", headers=headers)
    assert (response.content, taken) == (b"0123456789", [0])


async def test_nobody_else_finds_an_archive(
    client: Client, make: ArchiveFactory, owner: User
) -> None:
    archive = await make.archive(owner)
    others = make.headers(await make.user())
    for url in (f"/v1/archives/{archive.id}", f"/v1/archives/{archive.id}/download"):
        assert (await client.get(url, headers=others)).status_code == 404
        assert (await client.get(url)).status_code == 401


async def test_one_archive_is_made_at_a_time(
    client: Client, headers: Headers, resources: ProcessResources
) -> None:
    answers = await asyncio.gather(*(client.post("/v1/archives", headers=headers) for _ in "1234"))
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["code"] == "archive_in_progress"
    assert int(refused.headers["retry-after"]) > 0
    assert await queued(resources) == [("archives.build", "queued")]


async def test_without_a_store_no_archive_is_begun(
    owner: User, make: ArchiveFactory, resources: ProcessResources
) -> None:
    caller = await make.caller(owner)
    with pytest.raises(Unavailable, match="no store for files"):
        async with resources.database.transaction() as session:
            await service.create_archive(session, ObjectStore(None, 1), caller)
    assert await queued(resources) == []


async def test_one_archive_is_made_in_a_day(
    client: Client, make: ArchiveFactory, owner: User, headers: Headers, resources: ProcessResources
) -> None:
    location = await ask(client, headers)
    await run_jobs(resources)
    refused = await client.post("/v1/archives", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 86_000 < int(refused.headers["retry-after"]) <= 86_400
    async with resources.database.transaction() as session:
        await session.execute(text("UPDATE archives SET created_at = now() - interval '24 hours'"))
    assert await ask(client, headers) != location


async def test_download_before_the_archive_is_done(client: Client, headers: Headers) -> None:
    location = await ask(client, headers)
    response = await client.get(f"{location}/download", headers=headers)
    assert (response.status_code, response.json()["code"]) == (409, "archive_not_done")


async def clean_up(resources: ProcessResources) -> None:
    """Run the jobs that delete archives and files."""
    async with resources.database.transaction() as session:
        await enqueue(session, "archives.clean_up")
    await run_jobs(resources)
    async with resources.database.transaction() as session:
        await session.execute(text("DELETE FROM pgqueuer WHERE entrypoint = 'archives.clean_up'"))
        soon = "UPDATE stored_objects SET check_at = now() WHERE check_at > now()"
        await session.execute(text(soon))
    await delete_unreferenced(resources.database, resources.objects)


async def test_archive_expires(
    client: Client, make: ArchiveFactory, owner: User, headers: Headers, resources: ProcessResources
) -> None:
    kept = await make.archive(owner, key="archives/kept.zip")
    old = await make.archive(owner, key="archives/old.zip", expires_at=datetime.now(UTC))
    for url in (f"/v1/archives/{old.id}", f"/v1/archives/{old.id}/download"):
        assert (await client.get(url, headers=headers)).status_code == 404
    await clean_up(resources)
    assert await resources.objects.size("archives/old.zip") is None
    response = await client.get(f"/v1/archives/{kept.id}/download", headers=headers)
    assert response.status_code == 200


async def test_deleted_account_leaves_no_archive(
    client: Client, make: ArchiveFactory, owner: User, headers: Headers, resources: ProcessResources
) -> None:
    archive = await make.archive(owner)
    assert archive.key is not None
    await ask(client, headers)
    assert (await client.delete("/v1/users/me", headers=headers)).status_code == 204
    assert await queued(resources) == []
    await clean_up(resources)
    assert await resources.objects.size(archive.key) is None


async def test_account_that_is_deleted_meanwhile_gets_no_archive(
    client: Client,
    owner: User,
    headers: Headers,
    resources: ProcessResources,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its job ends without an error: nobody has to look at it."""
    await ask(client, headers)
    write_profile = service._write_profile

    async def delete_account(*arguments: Any) -> None:
        await write_profile(*arguments)
        await client.delete("/v1/users/me", headers=headers)

    monkeypatch.setattr(service, "_write_profile", delete_account)
    await run_jobs(resources)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "or it was discarded, for example with its account" in caplog.text
    assert await queued(resources) == []
    await clean_up(resources)
    async with resources.database.read() as session:
        counts = "SELECT (SELECT count(*) FROM archives) + (SELECT count(*) FROM stored_objects)"
        assert await session.scalar(text(counts)) == 0


async def test_archive_fails_when_its_job_is_held_and_does_not_count(
    client: Client, headers: Headers, resources: ProcessResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = await ask(client, headers)

    async def fail(*_: Any) -> None:
        raise Unavailable("This was raised on purpose.")

    with monkeypatch.context() as patch:
        patch.setattr(service, "_write_profile", fail)
        for statuses in (("running", "queued"), ("running", "queued"), ("failed",)):
            assert await run_jobs(resources) == ["archives.build"]
            await clean_up(resources)
            state = (await client.get(location, headers=headers)).json()
            assert state["status"] in statuses
            async with resources.database.transaction() as session:
                await session.execute(text("UPDATE pgqueuer SET execute_after = now()"))
    assert state["url"] is None
    assert await ask(client, headers) != location
    async with resources.database.transaction() as session:
        expire = "UPDATE archives SET expires_at = now() WHERE status = 'failed'"
        kept = "SELECT expires_at - now() FROM archives WHERE status = 'failed'"
        assert timedelta(days=6) < await session.scalar(text(kept)) < timedelta(days=7)
        await session.execute(text(expire))
    await clean_up(resources)
    assert (await client.get(location, headers=headers)).status_code == 404


async def test_progress_is_shown_while_the_archive_is_made(
    client: Client,
    make: ArchiveFactory,
    owner: User,
    headers: Headers,
    resources: ProcessResources,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for _ in range(250):
        await make.post(owner)
    location, seen = await ask(client, headers), []

    async def look(*arguments: Any) -> queries.Rows:
        seen.append((await client.get(location, headers=headers)).json())
        return await queries.list_posts(*arguments)

    monkeypatch.setitem(service.FILES, "posts.jsonl", look)
    await run_jobs(resources)
    assert {state["status"] for state in seen} == {"running"}
    progress = [state["progress"] for state in seen]
    assert progress == sorted(progress)
    assert progress[0] == 0 < progress[-1] < 100


async def test_delivery_that_was_thought_to_be_dead_does_no_harm(
    client: Client,
    make: ArchiveFactory,
    owner: User,
    headers: Headers,
    resources: ProcessResources,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While one worker makes the archive, another one takes over and finishes."""
    post = await make.post(owner)
    location = await ask(client, headers)
    write_profile = service._write_profile

    async def be_overtaken(*arguments: Any) -> None:
        monkeypatch.setattr(service, "_write_profile", write_profile)
        await write_profile(*arguments)
        async with resources.database.transaction() as session:
            old = "UPDATE pgqueuer SET heartbeat = now() - interval '1 hour'"
            await session.execute(text(old))
        assert await run_jobs(resources) == ["archives.build"]

    monkeypatch.setattr(service, "_write_profile", be_overtaken)
    await run_jobs(resources)
    await clean_up(resources)
    state = (await client.get(location, headers=headers)).json()
    assert state["status"] == "done"
    download = await client.get(state["url"], headers=headers)
    archive = ZipFile(BytesIO(download.content))
    assert [one["id"] for one in lines(archive, "posts.jsonl")] == [post.id]
    async with resources.database.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM stored_objects")) == 1
