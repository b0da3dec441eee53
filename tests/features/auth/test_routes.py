"""The routes of `/v1/auth`."""

from datetime import UTC, datetime, timedelta

import argon2
import httpx2
import jwt
import pytest
from argon2 import PasswordHasher

from app.infra.resources import ProcessResources
from app.settings import Settings
from tests.features.users.factory import PASSWORD, UserFactory

Client = httpx2.AsyncClient


async def log_in(client: Client, email: str, password: str) -> httpx2.Response:
    """Request a token."""
    form = {"username": email, "password": password, "grant_type": "password"}
    return await client.post("/v1/auth/token", data=form)


async def test_access_token_identifies_the_caller(client: Client, make: UserFactory) -> None:
    user = await make.user()
    response = await log_in(client, user.email.upper(), PASSWORD)
    assert response.status_code == 200
    token = response.json()
    assert set(token) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (token["token_type"], token["expires_in"]) == ("bearer", 900)
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    assert (await client.get("/v1/users/me", headers=headers)).json()["id"] == user.id


async def test_unknown_account_gets_the_same_answer_as_a_wrong_password(
    client: Client, make: UserFactory
) -> None:
    user = await make.user()
    wrong = await log_in(client, user.email, "not the password")
    unknown = await log_in(client, "nobody@example.com", PASSWORD)
    assert wrong.status_code == unknown.status_code == 400
    assert wrong.json()["code"] == "invalid_credentials"
    assert wrong.json()["error"] == "invalid_grant"
    ignored = {"request_id"}
    assert {k: v for k, v in wrong.json().items() if k not in ignored} == {
        k: v for k, v in unknown.json().items() if k not in ignored
    }


async def test_login_computes_as_many_hashes_for_an_unknown_account(
    client: Client, make: UserFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await make.user()
    hashed: list[str] = []
    verify = PasswordHasher.verify

    def counted(hasher: PasswordHasher, encoded: str, password: str) -> bool:
        hashed.append(encoded)
        return verify(hasher, encoded, password)

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    costs = []
    for email in (user.email, "nobody@example.com", "no address"):
        hashed.clear()
        assert (await log_in(client, email, "not the password")).status_code == 400
        costs.append([argon2.extract_parameters(encoded) for encoded in hashed])
    assert costs[0]
    assert costs == costs[:1] * 3


REFRESH = {"grant_type": "refresh_token"}


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"username": "a@example.com"},
        {"password": "x"},
        {"username": "", "password": "x"},
        {"username": "a@example.com\0", "password": "x"},
        {"username": "a@example.com", "password": "x", **REFRESH},
        REFRESH,
        {"refresh_token": "x"},
        {"refresh_token": "x" * 129, **REFRESH},
    ],
)
async def test_incomplete_form_is_an_invalid_request(client: Client, form: dict[str, str]) -> None:
    response = await client.post("/v1/auth/token", data=form)
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")
    assert response.json()["errors"]


@pytest.mark.parametrize("grant_type", ["client_credentials", "Password", "password "])
async def test_unknown_grant_type_is_unsupported(client: Client, grant_type: str) -> None:
    form = {"username": "a@example.com", "password": "x", "grant_type": grant_type}
    response = await client.post("/v1/auth/token", data=form)
    assert (response.status_code, response.json()["error"]) == (400, "unsupported_grant_type")


async def test_repeated_form_field_is_an_invalid_request(client: Client, make: UserFactory) -> None:
    user = await make.user()
    for name in ("username", "password", "grant_type", "scope"):
        form = {"grant_type": "password", "username": user.email, "password": PASSWORD}
        twice = {**form, name: [form.get(name, "a")] * 2}
        response = await client.post("/v1/auth/token", data=twice)
        assert (response.status_code, response.json()["error"]) == (400, "invalid_request"), name


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"x", "text/plain", 415),
        (b"{}", "application/json", 400),
        (b"a" * 9_000, "application/x-www-form-urlencoded", 413),
        (b"a=b&" * 20, "application/x-www-form-urlencoded", 400),
        (b"--a", "multipart/form-data", 400),
    ],
)
async def test_every_error_of_the_token_endpoint_has_the_oauth2_form(
    client: Client, content: bytes, media_type: str, status: int
) -> None:
    headers = {"Content-Type": media_type}
    response = await client.post("/v1/auth/token", content=content, headers=headers)
    assert (response.status_code, response.json()["error"]) == (status, "invalid_request")
    assert response.json()["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.headers["cache-control"], response.headers["pragma"]) == (
        "no-store",
        "no-cache",
    )


async def test_refresh_token_works_once_at_the_token_endpoint(
    client: Client, make: UserFactory
) -> None:
    user = await make.user()
    token = (await log_in(client, user.email, PASSWORD)).json()["refresh_token"]
    form = {"grant_type": "refresh_token", "refresh_token": token}
    first = await client.post("/v1/auth/token", data=form)
    assert first.status_code == 200
    assert first.json()["refresh_token"] != token
    again = await client.post("/v1/auth/token", data=form)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    # The family is revoked.
    form["refresh_token"] = first.json()["refresh_token"]
    assert (await client.post("/v1/auth/token", data=form)).status_code == 400


async def test_errors_of_other_endpoints_do_not_have_the_oauth2_form(client: Client) -> None:
    response = await client.post("/v1/auth/refresh", json={"refresh_token": "x"})
    assert response.status_code == 401
    assert "error" not in response.json()
    assert response.headers["www-authenticate"] == "Bearer"


def forged(settings: Settings, user_id: int, **changes: object) -> str:
    """Return a valid token with some claims changed, or removed if they are None."""
    now = datetime.now(UTC)
    claims: dict[str, object] = {
        "sub": str(user_id),
        "typ": "access",
        "iss": settings.auth.issuer,
        "aud": settings.auth.audience,
        "iat": now,
        "exp": now + timedelta(minutes=1),
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, settings.auth.secret.get_secret_value(), "HS256")


async def test_token_with_valid_claims_is_accepted(
    client: Client, make: UserFactory, settings: Settings
) -> None:
    user = await make.user()
    headers = {"Authorization": f"Bearer {forged(settings, user.id)}"}
    assert (await client.get("/v1/users/me", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1},
        {"exp": None},
        {"typ": "refresh"},
        {"typ": None},
        {"iss": "somebody"},
        {"iss": None},
        {"aud": "somebody"},
        {"aud": None},
        {"iat": None},
        {"sub": None},
        {"sub": "me"},
        {"sub": str(2**63)},
    ],
)
async def test_token_with_wrong_claims_is_401(
    client: Client, make: UserFactory, settings: Settings, changes: dict[str, object]
) -> None:
    user = await make.user()
    headers = {"Authorization": f"Bearer {forged(settings, user.id, **changes)}"}
    response = await client.get("/v1/users/me", headers=headers)
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"


async def test_token_with_another_signature_is_401(
    client: Client, make: UserFactory, settings: Settings
) -> None:
    user = await make.user()
    good = forged(settings, user.id)
    head, body, signature = good.split(".")
    claims = jwt.decode(good, options={"verify_signature": False})
    secret = settings.auth.secret.get_secret_value()
    for token in (
        f"{head}.{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}",
        f"{head}.{body}.",
        jwt.encode(claims, "", "none"),
        jwt.encode(claims, secret, "HS384"),
        jwt.encode(claims, "x" * 64, "HS256"),
        "not-a-token",
        "a" * 100_000,
    ):
        response = await client.get("/v1/users/me", headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 401, token[:50]


@pytest.mark.slow
async def test_cached_token_still_expires(
    client: Client, make: UserFactory, resources: ProcessResources, settings: Settings
) -> None:
    user = await make.user()
    soon = datetime.now(UTC) + timedelta(seconds=1)
    token = forged(settings, user.id, exp=soon)
    headers = {"Authorization": f"Bearer {token}"}
    status = (await client.get("/v1/users/me", headers=headers)).status_code
    assert status == (200 if datetime.now(UTC) < soon else 401)
    while datetime.now(UTC) <= soon:
        await client.get("/livez")
    assert (await client.get("/v1/users/me", headers=headers)).status_code == 401


async def test_token_of_a_deleted_account_is_401(client: Client, make: UserFactory) -> None:
    user = await make.user()
    user.id += 1000
    response = await client.get("/v1/users/me", headers=make.headers(user))
    assert response.status_code == 401
    assert response.json()["code"] == "unauthenticated"


@pytest.mark.parametrize(
    ("registered", "typed"),
    [("jose\u0301@example.com", "jos\u00e9@example.com"), ("a@xn--bcher-kva.com", "A@bücher.com")],
)
async def test_login_accepts_every_spelling_of_an_address(
    client: Client, registered: str, typed: str
) -> None:
    account = {"email": registered, "name": "Ann", "password": PASSWORD}
    assert (await client.post("/v1/users", json=account)).status_code == 201
    for email in (registered, typed):
        response = await log_in(client, email, PASSWORD)
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["pragma"] == "no-cache"
