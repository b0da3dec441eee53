"""The text of a profile is kept as it is."""

from typing import Any

import httpx2
import pytest
from hypothesis import example, given

from tests.features.users.factory import UserFactory
from tests.texts import BOUNDS, texts

Client = httpx2.AsyncClient


@pytest.fixture
async def headers(make: UserFactory) -> dict[str, str]:
    return make.headers(await make.user())


@pytest.mark.slow
@BOUNDS
@given(name=texts(100), bio=texts(500, shortest=0))
@example(name=" \tA name\n", bio="\r\n")
async def test_an_account_comes_back_as_it_was_sent(
    client: Client, headers: dict[str, str], name: str, bio: str
) -> None:
    sent: dict[str, Any] = {"name": name, "bio": bio}
    changed = await client.patch("/v1/users/me", json=sent, headers=headers)
    account = changed.raise_for_status().json()
    read = await client.get(f"/v1/users/{account['id']}")
    for response in (changed, read):
        assert {key: response.json()[key] for key in sent} == sent
