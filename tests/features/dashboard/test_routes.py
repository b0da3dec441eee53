"""The dashboard: its parts, and what is left of it when some of them fail."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from app.errors import Unavailable
from app.features.dashboard import queries, service
from app.features.users.models import User
from app.infra.database import separate_reads
from app.infra.database.separate_reads import SeparateReads
from app.infra.http_client import deadline
from app.infra.resources import ProcessResources
from app.settings import Settings
from tests.application import client_of
from tests.features.dashboard.conftest import Open
from tests.features.posts.factory import PostFactory
from tests.served import send_request, served, until
from tests.upstream_server import (
    Answer,
    UpstreamServer,
    hangs,
    hangs_up,
    never_ends,
    open_upstream,
    replies,
)

Headers = dict[str, str]
URL = "/v1/dashboard"
LIMITS = ("connect_timeout", "pool_timeout", "lock_timeout", "statement_timeout", "command_timeout")
PATIENT = {"pool_size": 4, **{f"{name}_seconds": 60 for name in LIMITS}}


@asynccontextmanager
async def locked_posts(database_url: str) -> AsyncIterator[None]:
    """Let nobody read the posts during the block."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE posts")
            yield
    finally:
        await connection.close()


async def read(app: Any, headers: Headers) -> dict[str, Any]:
    async with client_of(app) as client:
        response = await client.get(URL, headers=headers)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_parts_of_the_caller(
    client: httpx2.AsyncClient, make: PostFactory, owner: User, headers: Headers
) -> None:
    response = await client.get(URL, headers=headers)
    assert response.headers["cache-control"] == "private, no-store"
    body = response.json()
    assert body["degraded"] == []
    assert body["profile"] == (await client.get("/v1/users/me", headers=headers)).json()
    posts = (await client.get(f"/v1/posts?author_id={owner.id}&limit=5")).json()["items"]
    assert body["recent_posts"] == posts
    last = posts[0]["created_at"]
    assert body["stats"] == {"posts": 3, "posts_in_30_days": 0, "last_post_at": last}
    assert body["upstream"] is None
    await make.post(owner)
    assert (await client.get(URL, headers=headers)).json()["stats"]["posts_in_30_days"] == 1


async def test_caller_without_posts(client: httpx2.AsyncClient, make: PostFactory) -> None:
    body = (await client.get(URL, headers=make.headers(await make.user()))).json()
    assert body["recent_posts"] == []
    assert body["stats"] == {"posts": 0, "posts_in_30_days": 0, "last_post_at": None}
    assert body["degraded"] == []


async def test_profile_of_the_other_service(
    open_app: Open, profiles: UpstreamServer, owner: User, headers: Headers
) -> None:
    token = SecretStr("a-secret")
    async with open_app(upstream_url=f"{profiles.url}/api", upstream_token=token) as app:
        body = await read(app, headers)
    assert body["upstream"] == {"headline": "Counts things", "location": None}
    assert body["degraded"] == []
    assert profiles.received[0].target == f"/api/profiles/{owner.id}"
    assert profiles.received[0].headers["authorization"] == "Bearer a-secret"


async def test_profile_that_the_other_service_does_not_have(
    open_app: Open, profiles: UpstreamServer, headers: Headers
) -> None:
    profiles.answer = replies(status=404)
    async with open_app(upstream_url=profiles.url) as app:
        body = await read(app, headers)
    assert body["upstream"] is None
    assert body["degraded"] == []


BAD_ANSWERS: dict[str, Answer] = {
    "closes the connection": hangs_up,
    "never answers": hangs,
    "fails": replies(status=500),
    "refuses the token": replies(status=401),
    "answers with HTML": replies(b"<html>"),
    "answers with another type": replies({"headline": ["a"]}),
    "answers with too much text": replies({"headline": "x" * 201}),
    "sends without end": never_ends,
    "redirects": replies(status=302, Location="/elsewhere"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
async def test_other_service_that_fails_takes_nothing_else_away(
    open_app: Open, profiles: UpstreamServer, headers: Headers, case: str
) -> None:
    profiles.answer = BAD_ANSWERS[case]
    seconds = 0.2 if case == "never answers" else 60
    async with open_app(upstream_url=profiles.url, upstream_seconds=seconds) as app:
        body = await read(app, headers)
    assert body["upstream"] is None
    assert body["degraded"] == ["upstream"]
    # No redirect is followed.
    assert {one.target for one in profiles.received} == {f"/profiles/{body['profile']['id']}"}
    assert all(body[part] is not None for part in ("profile", "recent_posts", "stats"))


async def test_other_service_that_is_away(open_app: Open, headers: Headers) -> None:
    async with open_upstream() as gone:
        url = gone.url
    async with open_app(upstream_url=url) as app:
        bodies = [await read(app, headers) for _ in range(5)]  # also when the breaker is open
    assert [body["degraded"] for body in bodies] == [["upstream"]] * 5


async def test_slow_service_opens_its_breaker(
    open_app: Open, profiles: UpstreamServer, headers: Headers
) -> None:
    profiles.answer = hangs
    async with open_app(upstream_url=profiles.url, upstream_seconds=0.1) as app:
        for _ in range(5):
            await read(app, headers)
    assert len(profiles.received) == 3


async def test_part_that_the_database_cannot_read_in_time_is_left_out(
    open_app: Open, database_url: str, headers: Headers
) -> None:
    async with open_app(database=PATIENT, part_seconds=0.3) as app:
        async with locked_posts(database_url), asyncio.timeout(30):  # half of PostgreSQL's limit
            body = await read(app, headers)
        assert body["degraded"] == ["recent_posts", "stats"]
        assert body["recent_posts"] is body["stats"] is None
        assert body["profile"] is not None
        assert app.state.resources.database.engine.pool.checkedout() == 0
        assert (await read(app, headers))["degraded"] == []


async def test_parts_that_were_read_are_sent_when_the_time_of_the_request_ends(
    open_app: Open, database_url: str, headers: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "RESERVE_SECONDS", 2.5)  # the machine may be busy
    async with (
        open_app(database=PATIENT, limits={"request_seconds": 5}) as app,
        locked_posts(database_url),
    ):
        body = await read(app, headers)
    assert body["degraded"] == ["recent_posts", "stats"]
    assert body["profile"] is not None


async def test_part_runs_again_on_a_new_connection_if_its_own_was_lost(
    open_app: Open, headers: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_stats, lost = queries.get_stats, list[bool]()

    async def lose_connection_once(session: Any, author_id: int) -> Any:
        if not lost:
            lost.append(True)
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return await get_stats(session, author_id)

    monkeypatch.setattr(queries, "get_stats", lose_connection_once)
    async with open_app() as app:
        assert (await read(app, headers))["degraded"] == []
    assert lost


async def test_without_any_part_the_answer_is_503(
    open_app: Open, profiles: UpstreamServer, make: PostFactory, owner: User
) -> None:
    profiles.answer = hangs_up
    pool, caller = {"pool_size": 1, "pool_timeout_seconds": 0.05}, await make.caller(owner)
    async with open_app(database=pool, upstream_url=profiles.url) as app:
        held: ProcessResources = app.state.resources
        async with held.database.read() as session:
            await session.execute(text("SELECT 1"))
            with pytest.raises(Unavailable, match="All database connections are busy"):
                await service.read_dashboard(held, caller)
            async with client_of(app) as client:
                response = await client.get(URL, headers=make.headers(owner))
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"


async def test_parts_that_need_the_database_are_missing_while_the_other_service_answers(
    open_app: Open, profiles: UpstreamServer, make: PostFactory, owner: User
) -> None:
    pool, caller = {"pool_size": 1, "pool_timeout_seconds": 0.05}, await make.caller(owner)
    async with open_app(database=pool, upstream_url=profiles.url) as app:
        held: ProcessResources = app.state.resources
        async with held.database.read() as session:
            await session.execute(text("SELECT 1"))
            dashboard = await service.read_dashboard(held, caller)
    assert dashboard.upstream is not None
    assert dashboard.degraded == ["profile", "recent_posts", "stats"]


async def raise_bug(*_: object) -> None:
    raise RuntimeError("a bug")


async def test_bug_in_one_part_is_reported_and_the_others_are_sent(
    client: httpx2.AsyncClient,
    headers: Headers,
    monkeypatch: pytest.MonkeyPatch,
    reports: list[tuple[str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(queries, "get_stats", raise_bug)
    with caplog.at_level(logging.ERROR):
        response = await client.get(URL, headers=headers)
    assert response.json()["degraded"] == ["stats"]
    assert response.json()["profile"] is not None
    assert reports == [("failed_part", "the part stats of the dashboard: RuntimeError")]
    reports.clear()
    assert any(record.exc_info for record in caplog.records)


async def test_bug_in_all_parts_is_a_500(
    client: httpx2.AsyncClient,
    headers: Headers,
    monkeypatch: pytest.MonkeyPatch,
    reports: list[tuple[str, str]],
) -> None:
    for name in ("read", "read_lagging"):
        monkeypatch.setattr(SeparateReads, name, raise_bug)
    response = await client.get(URL, headers=headers)
    assert response.status_code == 500
    reports.clear()


async def test_cancelled_request_cancels_its_parts(
    open_app: Open, database_url: str, profiles: UpstreamServer, headers: Headers
) -> None:
    profiles.answer = hangs
    async with (
        open_app(database=PATIENT, upstream_url=profiles.url) as app,
        client_of(app) as client,
    ):
        async with locked_posts(database_url):
            requests = [asyncio.create_task(client.get(URL, headers=headers)) for _ in range(200)]
            async with asyncio.timeout(60):
                while not profiles.open_connections:
                    await asyncio.sleep(0.02)
            for request in requests:
                request.cancel()
            results = await asyncio.gather(*requests, return_exceptions=True)
            assert {type(result) for result in results} == {asyncio.CancelledError}
            pool = app.state.resources.database.engine.pool
            assert (pool.checkedout(), pool.waiting) == (0, 0)
            async with asyncio.timeout(60):
                while profiles.open_connections:
                    await asyncio.sleep(0.02)
        profiles.answer = replies({"headline": "h"})
        responses = [await client.get(URL, headers=headers) for _ in range(8)]
    assert [response.json()["degraded"] for response in responses] == [[]] * 8


async def test_clients_that_leave_cancel_the_parts(
    open_app: Open,
    settings: Settings,
    database_url: str,
    profiles: UpstreamServer,
    headers: Headers,
    caplog: pytest.LogCaptureFixture,
) -> None:
    profiles.answer = hangs
    async with open_app(database=PATIENT, upstream_url=profiles.url) as app:
        pool = app.state.resources.database.engine.pool
        async with served(app, settings) as url, locked_posts(database_url):
            connections = [await send_request(url, URL, headers) for _ in range(40)]
            await until(lambda: pool.checkedout() == 2 and profiles.open_connections)
            for connection in connections:
                connection.close()
            await until(lambda: not pool.checkedout() and not profiles.open_connections)
        profiles.answer = replies({"headline": "h"})
        assert (await read(app, headers))["degraded"] == []
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


async def test_dashboards_that_cannot_read_the_posts_still_have_the_profile(
    open_app: Open, database_url: str, make: PostFactory
) -> None:
    """They wait for each other, and the part that is locked must not use up their time."""
    users = [await make.user() for _ in range(8)]
    async with open_app(database=PATIENT, part_seconds=2) as app, locked_posts(database_url):
        bodies = await asyncio.gather(*(read(app, make.headers(user)) for user in users))
    assert [body["profile"]["name"] for body in bodies] == [user.name for user in users]
    assert [body["degraded"] for body in bodies] == [["recent_posts", "stats"]] * 8


async def test_user_with_a_slow_part_takes_nothing_from_other_users(
    open_app: Open, make: PostFactory, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_stats, other = queries.get_stats, await make.user()

    async def read_slowly(session: Any, author_id: int) -> Any:
        if author_id == owner.id:
            await asyncio.Event().wait()
        return await get_stats(session, author_id)

    monkeypatch.setattr(queries, "get_stats", read_slowly)
    monkeypatch.setattr(separate_reads, "TRIAL_SHARE", 1)  # the machine may be busy
    pool = {**PATIENT, "pool_size": 2}  # parts run one after the other
    async with open_app(database=pool, part_seconds=2) as app:
        users = (owner, other, owner, other)
        bodies = await asyncio.gather(*(read(app, make.headers(user)) for user in users))
    assert [body["degraded"] for body in bodies] == [["stats"], [], ["stats"], []]


async def test_many_dashboards_share_a_small_pool(open_app: Open, headers: Headers) -> None:
    async with open_app(database=PATIENT) as app, client_of(app) as client:
        responses = await asyncio.gather(*(client.get(URL, headers=headers) for _ in range(64)))
        assert app.state.resources.database.engine.pool.checkedout() == 0
    assert {response.status_code for response in responses} == {200}
    assert all(response.json()["degraded"] == [] for response in responses)


async def test_dashboards_that_hang_leave_connections_to_other_requests(
    open_app: Open, database_url: str, headers: Headers
) -> None:
    async with open_app(database=PATIENT) as app, client_of(app) as client:
        pool = app.state.resources.database.engine.pool
        async with locked_posts(database_url):
            hanging = [asyncio.create_task(client.get(URL, headers=headers)) for _ in range(20)]
            async with asyncio.timeout(60):
                while pool.checkedout() < 2:
                    await asyncio.sleep(0.02)
                response = await client.get("/v1/users/me", headers=headers)
            assert response.status_code == 200
            assert not any(task.done() for task in hanging)
        responses = await asyncio.gather(*hanging)
    assert all(response.json()["degraded"] == [] for response in responses)
