"""Every address that an account had is told of the change, and the newest one can be verified."""

import asyncio
from collections import Counter

import httpx2
import pytest

from app.features.users.models import User
from app.infra.jobs.enqueue import enqueue
from app.infra.resources import ProcessResources
from app.infra.security.passwords import PasswordMatch
from tests.features.account_mails.inbox import Inbox
from tests.features.users.factory import PASSWORD, UserFactory
from tests.jobs import queued

Client = httpx2.AsyncClient

CHANGED = "The e-mail address of your account was changed"
CONFIRM = "Please confirm your e-mail address"


async def change(client: Client, make: UserFactory, user: User, email: str) -> httpx2.Response:
    body = {"email": email, "current_password": PASSWORD}
    return await client.patch("/v1/users/me", json=body, headers=make.headers(user))


async def received(inbox: Inbox, subject: str) -> Counter[str]:
    return Counter(mail["To"] for mail in await inbox.receive() if mail["Subject"] == subject)


@pytest.mark.parametrize("is_slow", [False, True])
async def test_every_former_address_is_told_once_and_the_newest_one_can_be_verified(
    client: Client, inbox: Inbox, make: UserFactory, *, is_slow: bool
) -> None:
    """The job worker runs the jobs after each change, or all of them after the last one."""
    user = await make.user(email="a@example.com", verified=True)
    for email in ("b@example.com", "c@example.com", "d@example.com"):
        assert (await change(client, make, user, email)).status_code == 200
        if not is_slow:
            await inbox.receive()
    told = await received(inbox, CHANGED)
    assert told == {"a@example.com": 1, "b@example.com": 1, "c@example.com": 1}
    assert (await received(inbox, CONFIRM))["d@example.com"] == 1
    token = await inbox.token("d@example.com", "verify-email")
    verified = await client.post("/v1/auth/verification", json={"token": token})
    assert verified.status_code == 204
    me = (await client.get("/v1/users/me", headers=make.headers(user))).json()
    assert (me["email"], me["verified"]) == ("d@example.com", True)


async def test_address_that_today_is_refused_can_be_replaced(
    client: Client, inbox: Inbox, make: UserFactory
) -> None:
    """It was stored before today's rules. It gets no mail, which could reach another mailbox."""
    user = await make.user(email="=?utf-8?q?ann?=@example.com")
    assert (await change(client, make, user, "a@example.com")).status_code == 200
    assert await received(inbox, CHANGED) == {}
    assert await received(inbox, CONFIRM) == {"a@example.com": 1}


async def test_one_address_gets_one_such_mail_in_a_minute(
    client: Client, inbox: Inbox, make: UserFactory
) -> None:
    user = await make.user(email="a@example.com")
    for email in ("b@example.com", "a@example.com", "b@example.com", "a@example.com"):
        assert (await change(client, make, user, email)).status_code == 200
        await inbox.receive()
    once = {"a@example.com": 1, "b@example.com": 1}
    assert await received(inbox, CHANGED) == once
    assert await received(inbox, CONFIRM) == once


async def test_address_that_was_verified_a_moment_ago_can_be_verified_again(
    client: Client, inbox: Inbox, make: UserFactory
) -> None:
    user = await make.user(email="a@example.com", verified=True)
    for email in ("b@example.com", "a@example.com", "b@example.com"):
        assert (await change(client, make, user, email)).status_code == 200
        token = await inbox.token(email, "verify-email")
        verified = await client.post("/v1/auth/verification", json={"token": token})
        assert verified.status_code == 204, email


async def test_concurrent_changes_leave_no_former_address_untold(
    client: Client,
    inbox: Inbox,
    make: UserFactory,
    resources: ProcessResources,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user = await make.user(email="a@example.com")
    both = asyncio.Barrier(2)
    verify = resources.passwords.verify

    async def verify_together(password: str, encoded: str | None) -> PasswordMatch:
        match = await verify(password, encoded)
        await asyncio.wait_for(both.wait(), 60)  # both requests have read the account
        return match

    monkeypatch.setattr(resources.passwords, "verify", verify_together)
    new = ("b@example.com", "c@example.com")
    responses = await asyncio.gather(*(change(client, make, user, email) for email in new))
    assert sorted(response.status_code for response in responses) == [200, 409]
    assert await received(inbox, CHANGED) == {"a@example.com": 1}


async def test_former_address_of_a_disabled_account_is_told(
    client: Client, inbox: Inbox, make: UserFactory
) -> None:
    user = await make.user(email="a@example.com")
    assert (await change(client, make, user, "b@example.com")).status_code == 200
    async with make.resources.database.transaction() as session:
        session.add(user)
        user.disabled = True
    assert await received(inbox, CHANGED) == {"a@example.com": 1}


async def test_next_owner_of_an_address_does_not_take_the_mails_of_the_former_one_along(
    client: Client, inbox: Inbox, make: UserFactory
) -> None:
    former = await make.user(email="a@example.com")
    assert (await change(client, make, former, "b@example.com")).status_code == 200
    owner = await make.user(email="a@example.com")
    deleted = await client.delete("/v1/users/me", headers=make.headers(owner))
    assert deleted.status_code == 204
    assert await received(inbox, CHANGED) == {"a@example.com": 1}


async def test_job_about_an_account_that_is_gone_ends_without_a_mail(
    inbox: Inbox, make: UserFactory
) -> None:
    async with make.resources.database.transaction() as session:
        await enqueue(session, "account_mails.send_verification", user_id=999)
        await enqueue(session, "account_mails.tell_old_address", user_id=999, email="a@example.com")
    assert await inbox.receive() == []
    assert await queued(make.resources) == []
