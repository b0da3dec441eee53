"""A mailed token replaces a forgotten password, and revokes whatever the old one had given."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import update

from app.features.account_mails import queries
from app.features.account_mails.models import Purpose
from app.features.users.models import User
from tests.application import client_of
from tests.features.account_mails.factory import MailFactory
from tests.features.account_mails.inbox import Inbox
from tests.features.users.factory import PASSWORD, UserFactory
from tests.jobs import queued

Client = httpx2.AsyncClient

NEW = "another password"


async def ask(client: Client, email: str) -> httpx2.Response:
    return await client.post("/v1/auth/password-reset", json={"email": email})


async def confirm(client: Client, token: str, password: str = NEW) -> httpx2.Response:
    body = {"token": token, "password": password}
    return await client.post("/v1/auth/password-reset/confirm", json=body)


async def log_in(client: Client, email: str, password: str) -> httpx2.Response:
    form = {"username": email, "password": password}
    return await client.post("/v1/auth/token", data=form)


async def test_password_is_replaced(client: Client, inbox: Inbox, make: UserFactory) -> None:
    user = await make.user()
    response = await ask(client, user.email.upper())
    assert (response.status_code, response.content) == (202, b"")
    token = await inbox.token(user.email, "reset-password")
    confirmed = await confirm(client, token)
    assert (confirmed.status_code, confirmed.content) == (204, b"")
    assert (await log_in(client, user.email, PASSWORD)).status_code == 400
    assert (await log_in(client, user.email, NEW)).status_code == 200
    assert (await confirm(client, token)).json()["code"] == "invalid_token"


async def test_unknown_address_gets_the_same_answer_and_one_job_but_no_mail(
    client: Client, inbox: Inbox, make: UserFactory
) -> None:
    known = (await make.user()).email
    answers = []
    for email in (known, "unknown@example.com"):
        response = await ask(client, email)
        varying = {"x-request-id", "x-process-time", "ratelimit"}
        headers = {name: v for name, v in response.headers.items() if name not in varying}
        answers.append((response.status_code, response.content, headers))
    assert answers[0] == answers[1]
    assert await queued(make.resources) == [("account_mails.send_password_reset", "queued")] * 2
    assert {mail["To"] for mail in await inbox.receive()} == {known}
    assert await queued(make.resources) == []


async def test_reset_revokes_every_token_at_once_in_every_process(
    service: FastAPI, another_process: FastAPI, make: UserFactory
) -> None:
    async with client_of(service) as client, client_of(another_process) as other:
        user = await make.user()
        token = (await log_in(client, user.email, PASSWORD)).json()
        headers = {"Authorization": f"Bearer {token['access_token']}"}
        for process in (client, other):  # both have the account and the token in their memory
            sent = await process.post("/v1/users/me/verification", headers=headers)
            assert sent.status_code == 202
        await MailFactory(make.resources).mail(user, Purpose.PASSWORD_RESET, token="mailed")
        assert (await confirm(client, "mailed")).status_code == 204
        for process in (client, other):
            assert (await process.get("/v1/users/me", headers=headers)).status_code == 401
            refused = await process.post("/v1/users/me/verification", headers=headers)
            assert refused.status_code == 401
        refresh = {"refresh_token": token["refresh_token"]}
        assert (await other.post("/v1/auth/refresh", json=refresh)).status_code == 401


async def test_one_of_many_concurrent_resets_succeeds(client: Client, make: UserFactory) -> None:
    user = await make.user()
    await MailFactory(make.resources).mail(user, Purpose.PASSWORD_RESET, token="mailed")
    passwords = [f"password {number}" for number in range(5)]
    responses = await asyncio.gather(*(confirm(client, "mailed", one) for one in passwords))
    assert sorted(response.status_code for response in responses) == [204] + [401] * 4
    statuses = [(await log_in(client, user.email, one)).status_code for one in passwords]
    assert sorted(statuses) == [200] + [400] * 4


async def test_expired_foreign_and_tampered_tokens_are_refused(
    client: Client, make: UserFactory
) -> None:
    user, mails = await make.user(), MailFactory(make.resources)
    ago = timedelta(seconds=-1)
    await mails.mail(user, Purpose.PASSWORD_RESET, token="expired", lifetime=ago)
    await mails.mail(user, Purpose.VERIFICATION, token="for another purpose")
    await mails.mail(user, Purpose.PASSWORD_RESET, token="right")
    for token in ("expired", "for another purpose", "righ", "right ", "Right"):
        response = await confirm(client, token)
        assert (response.status_code, response.json()["code"]) == (401, "invalid_token"), token
    assert (await log_in(client, user.email, PASSWORD)).status_code == 200


@pytest.mark.parametrize("change", [{"email": "new@example.com"}, {"password": "yet another"}])
async def test_token_is_refused_after_the_address_or_the_password_was_changed(
    client: Client, make: UserFactory, change: dict[str, str]
) -> None:
    user = await make.user()
    await MailFactory(make.resources).mail(user, Purpose.PASSWORD_RESET, token="older")
    sent = {**change, "current_password": PASSWORD}
    changed = await client.patch("/v1/users/me", json=sent, headers=make.headers(user))
    assert changed.status_code == 200
    assert (await confirm(client, "older")).status_code == 401


async def test_reset_verifies_the_address(client: Client, inbox: Inbox, make: UserFactory) -> None:
    user = await make.user()
    await ask(client, user.email)
    token = await inbox.token(user.email, "reset-password")
    assert (await confirm(client, token)).status_code == 204
    access = (await log_in(client, user.email, NEW)).json()["access_token"]
    headers = {"Authorization": f"Bearer {access}"}
    assert (await client.get("/v1/users/me", headers=headers)).json()["verified"] is True


async def test_reset_does_not_verify_an_address_that_replaces_the_old_one_meanwhile(
    client: Client, make: UserFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await make.user()
    await MailFactory(make.resources).mail(user, Purpose.PASSWORD_RESET, token="mailed")
    use_token = queries.use_token

    async def use_and_change(*arguments: Any) -> User | None:
        found = await use_token(*arguments)
        async with make.resources.database.transaction() as session:
            new = update(User).where(User.id == user.id).values(email="new@example.com")
            await session.execute(new)
        return found

    monkeypatch.setattr(queries, "use_token", use_and_change)
    assert (await confirm(client, "mailed")).status_code == 401
    me = (await client.get("/v1/users/me", headers=make.headers(user))).json()
    assert (me["email"], me["verified"]) == ("new@example.com", False)


async def test_used_token_does_not_delay_the_next_mail(
    client: Client, inbox: Inbox, make: UserFactory
) -> None:
    user = await make.user()
    for number in (1, 2):
        await ask(client, user.email)
        assert len(await inbox.receive()) == number
        token = await inbox.token(user.email, "reset-password")
        assert (await confirm(client, token)).status_code == 204


async def test_disabled_account_gets_no_mail_and_its_token_is_refused(
    client: Client, inbox: Inbox, make: UserFactory
) -> None:
    user = await make.user(disabled=True)
    await MailFactory(make.resources).mail(user, Purpose.PASSWORD_RESET, token="mailed")
    assert (await ask(client, user.email)).status_code == 202
    assert await inbox.receive() == []
    assert (await confirm(client, "mailed")).status_code == 401


async def test_account_gets_one_such_mail_in_a_minute(
    client: Client, inbox: Inbox, make: UserFactory
) -> None:
    user = await make.user()
    for _ in range(3):
        assert (await ask(client, user.email)).status_code == 202
    assert len(await inbox.receive()) == 1


async def test_short_password_is_refused_and_the_token_stays_valid(
    client: Client, make: UserFactory
) -> None:
    user = await make.user()
    await MailFactory(make.resources).mail(user, Purpose.PASSWORD_RESET, token="mailed")
    assert (await confirm(client, "mailed", "short")).json()["code"] == "invalid_request"
    assert (await confirm(client, "mailed")).status_code == 204


async def test_no_password_is_hashed_for_a_token_that_is_not_valid(
    client: Client, make: UserFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, passwords = await make.user(), make.resources.passwords
    await MailFactory(make.resources).mail(user, Purpose.PASSWORD_RESET, token="mailed")
    hashed: list[str] = []
    compute = passwords.hash

    async def recorded(password: str) -> str:
        hashed.append(password)
        return await compute(password)

    monkeypatch.setattr(passwords, "hash", recorded)
    assert (await confirm(client, "guessed", "password one")).status_code == 401
    assert hashed == []
    assert (await confirm(client, "mailed", "password two")).status_code == 204
    assert hashed == ["password two"]
