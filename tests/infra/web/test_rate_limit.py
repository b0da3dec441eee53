"""Clients that send too much get 429, with the headers that say how much is left and when."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from fastapi import FastAPI

from app.infra.dependencies import ReadSession
from app.infra.observability.metrics import REFUSED
from app.infra.rate_limits.limit import By, Limit
from app.infra.web.cacheable import cacheable
from app.infra.web.rate_limited import rate_limited
from app.settings import Settings
from coherent_cache import shows
from dev.valkey import NO_EVICTION
from tests.application import build, running
from tests.faults.load import free_port
from tests.faults.valkey import open_own_valkey
from tests.features.users.factory import UserFactory
from tests.sample.factory import NoteFactory

pytestmark = pytest.mark.usefixtures("clean")
Client = httpx2.AsyncClient
STATE = re.compile(r'("[a-z_]+";r=\d+;t=\d+)(, "[a-z_]+";r=\d+;t=\d+)*')
POLICY = re.compile(r'("[a-z_]+";q=\d+;w=\d+)(, "[a-z_]+";q=\d+;w=\d+)*')
SLOW = "86400"  # gives nothing back while a test runs


def quotas(**named: int) -> str:
    return ",".join(f"{name}={quota}/{SLOW}" for name, quota in named.items()) + ",*=1000000/1"


@asynccontextmanager
async def limited(settings: Settings, **named: int) -> AsyncIterator[FastAPI]:
    """Run the application with these quotas, and with keys of its own in Valkey."""
    values = settings.model_dump()
    values["web_concurrency"] = 1
    values["cache"]["namespace"] = uuid4().hex
    values["rate_limits"]["quotas"] = quotas(**named)
    async with running(Settings.model_validate(values)) as app:
        yield app


def client_at(app: FastAPI, address: str = "203.0.113.9", **options: Any) -> Client:
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False, client=(address, 1))
    return Client(transport=transport, base_url="http://test", **options)


async def statuses(client: Client, times: int, url: str = "/v1/users/me") -> list[int]:
    return [(await client.get(url)).status_code for _ in range(times)]


def limit_names(response: httpx2.Response) -> list[str]:
    return re.findall(r'"(\w+)"', response.headers["ratelimit"])


async def test_a_refusal_is_a_problem_that_says_when_to_try_again(settings: Settings) -> None:
    before = REFUSED.labels("reads")._value.get()
    async with limited(settings, reads=1) as app, client_at(app) as client:
        await client.get("/v1/users/me")
        response = await client.get("/v1/users/me")
    assert response.status_code == 429
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "rate_limited"
    assert response.json()["title"] == "Too Many Requests"
    assert response.headers["retry-after"] == SLOW
    assert f'"reads";r=0;t={SLOW}' in response.headers["ratelimit"]
    assert response.headers["cache-control"] == "private, no-store"
    assert response.headers["x-request-id"] == response.json()["request_id"]
    assert REFUSED.labels("reads")._value.get() == before + 1


async def test_a_wait_of_less_than_a_second_is_rounded_up(settings: Settings) -> None:
    values = settings.model_dump()
    values["cache"]["namespace"] = uuid4().hex
    values["rate_limits"]["quotas"] = "writes=1/1"
    async with running(Settings.model_validate(values)) as app, client_at(app) as client:
        for _ in range(1_000):  # until two requests are within a second
            if (response := await client.patch("/v1/users/me", json={})).status_code == 429:
                break
    assert response.headers["retry-after"] == "1"
    assert '"writes";r=0;t=1' in response.headers["ratelimit"]


async def test_every_limited_response_tells_what_is_left(settings: Settings) -> None:
    async with limited(settings, reads=5, address=100) as app, client_at(app) as client:
        states = [await client.get("/v1/users/me") for _ in range(2)]
    for left, response in zip((4, 3), states, strict=True):
        assert response.headers["ratelimit-policy"] == (
            f'"address";q=100;w={SLOW}, "reads";q=5;w={SLOW}'
        )
        assert STATE.fullmatch(response.headers["ratelimit"])
        assert f'"reads";r={left};' in response.headers["ratelimit"]
        assert f'"address";r={left + 95};' in response.headers["ratelimit"]


async def test_addresses_have_quotas_of_their_own_and_networks_have_one(settings: Settings) -> None:
    async with limited(settings, reads=1) as app:
        for address in ("203.0.113.1", "203.0.113.2", "2001:db8:0:1::1", "2001:db8:0:2::1"):
            async with client_at(app, address) as client:
                assert await statuses(client, 2) == [401, 429], address
        for same in ("::ffff:203.0.113.1", "2001:db8:0:1::ffff"):
            async with client_at(app, same) as client:
                assert await statuses(client, 1) == [429], same


async def test_a_user_has_one_quota_at_all_addresses(settings: Settings) -> None:
    async with limited(settings, reads=2) as app:
        make = UserFactory(app.state.resources)
        ann, bob = await make.user(), await make.user()
        async with (
            client_at(app, "203.0.113.1", headers=make.headers(ann)) as one,
            client_at(app, "203.0.113.2", headers=make.headers(ann)) as two,
            client_at(app, "203.0.113.2", headers=make.headers(bob)) as three,
        ):
            assert await statuses(one, 1) + await statuses(two, 2) == [200, 200, 429]
            assert await statuses(three, 1) == [200]


async def test_users_at_one_address_share_the_quota_of_the_address(settings: Settings) -> None:
    async with limited(settings, address=3) as app:
        make = UserFactory(app.state.resources)
        found = []
        for _ in range(4):
            async with client_at(app, headers=make.headers(await make.user())) as client:
                found += await statuses(client, 1)
    assert found == [200, 200, 200, 429]


@pytest.mark.parametrize("token", ["Bearer forged", "Basic abc", "", "Bearer", "Bearer é"])
async def test_an_invalid_token_counts_for_the_address(settings: Settings, token: str) -> None:
    async with limited(settings, reads=1) as app, client_at(app) as client:
        await client.get("/v1/users/me")
        authorization = (b"authorization", token.encode("latin-1"))
        response = await client.get("/v1/users/me", headers=[authorization])
    assert response.status_code == 429


async def test_reads_and_writes_are_counted_apart(settings: Settings) -> None:
    async with limited(settings, reads=1, writes=1) as app, client_at(app) as client:
        assert await statuses(client, 2) == [401, 429]
        assert (await client.delete("/v1/users/me")).status_code == 401
        assert (await client.patch("/v1/users/me", json={})).status_code == 429


async def test_a_route_may_declare_limits_of_its_own(settings: Settings) -> None:
    async with limited(settings, reads=1, searches=2) as app:

        @app.get("/search")
        @rate_limited(Limit("searches", quota=50, seconds=60, by=By.ADDRESS))
        async def search() -> None: ...

        async with client_at(app) as client:
            assert await statuses(client, 3, "/search") == [200, 200, 429]
            assert await statuses(client, 2) == [401, 429]


async def test_two_limits_with_one_name_are_refused_at_start_up(settings: Settings) -> None:
    app = build(settings)
    for number in (1, 2):
        limit = Limit("searches", quota=number, seconds=60)
        app.get(f"/search/{number}")(rate_limited(limit)(lambda: None))
    with pytest.raises(TypeError, match="Two rate limits have the name 'searches'"):
        async with app.router.lifespan_context(app):
            pass


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_a_method_that_is_not_allowed_is_no_login(settings: Settings, method: str) -> None:
    form = {"username": "ann@example.com", "password": "wrong"}
    async with limited(settings, logins=1) as app, client_at(app) as client:
        for _ in range(3):
            response = await client.request(method, "/v1/auth/token")
            assert response.status_code == 405
            default = "reads" if method in ("GET", "HEAD", "OPTIONS") else "writes"
            assert limit_names(response) == ["address", default]
        assert (await client.post("/v1/auth/token", data=form)).status_code == 400


@pytest.mark.parametrize("path", ["/v1/auth/token", "/v1/users"])
async def test_a_malformed_login_or_registration_counts(settings: Settings, path: str) -> None:
    """The body is not read before the request is counted, so that a refusal costs nothing."""
    async with limited(settings, logins=2, registrations=2) as app, client_at(app) as client:
        found = [(await client.post(path, content=b"{")).status_code for _ in range(3)]
        assert all(400 <= status < 429 for status in found[:2])
        assert found[2] == 429


async def test_a_mounted_application_has_the_default_limits(settings: Settings) -> None:
    async with limited(settings, reads=2, writes=1) as app:
        mounted = FastAPI()
        mounted.add_api_route("/thing", lambda: None, methods=["GET", "POST"])
        app.mount("/mounted", mounted)
        async with client_at(app) as client:
            assert await statuses(client, 3, "/mounted/thing") == [200, 200, 429]
            found = [(await client.post("/mounted/thing")).status_code for _ in range(2)]
            assert found == [200, 429]


async def test_a_route_with_several_methods_counts_reads_and_writes_apart(
    settings: Settings,
) -> None:
    async with limited(settings, reads=2, writes=1) as app:
        app.add_api_route("/thing", lambda: None, methods=["GET", "POST"])
        async with client_at(app) as client:
            assert [(await client.post("/thing")).status_code for _ in range(2)] == [200, 429]
            assert await statuses(client, 3, "/thing") == [200, 200, 429]


@pytest.mark.parametrize("path", ["/nowhere", "/v1/nowhere/7", "/docs-of-customers"])
async def test_paths_without_a_route_are_limited(settings: Settings, path: str) -> None:
    async with limited(settings, reads=2) as app, client_at(app) as client:
        assert await statuses(client, 3, path) == [404, 404, 429]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/docs", "/openapi.json"])
async def test_probes_and_documentation_are_not_limited(settings: Settings, path: str) -> None:
    async with limited(settings, reads=1, address=1) as app, client_at(app) as client:
        for _ in range(3):
            response = await client.get(path)
            assert response.status_code == 200
            assert "ratelimit" not in response.headers


async def test_a_refused_body_is_not_read(settings: Settings) -> None:
    read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read = True
        yield b"{}"

    json = {"Content-Type": "application/json"}
    async with limited(settings, registrations=1) as app, client_at(app, headers=json) as client:
        for status in (422, 429):
            read = False
            response = await client.post("/v1/users", content=body())
            assert (response.status_code, read) == (status, status == 422)


async def test_a_client_that_waits_for_100_continue_is_told_that_the_connection_ends(
    settings: Settings,
) -> None:
    async with limited(settings, writes=1) as app, client_at(app) as client:
        await client.patch("/v1/users/me", json={})
        response = await client.patch("/v1/users/me", json={}, headers={"Expect": "100-continue"})
    assert response.status_code == 429
    assert response.headers["connection"] == "close"


async def test_an_oauth2_client_gets_an_error_in_its_own_form(settings: Settings) -> None:
    form = {"username": "ann@example.com", "password": "wrong"}
    async with limited(settings, logins=1) as app, client_at(app) as client:
        await client.post("/v1/auth/token", data=form)
        response = await client.post("/v1/auth/token", data=form)
    assert response.status_code == 429
    assert response.json()["error"] == "invalid_request"
    assert response.headers["pragma"] == "no-cache"


# Responses from the cache


@pytest.fixture
async def note(app: FastAPI, clean: None) -> str:
    """The path of a cacheable route."""
    make = NoteFactory(app.state.resources)
    return f"/test/notes/{(await make.note(await make.user())).id}"


async def test_responses_from_the_cache_are_limited(settings: Settings, note: str) -> None:
    async with limited(settings, reads=3) as app:
        async with client_at(app) as client:
            responses = [await client.get(note) for _ in range(4)]
            assert [one.status_code for one in responses] == [200, 200, 200, 429]
            assert [one.headers.get("x-cache") for one in responses[:3]] == [
                "MISS",
                "HIT-L1",
                "HIT-L1",
            ]
        async with client_at(app, "203.0.113.1") as other:
            assert await statuses(other, 1, note) == [200]


async def test_head_counts_like_get(settings: Settings, note: str) -> None:
    async with limited(settings, reads=3) as app, client_at(app) as client:
        for method, status in (("HEAD", 200), ("GET", 200), ("HEAD", 200), ("HEAD", 429)):
            response = await client.request(method, note)
            assert response.status_code == status
            assert STATE.fullmatch(response.headers["ratelimit"])


async def test_each_client_gets_its_own_state_with_a_response_from_the_cache(
    settings: Settings, note: str
) -> None:
    async with limited(settings, reads=3) as app:
        left = []
        for address in ("203.0.113.1", "203.0.113.1", "203.0.113.2"):
            async with client_at(app, address) as client:
                response = await client.get(note)
                left += re.findall(r'"reads";r=(\d)', response.headers["ratelimit"])
                assert response.headers["vary"] == "accept-encoding"
    assert left == ["2", "1", "2"]


async def test_a_response_that_is_not_modified_is_limited_and_told(
    settings: Settings, note: str
) -> None:
    async with limited(settings, reads=3) as app, client_at(app) as client:
        etag = (await client.get(note)).headers["etag"]
        for status in (304, 304, 429):
            response = await client.get(note, headers={"If-None-Match": etag})
            assert response.status_code == status
            assert STATE.fullmatch(response.headers["ratelimit"])


async def test_a_request_that_bypasses_the_cache_counts_once(settings: Settings, note: str) -> None:
    async with limited(settings, reads=2) as app, client_at(app) as client:
        for status in (200, 200, 429):
            response = await client.get(note, headers={"Cache-Control": "no-store"})
            assert response.status_code == status
            assert STATE.fullmatch(response.headers["ratelimit"])


async def test_clients_that_wait_for_one_load_are_limited_each_for_itself(
    settings: Settings, note: str
) -> None:
    async with limited(settings, reads=1) as app:
        clients = [client_at(app, f"203.0.113.{number}") for number in range(20)]
        responses = await asyncio.gather(*(client.get(note) for client in clients))
        assert {response.status_code for response in responses} == {200}
        responses = await asyncio.gather(*(client.get(note) for client in clients))
        assert {response.status_code for response in responses} == {429}


async def test_a_response_of_an_instance_with_other_routes_has_the_default_limits(
    settings: Settings,
) -> None:
    """Routes may depend on what instances do not share, such as a variable of the environment."""

    @cacheable()
    async def page(session: ReadSession) -> str:
        shows(session, "page:a")
        return "a"

    values = settings.model_dump()
    values["cache"]["namespace"] = uuid4().hex
    for route, first in (("/pages/{name}", "MISS"), ("/pages/a", "HIT")):
        async with running(Settings.model_validate(values)) as app:
            app.get(route)(page)
            async with client_at(app) as client:
                response = await client.get("/pages/a")
                assert response.headers["x-cache"] == first
                while response.headers["x-cache"] != "HIT-L1":
                    response = await client.get("/pages/a")
                    assert response.status_code == 200
                assert limit_names(response) == ["address", "reads"]


# Without Valkey, and with a Valkey that evicts


@pytest.mark.parametrize("is_away", [False, True])
async def test_start_up_warns_of_a_server_that_evicts_or_is_away(
    settings: Settings, caplog: pytest.LogCaptureFixture, is_away: bool
) -> None:
    values = settings.model_dump()
    url = "redis://:secret@127.0.0.1:1/0" if is_away else os.environ["TEST_VALKEY_URL"]
    values["rate_limits"]["url"] = url
    async with running(Settings.model_validate(values)):
        pass
    [warning] = [one for one in caplog.messages if "rate limits" in one]
    assert "RATE_LIMITS_URL" in warning
    assert ("allkeys-lru" in warning) != is_away
    assert "secret" not in warning


async def test_start_up_warns_of_a_cluster(
    settings: Settings, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    values = settings.model_dump()
    more = f"{NO_EVICTION}cluster-enabled yes\ncluster-port {free_port()}\n"
    with open_own_valkey(tmp_path, more=more) as valkey:
        values["rate_limits"]["url"] = valkey.url
        async with running(Settings.model_validate(values)):
            pass
    [warning] = [one for one in caplog.messages if "rate limits" in one]
    assert "cluster" in warning
    assert "Set RATE_LIMITS_URL" in warning


async def test_start_up_does_not_warn_of_a_server_that_keeps_its_keys(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(settings):
        pass
    assert not [one for one in caplog.messages if "rate limit" in one]


async def test_start_up_warns_of_quotas_for_limits_that_do_not_exist(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with limited(settings, logns=5):
        pass
    [warning] = [one for one in caplog.messages if "RATE_LIMITS_QUOTAS" in one]
    assert "logns" in warning
    assert "logins" in warning


async def test_without_a_cache_the_limits_work_without_valkey(settings: Settings) -> None:
    values = settings.model_dump()
    values["cache"]["enabled"], values["web_concurrency"] = False, 2
    values["rate_limits"] |= {"url": None, "quotas": quotas(reads=4)}
    async with running(Settings.model_validate(values)) as app, client_at(app) as client:
        assert await statuses(client, 3) == [401, 401, 429]


async def test_responses_that_are_not_in_memory_are_limited_too(
    settings: Settings, note: str
) -> None:
    async with limited(settings, reads=1) as app, client_at(app) as client:
        assert (await client.get(note)).status_code == 200
        for url, control in ((note, "no-cache"), ("/test/notes", "max-age=60")):
            response = await client.get(url, headers={"Cache-Control": control})
            assert response.status_code == 429
