"""`/v1/users/me`: changing and deleting an account."""

import asyncio

import httpx2
import pytest
from pydantic import ValidationError
from sqlalchemy import text

from app.features.users.queries import read_account
from app.features.users.schemas import UserRead
from app.infra.resources import ProcessResources
from app.infra.security.passwords import PasswordMatch
from tests.features.users.factory import PASSWORD, UserFactory
from tests.sample.factory import NoteFactory

Client = httpx2.AsyncClient


async def log_in(client: Client, email: str, password: str) -> httpx2.Response:
    form = {"username": email, "password": password}
    return await client.post("/v1/auth/token", data=form)


async def test_profile_can_be_changed_without_a_password(client: Client, make: UserFactory) -> None:
    user = await make.user(name="Ann")
    response = await client.patch(
        "/v1/users/me", json={"bio": "I count."}, headers=make.headers(user)
    )
    assert response.status_code == 200
    assert (response.json()["name"], response.json()["bio"]) == ("Ann", "I count.")
    assert (await client.get(f"/v1/users/{user.id}")).json()["bio"] == "I count."


async def test_an_error_of_a_response_quotes_no_address_and_no_hash(
    resources: ProcessResources, make: UserFactory
) -> None:
    class WithAnotherField(UserRead):
        colour: str

    user = await make.user()
    async with resources.database.read() as session:
        account = await read_account(session, user.id)
    assert account is not None
    with pytest.raises(ValidationError) as caught:
        WithAnotherField.model_validate(account, from_attributes=True)
    errors = str(caught.value.errors())  # FastAPI logs them
    assert "colour" in errors
    assert account.email not in errors
    assert account.password_hash not in errors


async def test_empty_change_changes_nothing(client: Client, make: UserFactory) -> None:
    user = await make.user()
    before = (await client.get("/v1/users/me", headers=make.headers(user))).json()
    response = await client.patch("/v1/users/me", json={}, headers=make.headers(user))
    assert response.json() == before


@pytest.mark.parametrize("change", [{"email": "new@example.com"}, {"password": "new password"}])
async def test_changing_credentials_needs_the_current_password(
    client: Client, make: UserFactory, change: dict[str, str]
) -> None:
    user = await make.user()
    headers = make.headers(user)
    missing = await client.patch("/v1/users/me", json=change, headers=headers)
    assert missing.status_code == 422
    wrong = {**change, "current_password": "wrong"}
    refused = await client.patch("/v1/users/me", json=wrong, headers=headers)
    assert refused.status_code == 403
    assert refused.json()["code"] == "invalid_credentials"
    assert (await log_in(client, user.email, PASSWORD)).status_code == 200


async def test_login_works_only_with_the_new_address(client: Client, make: UserFactory) -> None:
    user = await make.user()
    change = {"email": "New@example.com", "current_password": PASSWORD}
    response = await client.patch("/v1/users/me", json=change, headers=make.headers(user))
    assert response.json()["email"] == "New@example.com"
    assert (await log_in(client, "new@example.com", PASSWORD)).status_code == 200
    assert (await log_in(client, user.email, PASSWORD)).status_code == 400


async def test_taken_address_is_409_even_in_a_race(client: Client, make: UserFactory) -> None:
    users = [await make.user() for _ in range(6)]
    change = {"email": "wanted@example.com", "current_password": PASSWORD}
    responses = await asyncio.gather(
        *(client.patch("/v1/users/me", json=change, headers=make.headers(user)) for user in users)
    )
    assert sorted(response.status_code for response in responses) == [200] + [409] * 5
    codes = {response.json().get("code") for response in responses}
    assert codes == {None, "email_taken"}


async def test_new_password_invalidates_every_refresh_token(
    client: Client, make: UserFactory
) -> None:
    user = await make.user()
    tokens = [(await log_in(client, user.email, PASSWORD)).json() for _ in range(2)]
    change = {"password": "another password", "current_password": PASSWORD}
    changed = await client.patch("/v1/users/me", json=change, headers=make.headers(user))
    assert changed.status_code == 200
    for token in tokens:
        body = {"refresh_token": token["refresh_token"]}
        assert (await client.post("/v1/auth/refresh", json=body)).status_code == 401
    assert (await log_in(client, user.email, PASSWORD)).status_code == 400
    fresh = (await log_in(client, user.email, "another password")).json()
    body = {"refresh_token": fresh["refresh_token"]}
    assert (await client.post("/v1/auth/refresh", json=body)).status_code == 200


async def test_new_password_revokes_every_access_token(client: Client, make: UserFactory) -> None:
    user = await make.user()
    headers = make.headers(user)
    change = {"password": "another password", "current_password": PASSWORD}
    changed = await client.patch("/v1/users/me", json=change, headers=headers)
    assert changed.status_code == 200
    refused = await client.get("/v1/users/me", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
    assert "revoked" in refused.json()["detail"]


async def test_deleted_account_is_anonymous_and_its_posts_stay(
    client: Client, make: NoteFactory
) -> None:
    user = await make.user(
        name="Ann", bio="I count.", avatar_url="https://images.example.com/ann.webp"
    )
    note = await make.note(user)
    response = await client.delete("/v1/users/me", headers=make.headers(user))
    assert (response.status_code, response.content) == (204, b"")
    nobody = {"id": user.id, "name": "Deleted user", "avatar_url": None}
    assert (await client.get(f"/test/notes/{note.id}")).json()["author"] == nobody
    profile = (await client.get(f"/v1/users/{user.id}")).json()
    assert (profile["name"], profile["bio"]) == ("Deleted user", "")


async def test_no_personal_data_of_a_deleted_account_is_kept(
    client: Client, make: UserFactory, resources: ProcessResources
) -> None:
    user = await make.user(
        email="forget-me@example.com", name="Forget Me", bio="Forget me.", avatar_url="/forget-me"
    )
    await client.delete("/v1/users/me", headers=make.headers(user))
    async with resources.database.read() as session:
        [row] = (await session.execute(text("SELECT users::text FROM users"))).scalars()
    assert "forget" not in row.lower()
    assert user.password_hash not in row
    assert "argon2" not in row


async def test_tokens_of_a_deleted_account_are_refused(client: Client, make: UserFactory) -> None:
    user = await make.user()
    token = (await log_in(client, user.email, PASSWORD)).json()
    headers = make.headers(user)
    await client.delete("/v1/users/me", headers=headers)
    assert (await client.get("/v1/users/me", headers=headers)).status_code == 401
    assert (await client.delete("/v1/users/me", headers=headers)).status_code == 401
    refreshed = await client.post(
        "/v1/auth/refresh", json={"refresh_token": token["refresh_token"]}
    )
    assert refreshed.status_code == 401
    assert (await log_in(client, user.email, PASSWORD)).status_code == 400


async def test_address_of_a_deleted_account_can_be_registered_again(
    client: Client, make: UserFactory
) -> None:
    for _ in range(2):
        user = await make.user(email="ann@example.com")
        assert (await client.delete("/v1/users/me", headers=make.headers(user))).status_code == 204


async def test_one_of_many_concurrent_password_changes_succeeds(
    client: Client, make: UserFactory, resources: ProcessResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await make.user()
    everybody = asyncio.Barrier(5)
    verify = resources.passwords.verify

    async def verify_together(password: str, encoded: str | None) -> PasswordMatch:
        matches = await verify(password, encoded)
        await asyncio.wait_for(
            everybody.wait(), 60
        )  # all requests have read the account before one of them changes it
        return matches

    monkeypatch.setattr(resources.passwords, "verify", verify_together)
    changes = [{"password": f"password {i}", "current_password": PASSWORD} for i in range(5)]
    responses = await asyncio.gather(
        *(client.patch("/v1/users/me", json=c, headers=make.headers(user)) for c in changes)
    )
    monkeypatch.undo()
    assert sorted(response.status_code for response in responses) == [200] + [409] * 4
    kept = [c for c, r in zip(changes, responses, strict=True) if r.status_code == 200]
    assert (await log_in(client, user.email, kept[0]["password"])).status_code == 200
