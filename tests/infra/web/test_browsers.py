"""Security headers, CORS, trusted hosts and the documentation page."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from app.main import create_app
from app.settings import Settings, load_settings
from tests.application import client_of, running
from tests.sample.factory import NoteFactory

Client = httpx2.AsyncClient
OURS, THEIRS = "https://app.example.com", "https://evil.example.org"


@asynccontextmanager
async def client_with(settings: Settings, **sections: Any) -> AsyncIterator[Client]:
    changed = {
        name: getattr(settings, name).model_copy(update=values) for name, values in sections.items()
    }
    async with (
        running(settings.model_copy(update=changed)) as app,
        client_of(app) as client,
    ):
        yield client


@pytest.mark.parametrize("path", ["/test/notes", "/nowhere", "/livez", "/docs", "/metrics"])
async def test_every_answer_has_security_headers(client: Client, path: str) -> None:
    for _ in range(2):  # the second answer may come from the cache
        headers = (await client.get(path)).headers
        assert headers.get_list("x-content-type-options") == ["nosniff"]
        assert headers.get_list("referrer-policy") == ["no-referrer"]
        assert "strict-transport-security" not in headers


async def test_documentation_cannot_be_shown_in_a_frame(client: Client) -> None:
    headers = (await client.get("/docs")).headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cross-origin-resource-policy"] == "same-origin"


async def test_hsts_is_sent_when_it_is_set(settings: Settings) -> None:
    async with client_with(settings, server={"hsts_seconds": 60}) as client:
        header = (await client.get("/livez")).headers["strict-transport-security"]
    assert header == "max-age=60; includeSubDomains"


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("example.com", True),
        ("EXAMPLE.com:8000", True),
        ("a.b.example.org", True),
        ("[::1]:8000", True),
        ("example.org", False),
        ("badexample.org", False),
        ("example.com.evil.net", False),
        ("", False),
    ],
)
async def test_other_hosts_are_refused(
    settings: Settings, clean: None, host: str, is_ours: bool
) -> None:
    hosts = {"hosts": "example.com,*.example.org,[::1]"}
    async with client_with(settings, limits=hosts) as client:
        await client.get("/test/notes", headers={"Host": "example.com"})  # now the answer is cached
        response = await client.get("/test/notes", headers={"Host": host})
        assert response.status_code == (200 if is_ours else 400)
        assert is_ours or response.json()["code"] == "bad_request"
        for path in ("/livez", "/readyz"):
            assert (await client.get(path, headers={"Host": host})).status_code == 200


async def test_cached_answer_has_the_cors_headers_of_its_caller(
    settings: Settings, make: NoteFactory
) -> None:
    note = await make.note(await make.user())
    async with client_with(settings, cors={"origins": f"{OURS},https://b.example.com"}) as client:
        seen = []
        for origin in (OURS, THEIRS, None, "https://b.example.com", OURS):
            headers = {} if origin is None else {"Origin": origin}
            response = await client.get(f"/test/notes/{note.id}", headers=headers)
            varies = {name.strip().lower() for name in response.headers["vary"].split(",")}
            assert varies == {"origin", "accept-encoding"}
            allowed = response.headers.get("access-control-allow-origin")
            seen.append((response.headers["x-cache"][:3], allowed))
    assert seen == [
        ("MIS", OURS),
        ("HIT", None),
        ("HIT", None),
        ("HIT", "https://b.example.com"),
        ("HIT", OURS),
    ]


async def test_errors_can_be_read_by_allowed_origins(settings: Settings) -> None:
    async with client_with(settings, cors={"origins": OURS}) as client:
        for path in ("/nowhere", "/v1/users/me", "/test/notes?limit=0"):
            response = await client.get(path, headers={"Origin": OURS})
            assert response.is_client_error
            assert response.headers["access-control-allow-origin"] == OURS
            assert "X-Request-ID" in response.headers["access-control-expose-headers"]


async def test_preflight_lists_the_allowed_headers(settings: Settings) -> None:
    asked = {"Access-Control-Request-Method": "PATCH"}
    asked["Access-Control-Request-Headers"] = "authorization,content-type,if-match"
    async with client_with(settings, cors={"origins": OURS}) as client:
        for origin, status in ((OURS, 200), (THEIRS, 400)):
            response = await client.options("/test/notes/1", headers={"Origin": origin, **asked})
            assert response.status_code == status
            assert (response.headers.get("access-control-allow-origin") == OURS) == (status == 200)
            assert "access-control-allow-credentials" not in response.headers
    assert response.headers["content-type"] == "application/problem+json"
    told = {"status": 400, "code": "bad_request", "detail": "Disallowed CORS origin."}
    assert response.json() | told | {"instance": "/test/notes/1"} == response.json()


TRACING = ("traceparent", "tracestate", "baggage", "sentry-trace")


@pytest.mark.parametrize("origins", [OURS, "*"])
async def test_tracing_headers_are_allowed(settings: Settings, origins: str) -> None:
    asked = {"Origin": OURS, "Access-Control-Request-Method": "GET"}
    async with client_with(settings, cors={"origins": origins}) as client:
        for names in (*TRACING, ",".join(TRACING), "Traceparent, Baggage"):
            headers = asked | {"Access-Control-Request-Headers": names}
            response = await client.options("/test/notes/1", headers=headers)
            assert response.status_code == 200, names
            allowed = response.headers["access-control-allow-headers"].lower().split(", ")
            assert set(TRACING) <= set(allowed)


async def test_headers_in_the_setting_are_allowed(settings: Settings) -> None:
    asked = {"Origin": OURS, "Access-Control-Request-Method": "GET"}
    asked["Access-Control-Request-Headers"] = "x-client-version,traceparent"
    for headers, status in (("X-Client-Version,X-Other", 200), ("", 400), ("X-Other", 400)):
        async with client_with(settings, cors={"origins": OURS, "headers": headers}) as client:
            response = await client.options("/test/notes/1", headers=asked)
        assert response.status_code == status


async def test_all_origins_can_be_allowed(settings: Settings) -> None:
    async with client_with(settings, cors={"origins": "*"}) as client:
        response = await client.get("/livez", headers={"Origin": THEIRS})
    assert response.headers["access-control-allow-origin"] == "*"


async def test_without_the_setting_there_are_no_cors_headers(client: Client) -> None:
    response = await client.get("/test/notes", headers={"Origin": OURS})
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert response.headers["vary"] == "accept-encoding"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIMITS_HOSTS", "https://example.com"),
        ("LIMITS_HOSTS", "example.com:8000"),
        ("LIMITS_HOSTS", "*"),
        ("LIMITS_HOSTS", "a.*.com"),
        ("CORS_ORIGINS", "example.com"),
        ("CORS_ORIGINS", "https://example.com/"),
        ("CORS_ORIGINS", "https://a.com,*"),
        ("CORS_HEADERS", "*"),
        ("CORS_HEADERS", "X-A,"),
        ("CORS_HEADERS", "X A"),
        ("CORS_HEADERS", "X-A\r\nX-B: 1"),
        ("CORS_HEADERS", "x" * 501),
    ],
)
def test_invalid_hosts_and_origins_are_refused_at_start_up(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=name):
        load_settings()


async def test_documentation_is_off_in_production_unless_enabled(
    settings: Settings,
) -> None:
    production = settings.model_copy(update={"environment": "production"})
    shown = {"docs": settings.docs.model_copy(update={"enabled": True})}
    for changed, status in ((production, 404), (production.model_copy(update=shown), 200)):
        async with client_of(create_app(changed)) as client:
            for path in ("/docs", "/openapi.json"):
                assert (await client.get(path)).status_code == status
