"""Administrators list accounts, change roles, and disable accounts."""

import asyncio
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import select, update

from app.features.accounts.service import list_accounts
from app.features.users.models import Role, User
from app.infra.database.pagination import PageRequest
from app.infra.resources import ProcessResources
from tests.application import client_of
from tests.features.users.factory import PASSWORD, UserFactory
from tests.locks import waits_for_a_lock

Client = httpx2.AsyncClient
Headers = dict[str, str]


async def addresses(client: Client, headers: Headers, **query: str | int) -> list[str]:
    response = await client.get("/v1/admin/users", headers=headers, params=query)
    return [account["email"] for account in response.raise_for_status().json()["items"]]


async def patch(client: Client, headers: Headers, user: User, **change: object) -> httpx2.Response:
    return await client.patch(f"/v1/admin/users/{user.id}", json=change, headers=headers)


async def log_in(client: Client, user: User) -> httpx2.Response:
    form = {"username": user.email, "password": PASSWORD}
    return await client.post("/v1/auth/token", data=form)


async def test_account_is_listed_with_its_state(
    client: Client, headers: Headers, admin: User
) -> None:
    page = (await client.get("/v1/admin/users", headers=headers)).json()
    [account] = page["items"]
    assert (page["next"], page["prev"]) == (None, None)
    state = {name: account[name] for name in ("id", "email", "role", "verified", "disabled")}
    assert state == {
        "id": admin.id,
        "email": "admin@example.com",
        "role": "admin",
        "verified": False,
        "disabled": False,
    }


async def test_a_logged_account_has_no_address(resources: ProcessResources, admin: User) -> None:
    async with resources.database.read() as session:
        page = await list_accounts(session, PageRequest(1), q=admin.email, role=None)
    assert [row.email for row in page.items] == [admin.email]
    assert admin.email not in repr(page)


async def test_accounts_are_searched_by_the_beginning_of_their_address(
    client: Client, make: UserFactory, headers: Headers
) -> None:
    found = ["Ann@example.com", "an_other@example.com", "anna@example.com"]
    for email in (*found, "ben@example.com", "hannah@example.com", "ann%@example.com"):
        await make.user(email=email)
    assert await addresses(client, headers, q="AN") == [
        "an_other@example.com",
        "ann%@example.com",
        "Ann@example.com",
        "anna@example.com",
    ]
    assert await addresses(client, headers, q="ann@") == ["Ann@example.com"]
    assert await addresses(client, headers, q="an_o") == ["an_other@example.com"]
    assert await addresses(client, headers, q="an%") == []


async def test_list_is_read_page_by_page(
    client: Client, make: UserFactory, headers: Headers
) -> None:
    for number in range(5):
        await make.user(email=f"same{number}@example.com")
    query: dict[str, Any] = {"q": "same", "role": "user", "limit": 2}
    seen = []
    while True:
        response = await client.get("/v1/admin/users", headers=headers, params=query)
        page = response.json()
        seen += [account["email"] for account in page["items"]]
        if page["next"] is None:
            break
        assert "q=same" in response.headers["link"]
        query["cursor"] = page["next"]
    assert seen == [f"same{number}@example.com" for number in range(5)]
    other = {"q": "other", "cursor": query["cursor"]}
    refused = await client.get("/v1/admin/users", headers=headers, params=other)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_cursor")


async def test_list_can_be_filtered_by_role_and_has_no_deleted_account(
    client: Client, make: UserFactory, headers: Headers
) -> None:
    user, deleted = await make.user(email="user@example.com"), await make.user()
    await client.delete("/v1/users/me", headers=make.headers(deleted))
    assert await addresses(client, headers, role="admin") == ["admin@example.com"]
    assert await addresses(client, headers, role="user") == [user.email]


async def test_new_admin_may_do_it_at_once_and_no_longer_after_losing_the_role(
    client: Client, make: UserFactory, headers: Headers
) -> None:
    user = await make.user(verified=True)
    mine = make.headers(user)
    assert (await client.get("/v1/admin/users", headers=mine)).status_code == 403
    promoted = await patch(client, headers, user, role="admin")
    assert (promoted.status_code, promoted.json()["role"]) == (200, "admin")
    assert (await client.get("/v1/admin/users", headers=mine)).status_code == 200
    assert (await patch(client, headers, user, role="user")).json()["role"] == "user"
    assert (await client.get("/v1/admin/users", headers=mine)).status_code == 403


async def test_account_with_an_unverified_address_cannot_become_an_admin(
    client: Client, make: UserFactory, headers: Headers
) -> None:
    user = await make.user()
    refused = await patch(client, headers, user, role="admin", disabled=True)
    assert (refused.status_code, refused.json()["code"]) == (409, "not_verified")
    assert "verification mail" in refused.json()["detail"]
    me = (await client.get("/v1/users/me", headers=make.headers(user))).json()
    assert me["role"] == "user"
    assert (await patch(client, headers, user, role="user")).status_code == 200


async def test_admin_whose_new_address_is_not_verified_stays_one(
    client: Client, headers: Headers, admin: User
) -> None:
    """`admin` is not verified."""
    assert (await patch(client, headers, admin, role="admin")).status_code == 200


async def test_disabled_account_is_refused_everywhere_at_once(
    service: FastAPI, another_process: FastAPI, make: UserFactory, admin: User
) -> None:
    async with client_of(service) as client, client_of(another_process) as other:
        user, headers = await make.user(), make.headers(admin)
        token = (await log_in(client, user)).json()
        mine = {"Authorization": f"Bearer {token['access_token']}"}
        for process in (client, other):
            assert (await process.get("/v1/admin/users", headers=mine)).status_code == 403
        disabled = await patch(client, headers, user, disabled=True)
        assert (disabled.status_code, disabled.json()["disabled"]) == (200, True)
        for process in (other, client):
            for path in ("/v1/users/me", "/v1/admin/users"):
                assert (await process.get(path, headers=mine)).status_code == 401
            refused = await log_in(process, user)
            assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
            refresh = {"refresh_token": token["refresh_token"]}
            assert (await process.post("/v1/auth/refresh", json=refresh)).status_code == 401


async def test_account_that_is_enabled_again_can_log_in_but_its_old_tokens_stay_revoked(
    client: Client, make: UserFactory, headers: Headers
) -> None:
    user = await make.user()
    mine = make.headers(user)
    for disabled in (True, False):
        assert (await patch(client, headers, user, disabled=disabled)).status_code == 200
    assert (await client.get("/v1/users/me", headers=mine)).status_code == 401
    assert (await log_in(client, user)).status_code == 200


async def test_token_of_an_earlier_release_is_valid_until_the_account_is_disabled(
    client: Client, make: UserFactory, headers: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await make.user()
    mine = {"Authorization": f"Bearer {make.resources.access_tokens.issue(user.id, None)}"}  # type: ignore[arg-type]
    assert (await client.get("/v1/users/me", headers=mine)).status_code == 200
    await patch(client, headers, user, disabled=True)
    assert (await client.get("/v1/users/me", headers=mine)).status_code == 401


@pytest.mark.parametrize("change", [{"role": "user"}, {"disabled": True}])
async def test_last_admin_cannot_be_demoted_or_disabled(
    client: Client, make: UserFactory, headers: Headers, admin: User, change: dict[str, object]
) -> None:
    await make.user(role=Role.ADMIN, disabled=True)  # who cannot do anything either
    refused = await patch(client, headers, admin, **change)
    assert (refused.status_code, refused.json()["code"]) == (409, "last_admin")
    assert (await client.get("/v1/admin/users", headers=headers)).status_code == 200
    await make.user(role=Role.ADMIN)
    assert (await patch(client, headers, admin, **change)).status_code == 200


async def test_last_admin_cannot_delete_the_account(
    client: Client, make: UserFactory, headers: Headers
) -> None:
    refused = await client.delete("/v1/users/me", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (409, "last_admin")
    await make.user(role=Role.ADMIN)
    assert (await client.delete("/v1/users/me", headers=headers)).status_code == 204


@pytest.mark.parametrize("turn", range(5))
async def test_one_admin_is_left_when_all_leave_at_the_same_time(
    client: Client, make: UserFactory, admin: User, turn: int
) -> None:
    admins = [admin, *[await make.user(role=Role.ADMIN) for _ in range(5)]]

    async def leave(number: int, user: User) -> httpx2.Response:
        headers = make.headers(user)
        if number % 3 == 0:
            return await client.delete("/v1/users/me", headers=headers)
        change: dict[str, object] = {"role": "user"} if number % 3 == 1 else {"disabled": True}
        return await patch(client, headers, user, **change)

    responses = await asyncio.gather(*(leave(*one) for one in enumerate(admins)))
    refused = [response for response in responses if response.is_error]
    assert [(response.status_code, response.json()["code"]) for response in refused] == [
        (409, "last_admin")
    ]


async def test_deletion_of_another_account_does_not_wait_for_the_admins(
    client: Client, make: UserFactory, admin: User
) -> None:
    user = await make.user()
    async with make.resources.database.transaction() as session:
        locked = select(User.id).where(User.id == admin.id).with_for_update()
        assert await session.scalar(locked) == admin.id
        deleted = await client.delete("/v1/users/me", headers=make.headers(user))
        assert deleted.status_code == 204


async def test_account_that_became_the_last_admin_meanwhile_is_not_deleted(
    client: Client, make: UserFactory, admin: User
) -> None:
    user = await make.user(verified=True)
    async with make.resources.database.transaction() as session:
        changed = update(User).where(User.id == user.id).values(role=Role.ADMIN)
        await session.execute(changed)
        changed = update(User).where(User.id == admin.id).values(role=Role.USER)
        await session.execute(changed)
        headers = make.headers(user)
        deletion = asyncio.create_task(client.delete("/v1/users/me", headers=headers))
        await waits_for_a_lock(make.resources)
    refused = await deletion
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")


async def test_missing_and_deleted_accounts_are_404(
    client: Client, make: UserFactory, headers: Headers
) -> None:
    deleted = await make.user()
    await client.delete("/v1/users/me", headers=make.headers(deleted))
    for user_id in (deleted.id, 999_999):
        for change in ({"role": "admin"}, {}):
            url = f"/v1/admin/users/{user_id}"
            assert (await client.patch(url, json=change, headers=headers)).status_code == 404


async def test_empty_change_changes_nothing(
    client: Client, make: UserFactory, headers: Headers
) -> None:
    user = await make.user()
    before = (await client.get("/v1/users/me", headers=make.headers(user))).json()
    assert (await patch(client, headers, user)).json() == {**before, "disabled": False}


async def test_next_page_of_an_empty_search_can_be_read(
    client: Client, make: UserFactory, headers: Headers
) -> None:
    """A form sends `q=` for a search field that is empty."""
    await make.user(email="user@example.com")
    first = await client.get("/v1/admin/users?q=&limit=1", headers=headers)
    assert [one["email"] for one in first.json()["items"]] == ["admin@example.com"]
    second = await client.get(first.links["next"]["url"], headers=headers)
    assert second.status_code == 200, second.text
    assert [one["email"] for one in second.json()["items"]] == ["user@example.com"]
