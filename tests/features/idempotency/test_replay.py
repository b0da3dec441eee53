"""A request that is sent again with its Idempotency-Key is not run again."""

from datetime import timedelta

import httpx2
import pytest
from sqlalchemy import func, select, text

from app.features.idempotency.models import IdempotencyKey
from app.features.idempotency.service import LARGEST_BODY
from app.features.users.models import User
from app.infra.resources import ProcessResources
from tests.application import recorded_statements
from tests.features.idempotency.factory import KeyFactory
from tests.features.idempotency.routes import FAILURES, RAN
from tests.sample.notes import Note

Client = httpx2.AsyncClient
Headers = dict[str, str]

AGE = text("UPDATE idempotency_keys SET created_at = created_at - CAST(:age AS interval)")


async def count(resources: ProcessResources, model: type = Note) -> int:
    async with resources.database.read() as session:
        return await session.scalar(select(func.count()).select_from(model)) or 0


async def test_first_answer_is_sent_again_byte_for_byte(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    first = await client.post("/once/model", json={"title": "Ü"}, headers=headers)
    again = await client.post("/once/model", json={"title": "Ü"}, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    for name in ("location", "content-type", "content-length", "cache-control"):
        assert again.headers[name] == first.headers[name]
    assert again.headers.get_list("link") == first.headers.get_list("link")
    assert again.headers.get_list("idempotent-replayed") == ["true"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert await count(held) == 1


async def test_a_key_costs_three_statements_and_a_replay_runs_no_other_ones(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    plain = {name: value for name, value in headers.items() if name != "Idempotency-Key"}
    await client.post("/once/model", json={}, headers=plain)  # this caches the user
    sent = []
    for one in (plain, headers, headers):
        with recorded_statements(held) as statements:
            await client.post("/once/model", json={}, headers=one)
        sent.append(len(statements))
    without, with_key, replay = sent
    assert (with_key - without, replay) == (3, 2)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/once/empty", {}),
        ("/once/form", {"data": {"title": "A title"}}),
        ("/once/bytes", {}),
        ("/once/background", {}),
        ("/once/fresh", {}),
    ],
)
async def test_every_kind_of_endpoint_runs_once(
    client: Client,
    held: ProcessResources,
    headers: Headers,
    path: str,
    content: dict[str, dict[str, str]],
) -> None:
    first = await client.post(path, headers=headers, **content)  # type: ignore[arg-type]
    again = await client.post(path, headers=headers, **content)  # type: ignore[arg-type]
    assert first.is_success, first.text
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert await count(held) == 1


async def test_background_tasks_and_callbacks_run_once(client: Client, headers: Headers) -> None:
    for _ in range(2):
        assert (await client.post("/once/background", headers=headers)).status_code == 202
    assert RAN == ["after_commit", "task"]


async def test_changes_of_other_dependencies_are_made_once(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    for _ in range(2):
        assert (await client.post("/once/audited", headers=headers)).status_code == 200
    assert await count(held) == 2
    assert RAN == ["audit"]


async def test_without_a_key_every_request_runs(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    del headers["Idempotency-Key"]
    for _ in range(2):
        assert (await client.post("/once/empty", headers=headers)).status_code == 204
    assert await count(held) == 2
    assert await count(held, IdempotencyKey) == 0


@pytest.mark.parametrize(
    ("path", "title"),
    [("/once/model", "Other"), ("/once/model?a=1", "T"), ("/once/fail", "T")],
)
async def test_key_of_another_request_is_refused(
    client: Client, held: ProcessResources, headers: Headers, path: str, title: str
) -> None:
    await client.post("/once/model", json={"title": "T"}, headers=headers)
    other = await client.post(path, json={"title": title}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await count(held) == 1


async def test_paths_and_queries_are_not_confused(client: Client, headers: Headers) -> None:
    assert (await client.post("/once/empty?a=1%0A", headers=headers)).status_code == 204
    other = await client.post("/once/empty?a=1", content=b"\n", headers=headers)
    assert other.json()["code"] == "idempotency_key_reused"


async def test_users_do_not_share_keys(
    client: Client, held: ProcessResources, make: KeyFactory, headers: Headers
) -> None:
    other = {**headers, **make.headers(await make.user())}
    for sent in (headers, other):
        answer = await client.post("/once/empty", headers=sent)
        assert "idempotent-replayed" not in answer.headers
    assert await count(held) == 2


@pytest.mark.parametrize("status", [300, 400, 404, 500])
async def test_answer_that_is_no_success_is_not_kept(
    client: Client, headers: Headers, status: int
) -> None:
    FAILURES.append(status)
    assert (await client.post("/once/fail", headers=headers)).status_code == status
    again = await client.post("/once/fail", headers=headers)
    assert again.status_code == 200
    assert "idempotent-replayed" not in again.headers


async def test_exception_is_not_kept(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    FAILURES.append(ValueError("This was raised on purpose."))
    assert (await client.post("/once/fail", headers=headers)).status_code == 500
    assert await count(held, IdempotencyKey) == 0
    assert (await client.post("/once/fail", headers=headers)).status_code == 200
    assert await count(held) == 1


async def test_expected_error_is_not_kept(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    for _ in range(2):
        answer = await client.post("/once/refused", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (409, "refused")
    assert await count(held, IdempotencyKey) == 0


async def test_change_that_cannot_be_stored_keeps_nothing(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    assert (await client.post("/once/late", headers=headers)).status_code == 409
    assert (await count(held), await count(held, IdempotencyKey)) == (0, 0)
    assert (await client.post("/once/late", headers=headers)).status_code == 200
    assert (await count(held), await count(held, IdempotencyKey)) == (1, 1)


async def test_request_that_the_database_undid_runs_again_by_itself(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    first = await client.post("/once/undone", headers=headers)
    again = await client.post("/once/undone", headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.headers["idempotent-replayed"] == "true"
    assert len(RAN) == 2
    assert await count(held) == 1


async def test_answer_is_kept_for_24_hours(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    for minutes, notes in ((0, 1), (1439, 1), (1, 2), (0, 2)):
        async with held.database.transaction() as session:
            await session.execute(AGE, {"age": timedelta(minutes=minutes)})
        await client.post("/once/empty", headers=headers)
        assert await count(held) == notes
    assert await count(held, IdempotencyKey) == 1


async def test_expired_key_may_be_used_for_another_request(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    await client.post("/once/empty", headers=headers)
    async with held.database.transaction() as session:
        await session.execute(AGE, {"age": timedelta(days=1)})
    first, again = [await client.post("/once/bytes", headers=headers) for _ in range(2)]
    assert (first.content, again.content) == (b"\x00\xff\n", b"\x00\xff\n")


async def test_answer_that_is_too_large_undoes_the_request(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    url = f"/once/bytes?size={LARGEST_BODY + 3}"
    answer = await client.post(url, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_answer_too_large")
    assert (await count(held), await count(held, IdempotencyKey)) == (0, 0)
    del headers["Idempotency-Key"]
    assert (await client.post(url, headers=headers)).status_code == 200


async def test_largest_answer_is_kept(client: Client, headers: Headers) -> None:
    url = f"/once/bytes?size={LARGEST_BODY}"
    first, again = [await client.post(url, headers=headers) for _ in range(2)]
    assert again.headers["idempotent-replayed"] == "true"
    assert again.content == first.content
    assert len(again.content) > LARGEST_BODY - 3


async def test_stream_is_a_mistake_that_undoes_the_request(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    assert (await client.post("/once/stream", headers=headers)).status_code == 500
    assert await count(held) == 0


async def test_router_without_the_route_class_is_a_mistake(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    assert (await client.post("/plain/model", headers=headers)).status_code == 500
    assert await count(held) == 0


async def test_request_that_deletes_its_account_keeps_nothing(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    assert (await client.post("/once/leave", headers=headers)).status_code == 204
    assert await count(held, IdempotencyKey) == 0
    assert (await client.post("/once/leave", headers=headers)).status_code == 401


async def test_route_for_everybody_ignores_the_key(client: Client) -> None:
    for _ in range(2):
        answer = await client.post("/once/anonymous", headers={"Idempotency-Key": "one"})
        assert answer.json() == "ran"
    assert RAN == ["anonymous"] * 2


@pytest.mark.parametrize("change", ["disabled = true", "credential_version = 9"])
async def test_answer_is_not_sent_to_a_caller_who_lost_access(
    client: Client, held: ProcessResources, owner: User, headers: Headers, change: str
) -> None:
    assert (await client.post("/once/empty", headers=headers)).status_code == 204
    async with held.database.transaction() as session:
        await session.execute(text(f"UPDATE users SET {change} WHERE id = {owner.id}"))
    assert held.cache is not None
    await held.cache.flush()
    assert (await client.post("/once/empty", headers=headers)).status_code == 401
