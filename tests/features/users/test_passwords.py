"""A password is the same in every Unicode form (RFC 8265, OpaqueString)."""

import httpx2
import pytest
from argon2 import PasswordHasher

from tests.features.users.factory import PASSWORD, UserFactory

Client = httpx2.AsyncClient

# Each line is one password in two Unicode forms: composed or not, and with two kinds of space.
SPELLINGS = [
    ("caf\u00e9 caf\u00e9", "cafe\u0301 cafe\u0301"),
    ("caf\u00e9 caf\u00e9", "caf\u00e9\u3000cafe\u0301"),
    ("\u1ebf" * 128, "e\u0302\u0301" * 128),
]
CHEAP = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


async def log_in(client: Client, email: str, password: str) -> int:
    form = {"username": email, "password": password}
    return (await client.post("/v1/auth/token", data=form)).status_code


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
async def test_login_accepts_every_unicode_form_of_a_password(
    client: Client, one: str, other: str
) -> None:
    for registered in (one, other):
        account = {"email": "ada@example.com", "name": "Ada", "password": registered}
        created = await client.post("/v1/users", json=account)
        assert created.status_code == 201
        assert [await log_in(client, "ada@example.com", typed) for typed in (one, other)] == [
            200
        ] * 2
        token = await client.post(
            "/v1/auth/token", data={"username": "ada@example.com", "password": one}
        )
        headers = {"Authorization": f"Bearer {token.json()['access_token']}"}
        changes = {"current_password": other, "password": one}
        changed = await client.patch("/v1/users/me", json=changes, headers=headers)
        assert changed.status_code == 200
        token = await client.post(
            "/v1/auth/token", data={"username": "ada@example.com", "password": other}
        )
        headers = {"Authorization": f"Bearer {token.json()['access_token']}"}
        assert (await client.delete("/v1/users/me", headers=headers)).status_code == 204


@pytest.mark.parametrize(
    "password",
    [
        "",
        "short",
        "e\u0301" * 7,  # 14 code points, 7 characters
        "x" * 129,
        "tab\tin between",
        "line\nin between",
        "\x7fdelete key",
        "next\u0085line",
        "\u0000 nothing",
    ],
)
async def test_password_has_8_to_128_characters_and_no_control_characters(
    client: Client, make: UserFactory, password: str
) -> None:
    account = {"email": "ada@example.com", "name": "Ada", "password": password}
    assert (await client.post("/v1/users", json=account)).status_code == 422
    headers = make.headers(await make.user())
    changes = {"current_password": PASSWORD, "password": password}
    assert (await client.patch("/v1/users/me", json=changes, headers=headers)).status_code == 422


async def test_hash_from_before_normalisation_still_works(
    client: Client, make: UserFactory
) -> None:
    one, other = SPELLINGS[0]
    user = await make.user(password_hash=CHEAP.hash(other))
    assert await log_in(client, user.email, one) == 400
    headers = make.headers(user)
    changes = {"current_password": other, "email": "new@example.com"}
    assert (await client.patch("/v1/users/me", json=changes, headers=headers)).status_code == 200
    assert await log_in(client, "new@example.com", other) == 200
    # The login has stored a hash of the normalised form, so the other form works now.
    assert await log_in(client, "new@example.com", one) == 200


async def test_old_password_with_control_characters_still_works(
    client: Client, make: UserFactory
) -> None:
    user = await make.user(password_hash=CHEAP.hash("tab\tin between"))
    for _ in range(2):
        assert await log_in(client, user.email, "tab\tin between") == 200
