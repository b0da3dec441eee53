"""The stream of new comments: what a client receives, and in which order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx2
import pytest
from fastapi import FastAPI
from redis.asyncio import Redis
from sqlalchemy import text

from app.features.comments import service as comments
from app.features.comments.schemas import CommentCreate
from app.infra.cache.settings import ValkeySettings
from app.infra.events import hub as hub_module
from app.infra.resources import ProcessResources
from coherent_cache.channel import Channel
from tests.application import client_of, recorded_statements
from tests.cached_app import cache_of, settled
from tests.coherent_cache.worker import eventually
from tests.features.comments.factory import CommentFactory
from tests.listeners import listening

Client = httpx2.AsyncClient


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    await settled(service)
    async with client_of(service) as client:
        yield client


@pytest.fixture
def make(service: FastAPI, clean: None) -> CommentFactory:
    return CommentFactory(service.state.resources)


class Post:
    """A post, and someone who comments on it."""

    def __init__(self, client: Client, post_id: int, headers: dict[str, str]) -> None:
        self.id = post_id
        self.url = f"/v1/posts/{post_id}"
        self.stream = f"{self.url}/comments/stream"
        self.headers = headers
        self._client = client

    async def comment(self, body: str = "Yes") -> int:
        sent = {"json": {"body": body}, "headers": self.headers}
        response = await self._client.post(f"{self.url}/comments", **sent)  # type: ignore[arg-type]
        assert response.status_code == 201
        comment_id: int = response.json()["id"]
        return comment_id

    async def comments(self, number: int) -> list[int]:
        return [await self.comment(str(i)) for i in range(number)]

    async def delete(self) -> None:
        assert (await self._client.delete(self.url, headers=self.headers)).status_code == 204


@pytest.fixture
async def post(client: Client, make: CommentFactory) -> Post:
    author = await make.user(name="Ann")
    return Post(client, (await make.post(author)).id, make.headers(author))


# What a client receives


async def test_new_comment_arrives_as_it_is_in_the_list(
    client: Client, service: FastAPI, post: Post
) -> None:
    await post.comment("before")
    async with listening(service, post.stream) as listener:
        comment_id = await post.comment("two\nlines — ü")
        await listener.received(comment_id)
    [event] = listener.events
    listed = (await client.get(f"{post.url}/comments")).json()["items"]
    assert event.event == "comment"
    assert event.data == listed[-1]


async def test_response_is_a_stream_that_no_proxy_keeps_back(service: FastAPI, post: Post) -> None:
    async with listening(service, post.stream, headers={"accept-encoding": "gzip"}) as listener:
        assert listener.status == 200
        headers = listener.headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "private, no-store"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers
    assert "content-encoding" not in headers
    assert listener.content.startswith(b"retry: ")


async def test_comment_of_another_process_arrives(
    service: FastAPI, another_process: FastAPI, post: Post
) -> None:
    await settled(another_process)
    async with (
        listening(service, post.stream) as here,
        listening(another_process, post.stream) as there,
    ):
        comment_ids = await post.comments(3)
        await there.received(*comment_ids)
        await here.received(*comment_ids)


async def test_comments_of_other_posts_do_not_arrive(
    client: Client, service: FastAPI, make: CommentFactory, post: Post
) -> None:
    author = await make.user()
    other = Post(client, (await make.post(author)).id, make.headers(author))
    async with listening(service, post.stream, last=0) as listener:
        await other.comments(2)
        own = await post.comment()
        await listener.received(own)


# Where it begins


async def test_client_receives_what_it_missed_and_then_what_is_new(
    service: FastAPI, post: Post
) -> None:
    first, *missed = await post.comments(4)
    async with listening(service, post.stream, last=first) as listener:
        await listener.received(*missed)
        new = await post.comment()
        await listener.received(*missed, new)


async def test_first_request_of_a_browser_names_the_last_comment_in_the_query(
    service: FastAPI, post: Post
) -> None:
    first, second, third = await post.comments(3)
    async with listening(service, f"{post.stream}?after={first}") as listener:
        await listener.received(second, third)
    # The header of a reconnection counts, because a browser repeats the query of its first request.
    async with listening(service, f"{post.stream}?after={first}", last=second) as listener:
        await listener.received(third)


async def test_all_comments_arrive_after_0(service: FastAPI, post: Post) -> None:
    found = await post.comments(3)
    async with listening(service, f"{post.stream}?after=0") as listener:
        await listener.received(*found)


async def test_list_and_stream_together_miss_nothing(
    client: Client, service: FastAPI, post: Post
) -> None:
    """The list hands over to the stream by the id of its last comment."""
    await post.comments(2)
    listed = (await client.get(f"{post.url}/comments")).json()["items"]
    between = await post.comment()
    async with listening(service, f"{post.stream}?after={listed[-1]['id']}") as listener:
        later = await post.comment()
        await listener.received(between, later)


async def test_last_event_may_have_been_deleted(
    client: Client, service: FastAPI, post: Post
) -> None:
    first, second = await post.comments(2)
    deleted = await client.delete(f"/v1/comments/{second}", headers=post.headers)
    assert deleted.status_code == 204
    async with listening(service, post.stream, last=second) as listener:
        third = await post.comment()
        await listener.received(third)
    assert first not in listener.ids


@pytest.mark.parametrize("last", [2**63 - 1, 10**12])
async def test_id_that_does_not_exist_yet_counts_as_the_newest(
    service: FastAPI, post: Post, last: int
) -> None:
    await post.comments(2)
    async with listening(service, post.stream, last=last) as listener:
        await listener.received(await post.comment())


async def test_id_of_another_post_is_a_place_in_the_same_order(
    client: Client, service: FastAPI, make: CommentFactory, post: Post
) -> None:
    author = await make.user()
    other = Post(client, (await make.post(author)).id, make.headers(author))
    before = await post.comment()
    between = await other.comment()
    after = await post.comment()
    async with listening(service, post.stream, last=between) as listener:
        await listener.received(after)
    async with listening(service, post.stream, last=before - 1) as listener:
        await listener.received(before, after)


@pytest.mark.parametrize("last", ["", "x", "-1", "1.5", "1_0", "9" * 30, "null", "\x00"])
async def test_last_event_id_that_is_no_id_is_refused(
    client: Client, post: Post, last: str
) -> None:
    by_header = await client.get(post.stream, headers={"Last-Event-ID": last})
    by_query = await client.get(post.stream, params={"after": last})
    for response in (by_header, by_query):
        assert response.status_code == 422
        assert response.json()["code"] == "invalid_request"


@pytest.mark.slow
async def test_ten_thousand_missed_comments_arrive_once_and_in_order(
    service: FastAPI, post: Post
) -> None:
    resources: ProcessResources = service.state.resources
    first = await post.comment()
    async with resources.database.transaction() as session:
        inserted = await session.execute(
            text(
                "INSERT INTO comments (post_id, author_id, body) SELECT post_id, author_id, i "
                "FROM comments, generate_series(1, 10000) i WHERE id = :first RETURNING id"
            ),
            {"first": first},
        )
        missed = sorted(inserted.scalars())
    async with listening(service, post.stream, last=first) as listener:
        await eventually(lambda: listener.content.count(b"\ndata: ") >= 5_000)
        new = await post.comment()  # while the client still catches up
        await eventually(lambda: listener.content.count(b"\ndata: ") > 10_000)
        assert listener.ids == [*missed, new]


# What has been deleted


async def test_deleted_comment_is_not_sent_to_a_client_that_comes_later(
    client: Client, service: FastAPI, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client has had it, and its process had kept it."""
    monkeypatch.setattr(hub_module, "CHECK_SECONDS", 3_600)
    monkeypatch.setattr("app.infra.events.topic.KEPT_SECONDS", 3_600)
    first = await post.comment()
    async with listening(service, post.stream) as listener:
        second = await post.comment()
        await listener.received(second)
        deleted = await client.delete(f"/v1/comments/{second}", headers=post.headers)
        assert deleted.status_code == 204
        [[topic]] = service.state.event_hub._topics.values()
        await eventually(lambda: topic.after(first) is None)
        async with listening(service, f"{post.stream}?after={first}") as late:
            third = await post.comment()
            await late.received(third)
            await listener.received(second, third)


async def test_name_of_an_author_is_not_older_than_the_topic_may_keep_it(
    client: Client, service: FastAPI, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new name does not change the post, so no message says that the event is old."""
    monkeypatch.setattr(hub_module, "CHECK_SECONDS", 3_600)
    monkeypatch.setattr("app.infra.events.topic.KEPT_SECONDS", 0.01)
    resources: ProcessResources = service.state.resources
    async with listening(service, post.stream) as listener:
        comment_id = await post.comment()
        await listener.received(comment_id)
        async with resources.database.transaction() as session:
            await session.execute(text("UPDATE users SET name = 'Deleted'"))
        await asyncio.sleep(0.02)
        async with listening(service, f"{post.stream}?after=0") as late:
            await late.received(comment_id)
    assert late.events[0].data["author"]["name"] == "Deleted"


# The order of ids


async def test_comments_of_a_post_become_visible_in_the_order_of_their_ids(
    service: FastAPI, make: CommentFactory
) -> None:
    """The second transaction cannot draw an id, and still less commit, before the first one ends.

    Otherwise a stream could send the second comment, and would never ask for the first.
    """
    resources: ProcessResources = service.state.resources
    user = await make.user()
    author, post = await make.caller(user), await make.post(user)
    created: list[int] = []

    async def comment() -> None:
        async with resources.database.transaction() as session:
            found = await comments.create_comment(session, author, post.id, CommentCreate(body="B"))
            created.append(found.id)

    async with listening(service, f"/v1/posts/{post.id}/comments/stream") as listener:
        async with resources.database.transaction() as session:
            first = await comments.create_comment(session, author, post.id, CommentCreate(body="A"))
            second = asyncio.create_task(comment())
            await eventually_waits_for_lock(resources)
            assert created == []
        await second
        assert first.id < created[0]
        await listener.received(first.id, created[0])


async def test_comment_draws_its_id_only_when_it_is_its_turn(
    client: Client, service: FastAPI, post: Post
) -> None:
    """Otherwise two comments that wait could draw 10 and 11, and 11 could be the first to go on."""
    resources: ProcessResources = service.state.resources
    drawn = text("SELECT last_value FROM comments_id_seq")
    before = await post.comment()
    lock = text("SELECT 1 FROM posts WHERE id = :post_id FOR UPDATE")
    async with resources.database.transaction() as session:
        await session.execute(lock, {"post_id": post.id})
        waiting = asyncio.create_task(post.comment())
        await eventually_waits_for_lock(resources)
        assert await session.scalar(drawn) == before
    assert await waiting == before + 1


async def eventually_waits_for_lock(resources: ProcessResources) -> None:
    """Wait until a transaction of this database waits for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(60), resources.database.read() as session:
        while not await session.scalar(waiting):
            await asyncio.sleep(0.01)


async def test_connections_draw_no_ids_in_advance(service: FastAPI) -> None:
    """With `CACHE 10`, a connection would give its comments ids below those of later comments."""
    resources: ProcessResources = service.state.resources
    async with resources.database.read() as session:
        cached = text("SELECT cache_size FROM pg_sequences WHERE sequencename = 'comments_id_seq'")
        assert await session.scalar(cached) == 1


# Existence


async def test_stream_of_a_missing_post_is_404(client: Client) -> None:
    response = await client.get("/v1/posts/999/comments/stream")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


async def test_stream_ends_when_its_post_is_deleted(
    service: FastAPI, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "CHECK_SECONDS", 3_600)
    async with listening(service, post.stream) as listener:
        comment_id = await post.comment()
        await listener.received(comment_id)
        await post.delete()
        await listener.finished()
    assert listener.end == "deleted"
    assert listener.ids == [comment_id]  # the last event has no id, so a browser keeps its own
    assert listener.messages[-1]["more_body"] is False


# The database


async def test_listeners_share_one_read(
    service: FastAPI, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "CHECK_SECONDS", 3_600)
    resources: ProcessResources = service.state.resources
    async with AsyncExitStack() as stack:
        opened = (listening(service, post.stream) for _ in range(20))
        listeners = [await stack.enter_async_context(one) for one in opened]
        first = await post.comment()
        for listener in listeners:
            await listener.received(first)
        with recorded_statements(resources) as sent:
            second = await post.comment()
            for listener in listeners:
                await listener.received(first, second)
            assert len([one for one in sent if "comments.id > " in one]) == 1


async def test_clients_that_reconnect_share_what_the_first_of_them_has_read(
    service: FastAPI, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some are read again, because of those that ask at the same time, and when the topic opens."""
    monkeypatch.setattr(hub_module, "CHECK_SECONDS", 3_600)
    monkeypatch.setattr("app.infra.events.topic.KEPT_SECONDS", 3_600)
    resources: ProcessResources = service.state.resources
    first, *missed = await post.comments(5)
    async with AsyncExitStack() as stack:
        with recorded_statements(resources) as sent:
            opened = (listening(service, post.stream, last=first) for _ in range(30))
            for listener in [await stack.enter_async_context(one) for one in opened]:
                await listener.received(*missed)
        assert len([one for one in sent if "comments.id > " in one]) < 10


async def test_listener_holds_no_connection(service: FastAPI, post: Post) -> None:
    pool = service.state.resources.database.engine.pool
    async with listening(service, post.stream) as listener:
        await listener.received(await post.comment())
        await eventually(lambda: pool.checkedout() == 0)


# Valkey


async def test_new_client_shows_the_others_that_a_message_was_lost(
    service: FastAPI, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "CHECK_SECONDS", 3_600)
    monkeypatch.setattr(cache_of(service).channel, "callbacks", [])
    async with listening(service, post.stream) as listener:
        await eventually(lambda: not service.state.event_hub._due)
        comment_id = await post.comment()
        async with listening(service, post.stream):
            await listener.received(comment_id)


async def test_nothing_is_lost_when_the_connection_to_valkey_is_killed(
    service: FastAPI, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "CHECK_SECONDS", 3_600)
    resources: ProcessResources = service.state.resources
    url = resources.settings[ValkeySettings].url.get_secret_value()
    async with listening(service, post.stream) as listener:
        sent = [await post.comment()]
        await listener.received(*sent)
        with monkeypatch.context() as patch:  # the message is lost
            patch.setattr(Channel, "_handle_invalidation", lambda _channel, _tags: None)
            sent.append(await post.comment())
            await asyncio.sleep(0.2)
        async with Redis.from_url(url) as valkey:
            for connection in await valkey.client_list(_type="pubsub"):
                await valkey.client_kill_filter(_id=connection["id"])
        await listener.received(*sent)
        sent += await post.comments(3)
        await listener.received(*sent)


async def test_comments_arrive_while_no_message_does(
    service: FastAPI, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Valkey is away: the process asks the database every second."""
    channel = cache_of(service).channel
    monkeypatch.setattr(channel, "callbacks", [])
    monkeypatch.setattr(type(channel), "is_live", property(lambda _self: False))
    async with listening(service, post.stream) as listener:
        await listener.received(await post.comment())
