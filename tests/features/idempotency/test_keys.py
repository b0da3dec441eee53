"""Which values an Idempotency-Key may have."""

import logging

import httpx2
import pytest
from sqlalchemy import select

from app.features.idempotency.models import IdempotencyKey
from app.infra.resources import ProcessResources

Client = httpx2.AsyncClient
Headers = dict[str, str]

VALID = ["a", "a" * 255, '"8e03978e-40d5-43e8-bc93-6894a57f9324"', "a,b;c='d'\\~!", "%00\\x00"]
INVALID = ["", "a" * 256, "a b", "a\tb", "a\x7f", "ü", "\xa0", "\x01", "ключ"]


@pytest.mark.parametrize("key", VALID)
async def test_visible_characters_are_a_key(
    client: Client, held: ProcessResources, headers: Headers, key: str
) -> None:
    for _ in range(2):
        answer = await client.post("/once/empty", headers={**headers, "Idempotency-Key": key})
        assert answer.status_code == 204
    assert answer.headers["idempotent-replayed"] == "true"
    async with held.database.read() as session:
        assert (await session.scalars(select(IdempotencyKey.key))).all() == [key]


@pytest.mark.parametrize("key", INVALID)
async def test_other_values_are_refused(
    client: Client, held: ProcessResources, headers: Headers, key: str
) -> None:
    sent = httpx2.Headers({**headers, "Idempotency-Key": key}, encoding="utf-8")
    answer = await client.post("/once/empty", headers=sent)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_request")
    assert problem["errors"][0]["loc"] == ["header", "Idempotency-Key"]
    async with held.database.read() as session:
        assert await session.scalar(select(IdempotencyKey)) is None


async def test_two_keys_are_refused(client: Client, headers: Headers) -> None:
    for second in ("one", "two"):
        sent = [*headers.items(), ("Idempotency-Key", second)]
        answer = await client.post("/once/empty", headers=sent)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_upper_and_lower_case_are_different_keys(client: Client, headers: Headers) -> None:
    for key in ("k", "K"):
        answer = await client.post("/once/empty", headers={**headers, "Idempotency-Key": key})
        assert "idempotent-replayed" not in answer.headers


async def test_key_is_not_logged(
    client: Client, headers: Headers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sent = {**headers, "Idempotency-Key": "do-not-log-me"}
    for path in ("empty", "empty", "bytes", "stream", "undone", "late", "model"):
        await client.post(f"/once/{path}", headers=sent)
    sent["Idempotency-Key"] = "do-not-log-me-either"
    for path in ("stream", "late", "undone"):
        await client.post(f"/once/{path}", headers=sent)
    assert caplog.records
    assert "do-not-log-me" not in caplog.text
