"""Drafts are deleted with the account of their owner."""

import asyncio

import httpx2
from sqlalchemy import text

from app.features.drafts import service
from app.features.drafts.schemas import DraftCreate
from app.features.users import service as users
from app.features.users.models import User
from app.infra.resources import ProcessResources
from tests.features.drafts.factory import DraftFactory
from tests.locks import waits_for_a_lock

Client = httpx2.AsyncClient
Headers = dict[str, str]

NEW = {"title": "T", "body": "B"}


async def owners(resources: ProcessResources) -> list[int]:
    """Return the owner of each draft in the database."""
    async with resources.database.read() as session:
        return list(await session.scalars(text("SELECT owner_id FROM drafts ORDER BY id")))


async def test_deleted_account_leaves_no_draft(
    client: Client, make: DraftFactory, resources: ProcessResources, owner: User, headers: Headers
) -> None:
    kept = await make.draft()
    await make.drafts(3, owner)
    assert (await client.delete("/v1/users/me", headers=headers)).status_code == 204
    assert await owners(resources) == [kept.owner_id]


async def test_deletion_waits_for_a_draft_that_is_being_created(
    client: Client, resources: ProcessResources, make: DraftFactory, owner: User, headers: Headers
) -> None:
    caller = await make.caller(owner)
    async with resources.database.transaction() as session:
        await service.create_draft(session, caller, DraftCreate.model_validate(NEW))
        deletion = asyncio.create_task(client.delete("/v1/users/me", headers=headers))
        await waits_for_a_lock(resources)
    assert (await deletion).status_code == 204
    assert await owners(resources) == []


async def test_draft_cannot_be_created_while_its_owner_is_deleted(
    client: Client, resources: ProcessResources, owner: User, headers: Headers
) -> None:
    await client.get("/v1/drafts", headers=headers)  # the caller is cached from now on
    async with resources.database.transaction() as session:
        await users.delete_user(session, owner)
        creation = asyncio.create_task(client.post("/v1/drafts", json=NEW, headers=headers))
        await waits_for_a_lock(resources)
    assert (await creation).status_code == 401
    assert await owners(resources) == []
