"""A draft is published when its date has come."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from sqlalchemy import text

from app.features.drafts import service
from app.features.drafts.models import Draft, DraftStatus
from app.features.users.models import User
from app.infra.jobs.enqueue import enqueue, enqueue_missing
from app.infra.resources import ProcessResources
from tests.features.drafts.factory import DraftFactory
from tests.jobs import queued, run_jobs

Client = httpx2.AsyncClient
Headers = dict[str, str]

TODAY = datetime.now(UTC).date()
TOMORROW = TODAY + timedelta(days=1)
DUE_PLAN = (
    "EXPLAIN SELECT id FROM drafts WHERE status = 'scheduled' AND publish_on <= '2026-01-01' "
    "AND (publish_on, id) > ('2025-01-01', 7) ORDER BY publish_on, id LIMIT 1000"
)


async def schedule(make: DraftFactory, owner: User, **values: object) -> Draft:
    values = {"status": DraftStatus.SCHEDULED, "publish_on": TODAY, **values}
    return await make.draft(owner, **values)


async def publish_due(resources: ProcessResources) -> list[str]:
    """Run the job that looks for due drafts, and the jobs that it adds."""
    async with resources.database.transaction() as session:
        await enqueue(session, "drafts.publish_due")
    done = await run_jobs(resources)
    async with resources.database.transaction() as session:  # the next run, in a minute
        await session.execute(text("DELETE FROM pgqueuer WHERE entrypoint = 'drafts.publish_due'"))
    return done


async def hold_due(resources: ProcessResources) -> None:
    """Add the jobs of all due drafts, and hold them as if they had failed too often."""
    async with resources.database.transaction() as session:
        async for due in service.due_drafts(session):
            await enqueue_missing(session, "drafts.publish", "draft_id", due)
        await session.execute(text("UPDATE pgqueuer SET status = 'failed'"))


async def disable(resources: ProcessResources, user: User, disabled: bool) -> None:
    async with resources.database.transaction() as session:
        statement = text("UPDATE users SET disabled = :disabled WHERE id = :id")
        await session.execute(statement, {"disabled": disabled, "id": user.id})


async def titles(client: Client) -> list[str]:
    return [post["title"] for post in (await client.get("/v1/posts")).json()["items"]]


async def test_due_draft_of_a_disabled_account_waits(
    client: Client, make: DraftFactory, owner: User, resources: ProcessResources
) -> None:
    await schedule(make, owner, title="Due")
    await disable(resources, owner, True)
    await publish_due(resources)
    assert await titles(client) == []
    await disable(resources, owner, False)
    await publish_due(resources)
    assert await titles(client) == ["Due"]


async def test_due_draft_is_published_once(
    client: Client, make: DraftFactory, owner: User, headers: Headers, resources: ProcessResources
) -> None:
    draft = await schedule(make, owner, title="Due")
    await schedule(make, owner, title="Later", publish_on=TOMORROW)
    await make.draft(owner, title="Without a date")
    assert await titles(client) == []  # cached from now on
    assert await publish_due(resources) == ["drafts.publish_due", "drafts.publish"]
    assert await publish_due(resources) == ["drafts.publish_due"]
    assert await titles(client) == ["Due"]
    published = (await client.get(f"/v1/drafts/{draft.id}", headers=headers)).json()
    assert (published["status"], published["version"]) == ("published", 2)
    post = (await client.get(f"/v1/posts/{published['post_id']}")).json()
    assert post["author"]["id"] == owner.id


async def test_several_workers_publish_each_draft_once(
    client: Client, make: DraftFactory, owner: User, resources: ProcessResources
) -> None:
    for number in range(20):
        await schedule(make, owner, title=f"Due {number}")
    async with resources.database.transaction() as session:
        await enqueue(session, "drafts.publish_due")
        await enqueue(session, "drafts.publish_due")
    await asyncio.gather(*(run_jobs(resources) for _ in range(4)))
    await run_jobs(resources)
    assert sorted(await titles(client)) == sorted(f"Due {number}" for number in range(20))


@pytest.mark.parametrize("change", ["postpone", "delete", "publish"])
async def test_draft_that_is_changed_in_time_is_not_published_by_the_job(
    client: Client,
    make: DraftFactory,
    owner: User,
    headers: Headers,
    resources: ProcessResources,
    change: str,
) -> None:
    draft = await schedule(make, owner, title="Due")
    async with resources.database.transaction() as session:
        await enqueue(session, "drafts.publish", draft_id=draft.id)
    url = f"/v1/drafts/{draft.id}"
    match change:
        case "postpone":
            await client.patch(url, json={"publish_on": str(TOMORROW)}, headers=headers)
        case "delete":
            await client.delete(url, headers=headers)
        case "publish":
            await client.post(f"{url}/publish", headers=headers)
    assert await run_jobs(resources) == ["drafts.publish"]
    assert await titles(client) == (["Due"] if change == "publish" else [])


async def test_held_job_of_a_draft_gets_no_second_one(
    make: DraftFactory, owner: User, resources: ProcessResources
) -> None:
    await schedule(make, owner)
    await publish_due(resources)
    await schedule(make, owner)
    async with resources.database.transaction() as session:
        await enqueue(session, "drafts.publish", unique=2, draft_id=2)
        await session.execute(text("UPDATE pgqueuer SET status = 'failed'"))
    await publish_due(resources)
    assert await queued(resources) == [("drafts.publish", "failed")]


async def test_drafts_that_cannot_be_published_do_not_hide_later_ones(
    client: Client,
    make: DraftFactory,
    owner: User,
    resources: ProcessResources,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "DUE_PAGE_SIZE", 2)
    for number in range(5):
        await schedule(make, owner, title=f"Held {number}", publish_on=TODAY - timedelta(days=1))
    await hold_due(resources)
    disabled = await make.user()
    for number in range(5):
        await schedule(make, disabled, title=f"Disabled {number}")
    await disable(resources, disabled, True)
    for number in range(5):
        await schedule(make, owner, title=f"Due {number}")
    done = await publish_due(resources)
    assert done == ["drafts.publish_due", *["drafts.publish"] * 5]
    assert sorted(await titles(client)) == [f"Due {number}" for number in range(5)]


async def test_due_drafts_are_found_by_an_index(resources: ProcessResources) -> None:
    async with resources.database.transaction() as session:
        await session.execute(text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(await session.scalars(text(DUE_PLAN)))
    assert "ix_drafts_publish_on_id" in plan
