"""The caller is read from the cache, and is never another user or an outdated one."""

import asyncio
import random
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import update

from app.features.users import cached_user
from app.features.users.models import User
from coherent_cache.entry import Entry
from coherent_cache.store import Store
from tests.application import client_of, recorded_statements
from tests.cached_app import cache_of, settled
from tests.features.users.factory import PASSWORD
from tests.sample.factory import NoteFactory

Client = httpx2.AsyncClient

CONTROLS: tuple[dict[str, str], ...] = (
    {},
    {"Cache-Control": "no-cache"},
    {"Cache-Control": "no-store"},
)
NEW_PASSWORD = "another horse battery"


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    await settled(service)
    async with client_of(service) as client:
        yield client


@pytest.fixture
async def other(another_process: FastAPI, client: Client) -> AsyncIterator[Client]:
    """A client of another process, which shares PostgreSQL and Valkey with the first."""
    await settled(another_process)
    async with client_of(another_process) as other:
        yield other


@pytest.fixture
async def deaf(another_process: FastAPI, other: Client, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """A second process. Its channel is alive and delivers no invalidations."""
    monkeypatch.setattr(
        cache_of(another_process).channel, "_handle_invalidation", lambda _tags: None
    )
    return another_process


@pytest.fixture
def make(service: FastAPI, clean: None) -> NoteFactory:
    return NoteFactory(service.state.resources)


@pytest.fixture
async def user(make: NoteFactory) -> User:
    return await make.user(name="Ann", bio="I am Ann.")


@pytest.fixture
def headers(make: NoteFactory, user: User) -> dict[str, str]:
    return make.headers(user)


async def publish(client: Client, headers: dict[str, str]) -> httpx2.Response:
    """Publish a note. Its author is the user that `CurrentUser` returns."""
    return await client.post("/test/notes", json={"title": "T", "body": "B"}, headers=headers)


async def author(client: Client, headers: dict[str, str]) -> dict[str, object]:
    """Return the author of a note that the caller publishes now."""
    shown: dict[str, object] = (await publish(client, headers)).raise_for_status().json()["author"]
    return shown


def author_of(user: User) -> dict[str, object]:
    """Return how a user is shown as an author."""
    return {"id": user.id, "name": user.name, "avatar_url": user.avatar_url}


async def everything(store: Store) -> bytes:
    """Return all that is in Valkey, keys and values, whatever its type."""
    found = []
    async for key in store._valkey.scan_iter(f"{store.prefix}*", count=1_000):
        found += [key, await store._valkey.dump(key) or b""]
        if await store._valkey.type(key) == b"string":
            found.append(await store._valkey.get(key) or b"")
    return b"\n".join(found)


async def test_caller_is_read_from_the_database_once(
    client: Client, service: FastAPI, headers: dict[str, str], user: User
) -> None:
    await publish(client, headers)
    with recorded_statements(service.state.resources) as statements:
        assert await author(client, headers) == author_of(user)
    assert not [statement for statement in statements if "FROM users" in statement]


async def test_cached_caller_is_shown_like_one_from_the_database(
    client: Client, other: Client, headers: dict[str, str], user: User
) -> None:
    for process in (client, client, other):  # first from the database, then twice from the cache
        assert await author(process, headers) == author_of(user)


async def test_own_account_is_not_stored_by_shared_caches(
    client: Client, headers: dict[str, str], user: User
) -> None:
    first, second = [await client.get("/v1/users/me", headers=headers) for _ in range(2)]
    assert first.content == second.content
    assert second.json()["email"] == user.email
    for response in (first, second):
        assert response.headers.get_list("cache-control") == ["private, no-store"]
        assert not {"x-cache", "etag", "age"} & response.headers.keys()


async def test_valkey_contains_no_credentials(
    client: Client, make: NoteFactory, service: FastAPI, user: User
) -> None:
    store = cache_of(service).store
    form = {"username": user.email, "password": PASSWORD}
    tokens = (await client.post("/v1/auth/token", data=form)).json()
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    change = {"password": NEW_PASSWORD, "current_password": PASSWORD}
    assert (await client.patch("/v1/users/me", json=change, headers=headers)).status_code == 200
    newer = (await client.post("/v1/auth/token", data={**form, "password": NEW_PASSWORD})).json()
    headers = {"Authorization": f"Bearer {newer['access_token']}"}
    for url in ("/v1/users/me", f"/v1/users/{user.id}", "/test/notes"):
        await client.get(url, headers=headers)
    await publish(client, headers)
    async with make.resources.database.read() as session:
        kept = await session.get_one(User, user.id)
    content = await everything(store)
    assert b'"bio":"I am Ann."' in content  # the search finds the account
    secrets = [PASSWORD, NEW_PASSWORD, user.password_hash, kept.password_hash, "argon2"]
    names = ("access_token", "refresh_token")
    secrets += ["password", *(given[name] for given in (tokens, newer) for name in names)]
    for secret in secrets:
        assert secret.encode() not in content, secret


async def test_email_address_is_in_no_public_answer(
    client: Client, service: FastAPI, make: NoteFactory, headers: dict[str, str], user: User
) -> None:
    note = await make.note(user)
    await publish(client, headers)
    await client.get("/v1/users/me", headers=headers)
    for url in ("/test/notes", f"/test/notes/{note.id}", f"/v1/users/{user.id}"):
        assert user.email not in (await client.get(url, headers=headers)).text
    content = await everything(cache_of(service).store)
    assert user.name.encode() in content  # the search finds pages, the profile and the caller
    assert user.email.encode() not in content


async def test_cached_caller_has_no_credentials(service: FastAPI, user: User, clean: None) -> None:
    held = service.state.resources
    entry = await cached_user.load_entry(held, user.id)
    cached = cached_user.to_caller(Entry(entry.key, entry.tags, entry.value))
    assert cached is not None
    assert cached.name == "Ann"
    for name in ("password_hash", "email"):
        assert not hasattr(cached, name)
        assert getattr(user, name).encode() not in entry.value


async def test_deleted_account_is_refused_by_all_processes_immediately(
    client: Client, other: Client, headers: dict[str, str]
) -> None:
    for process in (client, other):
        published = await publish(process, headers)
        assert published.status_code == 201
    note = published.headers["location"]
    assert (await client.delete("/v1/users/me", headers=headers)).status_code == 204
    for process in (other, client):
        for method, url, body in (
            ("GET", "/v1/users/me", None),
            ("POST", "/test/notes", {"title": "T", "body": "B"}),
            ("PATCH", note, {"title": "Mine"}),
            ("DELETE", note, None),
        ):
            answer = await process.request(method, url, json=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), url


async def test_deleted_account_is_refused_by_a_process_without_invalidations(
    client: Client, deaf: FastAPI, other: Client, headers: dict[str, str], user: User
) -> None:
    assert (await publish(other, headers)).status_code == 201
    assert (await client.delete("/v1/users/me", headers=headers)).status_code == 204
    reader = cache_of(deaf).reader
    assert (
        reader.get_from_memory(cached_user.cache_key(user.id)) is not None
    )  # the memory of this process still has the account
    refused = await publish(other, headers)
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")


async def test_new_name_is_shown_by_a_process_without_invalidations(
    client: Client, deaf: FastAPI, other: Client, headers: dict[str, str], user: User
) -> None:
    assert await author(other, headers) == author_of(user)
    change = await client.patch("/v1/users/me", json={"name": "Anna"}, headers=headers)
    assert change.status_code == 200
    assert cache_of(deaf).reader.get_from_memory(cached_user.cache_key(user.id)) is not None
    assert (await author(other, headers))["name"] == "Anna"


async def test_new_password_ends_a_session_in_a_process_without_invalidations(
    client: Client, deaf: FastAPI, other: Client, headers: dict[str, str], user: User
) -> None:
    form = {"username": user.email, "password": PASSWORD}
    tokens = (await other.post("/v1/auth/token", data=form)).raise_for_status().json()
    await publish(other, headers)
    change = {"password": NEW_PASSWORD, "current_password": PASSWORD}
    assert (await client.patch("/v1/users/me", json=change, headers=headers)).status_code == 200
    assert cache_of(deaf).reader.get_from_memory(cached_user.cache_key(user.id)) is not None
    assert (await other.post("/v1/auth/token", data=form)).status_code == 400
    refreshed = await other.post(
        "/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]}
    )
    assert (refreshed.status_code, refreshed.json()["code"]) == (401, "unauthenticated")


async def test_change_is_shown_by_all_processes_immediately(
    client: Client, other: Client, headers: dict[str, str]
) -> None:
    for number in range(5):
        writer, reader = (client, other) if number % 2 else (other, client)
        name, bio = f"Name {number}", f"Bio {number}"
        change = await writer.patch(
            "/v1/users/me", json={"name": name, "bio": bio}, headers=headers
        )
        for process in (reader, writer):
            assert (await process.get("/v1/users/me", headers=headers)).json() == change.json()
        assert (await author(reader, headers))["name"] == name


async def test_missing_account_is_refused_until_it_exists(
    client: Client, make: NoteFactory, user: User
) -> None:
    headers = make.headers(User(id=user.id + 1))
    for _ in range(2):
        assert (await publish(client, headers)).status_code == 401
    new = {"email": "new@example.com", "name": "New", "password": PASSWORD}
    assert (await client.post("/v1/users", json=new)).json()["id"] == user.id + 1
    assert (await author(client, headers))["name"] == "New"


async def test_password_is_checked_against_the_database(
    client: Client, make: NoteFactory, headers: dict[str, str], user: User
) -> None:
    """The cached fields of an account cannot verify a password."""
    await client.get("/v1/users/me", headers=headers)
    change = {"password": NEW_PASSWORD, "current_password": PASSWORD}
    assert (await client.patch("/v1/users/me", json=change, headers=headers)).status_code == 200
    form = {"username": user.email, "password": NEW_PASSWORD}
    token = (await client.post("/v1/auth/token", data=form)).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    again = await client.patch("/v1/users/me", json=change, headers=headers)
    assert (again.status_code, again.json()["code"]) == (403, "invalid_credentials")


@pytest.mark.parametrize("first", ["owner", "stranger"])
async def test_only_the_author_can_change_a_note_whoever_was_cached_first(
    client: Client, make: NoteFactory, headers: dict[str, str], user: User, first: str
) -> None:
    note = await make.note(user)
    stranger = make.headers(await make.user(name="Ben"))
    calls: list[tuple[str, str, object]] = [
        ("PATCH", f"/test/notes/{note.id}", {"title": "Mine"}),
        ("DELETE", f"/test/notes/{note.id}", None),
    ]
    await publish(client, headers if first == "owner" else stranger)
    for method, url, body in calls:
        refused = await client.request(method, url, json=body, headers=stranger)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), url
    for method, url, body in calls:
        answer = await client.request(method, url, json=body, headers=headers)
        assert answer.is_success, url


async def read_pairs(clients: list[Client], make: NoteFactory, users: int, pairs: int) -> None:
    """Let random pairs of users act and read themselves and each other concurrently."""
    accounts = [await make.user(name=f"Name {number}") for number in range(users)]
    headers = {user.id: make.headers(user) for user in accounts}
    chance = random.Random(pairs)

    async def ask(number: int) -> None:
        one, two = chance.sample(accounts, 2)
        first, second = chance.sample(clients, 2)
        url, shown = ("/v1/users/me", two) if number % 2 else (f"/v1/users/{one.id}", one)
        control = chance.choice(CONTROLS)
        acts_as, answer = await asyncio.gather(
            author(first, headers[one.id]),
            second.get(url, headers=headers[two.id] | control),
        )
        assert acts_as == author_of(one)
        assert answer.is_success, answer.text
        seen = answer.json()
        assert (seen["id"], seen["name"]) == (shown.id, shown.name)
        assert seen.get("email") == (shown.email if url == "/v1/users/me" else None)

    for at in range(0, pairs, 50):
        await asyncio.gather(*(ask(number) for number in range(at, min(at + 50, pairs))))


@pytest.mark.slow
async def test_no_caller_is_taken_for_another(
    client: Client, other: Client, make: NoteFactory
) -> None:
    await read_pairs([client, other], make, users=40, pairs=300)


@pytest.mark.faults
async def test_no_caller_is_taken_for_another_in_ten_thousand_pairs(
    client: Client, other: Client, make: NoteFactory
) -> None:
    await read_pairs([client, other], make, users=500, pairs=10_000)


async def test_valkey_does_not_contain_the_address_of_a_deleted_account(
    client: Client, service: FastAPI, make: NoteFactory
) -> None:
    headers = make.headers(await make.user(email="to-be-forgotten@example.com"))
    await publish(client, headers)
    await client.get("/v1/users/me", headers=headers)
    assert (await client.delete("/v1/users/me", headers=headers)).status_code == 204
    assert b"to-be-forgotten" not in await everything(cache_of(service).store)


async def test_token_that_is_newer_than_the_cached_caller_is_accepted(
    client: Client, make: NoteFactory, headers: dict[str, str], user: User
) -> None:
    """The invalidation of a new password has failed, and its owner has logged in already."""
    assert (await publish(client, headers)).status_code == 201  # the caller is cached from now on
    async with make.resources.database.transaction() as session:
        newer = update(User).where(User.id == user.id).values(credential_version=2)
        await session.execute(newer)
    later = make.headers(User(id=user.id, credential_version=2))
    assert (await publish(client, later)).status_code == 201
