"""A new account verifies its address with the token of a mail, once."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import text, update

from app.features.account_mails import queries
from app.features.account_mails.models import Purpose
from app.features.users import service as users
from app.features.users.models import User
from app.features.users.schemas import UserCreate
from app.infra.jobs.enqueue import enqueue
from app.infra.resources import ProcessResources
from tests.features.account_mails.factory import MailFactory
from tests.features.account_mails.inbox import Inbox, text_of
from tests.features.users.factory import PASSWORD, UserFactory
from tests.jobs import queued, run_jobs

Client = httpx2.AsyncClient

ANN = {"email": "ann@example.com", "name": "Ann http://spam.example", "password": "correct horse"}
VERIFY = "verify-email"


async def verify(client: Client, token: str) -> httpx2.Response:
    return await client.post("/v1/auth/verification", json={"token": token})


async def is_verified(client: Client, headers: dict[str, str]) -> bool:
    me = (await client.get("/v1/users/me", headers=headers)).raise_for_status().json()
    return bool(me["verified"])


async def age_mails(resources: ProcessResources) -> None:
    """Let a minute pass since the mails so far."""
    async with resources.database.transaction() as session:
        await session.execute(
            text("UPDATE account_mails SET created_at = created_at - interval '1 minute'")
        )


async def test_registration_mails_a_link_that_verifies_the_address(
    client: Client, inbox: Inbox
) -> None:
    created = await client.post("/v1/users", json=ANN)
    assert created.json()["verified"] is False
    form = {"username": ANN["email"], "password": ANN["password"]}
    access_token = (await client.post("/v1/auth/token", data=form)).json()["access_token"]
    headers = {"Authorization": f"Bearer {access_token}"}
    token = await inbox.token("ann@example.com", VERIFY)
    [mail] = await inbox.receive()
    assert mail["Subject"] == "Welcome! Please confirm your e-mail address"
    assert "spam" not in text_of(mail)
    assert "you need not be logged in" in text_of(mail)
    assert "If it was not you, do not confirm it" in text_of(mail)
    assert f"http://127.0.0.1:8000/mailbox/verify-email#token={token}" in text_of(mail)
    assert (await verify(client, token)).status_code == 204
    assert await is_verified(client, headers)


async def test_link_does_not_contain_the_host_of_the_request(client: Client, inbox: Inbox) -> None:
    await client.post("/v1/users", json=ANN, headers={"Host": "evil.example"})
    [mail] = await inbox.receive()
    assert "evil" not in mail.as_string()


async def test_registration_that_is_rolled_back_mails_nothing(
    resources: ProcessResources, inbox: Inbox
) -> None:
    with pytest.raises(RuntimeError, match="undo"):
        async with resources.database.transaction() as session:
            await users.create_user(session, resources, UserCreate.model_validate(ANN))
            raise RuntimeError("undo")
    assert await queued(resources) == []
    assert await inbox.receive() == []


async def test_token_works_once(client: Client, inbox: Inbox, make: UserFactory) -> None:
    user = await make.user()
    await MailFactory(make.resources).mail(user, Purpose.VERIFICATION, token="once")
    responses = await asyncio.gather(*(verify(client, "once") for _ in range(5)))
    assert sorted(response.status_code for response in responses) == [204] + [401] * 4
    refused = await verify(client, "once")
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_token")


async def test_expired_foreign_and_tampered_tokens_are_refused(
    client: Client, make: UserFactory
) -> None:
    user, mails = await make.user(), MailFactory(make.resources)
    ago = timedelta(seconds=-1)
    await mails.mail(user, Purpose.VERIFICATION, token="expired", lifetime=ago)
    await mails.mail(user, Purpose.PASSWORD_RESET, token="for another purpose")
    await mails.mail(user, Purpose.VERIFICATION, token="right")
    for token in ("expired", "for another purpose", "righ", "right ", "Right"):
        response = await verify(client, token)
        assert (response.status_code, response.json()["code"]) == (401, "invalid_token"), token
    assert not await is_verified(client, make.headers(user))
    assert (await verify(client, "right")).status_code == 204


async def test_token_is_stored_as_a_hash(
    client: Client, inbox: Inbox, resources: ProcessResources
) -> None:
    await client.post("/v1/users", json=ANN)
    token = await inbox.token("ann@example.com", VERIFY)
    async with resources.database.read() as session:
        stored = (await session.execute(text("SELECT m::text FROM account_mails m"))).scalar_one()
        log = await session.execute(text("SELECT l::text FROM pgqueuer_log l"))
        assert token not in stored + "".join(log.scalars())


async def test_new_address_is_not_verified_and_the_old_one_gets_a_mail(
    client: Client, inbox: Inbox, make: UserFactory
) -> None:
    user = await make.user(email="old@example.com", verified=True)
    headers = make.headers(user)
    change = {"email": "new@example.com", "current_password": PASSWORD}
    changed = await client.patch("/v1/users/me", json=change, headers=headers)
    assert changed.json()["verified"] is False
    assert sorted(mail["To"] for mail in await inbox.receive()) == [
        "new@example.com",
        "old@example.com",
    ]
    token = await inbox.token("new@example.com", VERIFY)
    assert (await verify(client, token)).status_code == 204
    assert await is_verified(client, headers)


async def test_change_of_the_name_keeps_the_address_verified(
    client: Client, inbox: Inbox, make: UserFactory
) -> None:
    user = await make.user(verified=True)
    change = {"name": "Ann", "email": user.email, "current_password": PASSWORD}
    changed = await client.patch("/v1/users/me", json=change, headers=make.headers(user))
    assert changed.json()["verified"] is True
    assert await inbox.receive() == []


async def test_token_for_the_old_address_does_not_verify_the_new_one(
    client: Client, make: UserFactory
) -> None:
    user = await make.user()
    await MailFactory(make.resources).mail(user, Purpose.VERIFICATION, token="for the old one")
    headers = make.headers(user)
    change = {"email": "new@example.com", "current_password": PASSWORD}
    assert (await client.patch("/v1/users/me", json=change, headers=headers)).is_success
    assert (await verify(client, "for the old one")).status_code == 401
    assert not await is_verified(client, headers)


async def ask_again(client: Client, make: UserFactory, user: User) -> None:
    response = await client.post("/v1/users/me/verification", headers=make.headers(user))
    assert (response.status_code, response.content) == (202, b"")


async def test_account_gets_one_such_mail_in_a_minute(
    client: Client, inbox: Inbox, make: UserFactory
) -> None:
    user = await make.user()
    for _ in range(3):
        await ask_again(client, make, user)
    assert len(await inbox.receive()) == 1
    await ask_again(client, make, user)
    assert len(await inbox.receive()) == 1
    await age_mails(make.resources)
    await ask_again(client, make, user)
    assert len(await inbox.receive()) == 2


async def test_job_that_failed_after_its_token_was_stored_still_sends_the_mail(
    client: Client, inbox: Inbox, make: UserFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await make.user()
    await ask_again(client, make, user)
    with monkeypatch.context() as away:
        away.setattr(make.resources.mailer, "send", None)
        assert await inbox.receive() == []
    async with make.resources.database.transaction() as session:
        await session.execute(text("UPDATE pgqueuer SET execute_after = now()"))
    assert len(await inbox.receive()) == 1


async def test_verified_account_gets_no_mail(
    client: Client, inbox: Inbox, make: UserFactory
) -> None:
    await ask_again(client, make, await make.user(verified=True))
    assert await inbox.receive() == []


async def test_deleted_account_takes_its_tokens_and_its_waiting_mails_along(
    client: Client, make: UserFactory, inbox: Inbox
) -> None:
    user, other = await make.user(), await make.user()
    await MailFactory(make.resources).mail(user, Purpose.VERIFICATION, token="gone")
    for account in (user, other):
        await ask_again(client, make, account)
        reset = {"email": account.email.upper()}
        await client.post("/v1/auth/password-reset", json=reset)
    deleted = await client.delete("/v1/users/me", headers=make.headers(user))
    assert deleted.status_code == 204
    assert len(await queued(make.resources)) == 2
    assert {mail["To"] for mail in await inbox.receive()} == {other.email}
    assert (await verify(client, "gone")).status_code == 401


async def test_job_deletes_only_mails_that_have_expired(
    client: Client, make: UserFactory, resources: ProcessResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "EXPIRED_BATCH_SIZE", 2)
    user, mails = await make.user(), MailFactory(resources)
    for number in range(5):
        ago = timedelta(seconds=-1)
        await mails.mail(user, Purpose.VERIFICATION, token=f"expired {number}", lifetime=ago)
    await mails.mail(user, Purpose.VERIFICATION, token="valid")
    async with resources.database.transaction() as session:
        await enqueue(session, "account_mails.delete_expired")
    await run_jobs(resources)
    async with resources.database.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM account_mails")) == 1
    assert (await verify(client, "valid")).status_code == 204


async def test_token_is_refused_if_another_address_replaces_its_own_meanwhile(
    client: Client, make: UserFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await make.user()
    await MailFactory(make.resources).mail(user, Purpose.VERIFICATION, token="mailed")
    use_token = queries.use_token

    async def use_and_change(*arguments: Any) -> User | None:
        found = await use_token(*arguments)
        async with make.resources.database.transaction() as session:
            new = update(User).where(User.id == user.id).values(email="new@example.com")
            await session.execute(new)
        return found

    monkeypatch.setattr(queries, "use_token", use_and_change)
    assert (await verify(client, "mailed")).status_code == 401
    assert not await is_verified(client, make.headers(user))


async def test_tokens_are_valid_for_as_long_as_their_mails_say(
    client: Client, inbox: Inbox, make: UserFactory
) -> None:
    user = await make.user()
    await client.post("/v1/auth/password-reset", json={"email": user.email})
    await ask_again(client, make, user)
    said = {mail["Subject"]: text_of(mail) for mail in await inbox.receive()}
    assert "works once, for 30 minutes" in said["Choose a new password"]
    assert "works once, for two days" in said["Please confirm your e-mail address"]
    stored = text("SELECT purpose, expires_at - created_at AS lifetime FROM account_mails")
    async with make.resources.database.read() as session:
        lifetimes = {one.purpose: one.lifetime for one in await session.execute(stored)}
    assert lifetimes == {
        "password_reset": timedelta(minutes=30),
        "verification": timedelta(days=2),
    }
