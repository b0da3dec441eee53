"""Calls of another service: limits, retries, the breaker, and what is sent and logged."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_trace_id
from prometheus_client import REGISTRY
from pydantic import BaseModel, Field

from app.errors import Unavailable
from app.infra import breaker
from app.infra.http_client.client import HttpClient, open_http_client
from app.infra.http_client.failures import UpstreamFailed
from app.infra.http_client.settings import HttpClientSettings
from app.infra.http_client.upstream import Upstream
from app.infra.observability import tracing
from app.infra.observability.repeat_filter import RepeatFilter
from app.infra.observability.request_context import RequestContext, request_context
from tests.upstream_server import (
    Answer,
    UpstreamServer,
    hangs,
    hangs_up,
    never_ends,
    open_upstream,
    replies,
    sends,
)

SETTINGS = HttpClientSettings(total_seconds=60, connect_seconds=60, retries=0)
BODY_BYTES = 10_000


class Profile(BaseModel):
    name: str = Field(max_length=100)


@pytest.fixture
async def server() -> AsyncIterator[UpstreamServer]:
    async with open_upstream() as server:
        server.answer = replies({"name": "Ada"})
        yield server


@asynccontextmanager
async def open_client(**settings: Any) -> AsyncIterator[HttpClient]:
    changed = {"body_bytes": BODY_BYTES, **settings}
    async with open_http_client(SETTINGS.model_copy(update=changed)) as client:
        yield client


@asynccontextmanager
async def calling(url: str, **settings: Any) -> AsyncIterator[Upstream]:
    async with open_client(**settings) as client:
        yield client.upstream("profiles", url)


async def failure_of(upstream: Upstream) -> UpstreamFailed:
    with pytest.raises(UpstreamFailed) as caught:
        await upstream.get_json("/profiles/1", Profile)
    return caught.value


@contextmanager
def request(seconds: float) -> Iterator[RequestContext]:
    """Run the block in a request that has so many seconds left."""
    current = RequestContext("id-of-the-request", "GET", "/")
    current.deadline = asyncio.get_running_loop().time() + seconds
    token = request_context.set(current)
    try:
        yield current
    finally:
        request_context.reset(token)


def count(result: str) -> float:
    labels = {"upstream": "profiles", "result": result}
    name = "upstream_request_duration_seconds_count"
    return REGISTRY.get_sample_value(name, labels) or 0


async def test_response_is_validated_and_unknown_fields_are_ignored(
    server: UpstreamServer,
) -> None:
    server.answer = replies({"name": "Ada", "more": 1})
    async with calling(server.url) as upstream:
        assert await upstream.get_json("/profiles/1", Profile, {"a": "b c"}) == Profile(name="Ada")
    assert server.received[0].target == "/profiles/1?a=b+c"


async def test_no_content_is_none(server: UpstreamServer) -> None:
    server.answer = sends(b"HTTP/1.1 204 No Content\r\n\r\n")
    async with calling(server.url) as upstream:
        await upstream.send_json("PUT", "/a", {"b": 1}, type(None))
    assert server.received[0].body == b'{"b":1}'
    assert server.received[0].headers["content-type"] == "application/json"


FAILURES: dict[str, tuple[Answer, str]] = {
    "an error": (replies(status=500), "unhealthy"),
    "too many requests": (replies(status=429), "unhealthy"),
    "a refusal": (replies(status=403), "refused"),
    "a redirect": (replies(status=302, Location="http://127.0.0.1:1/"), "redirect"),
    "HTML": (replies(b"<html>"), "invalid"),
    "no JSON of UTF-8": (replies(b'{"name": "\xff"}'), "invalid"),
    "deeply nested JSON": (replies(b"[" * 9_000), "invalid"),
    "another type": (replies({"name": 1}), "invalid"),
    "a text that is too long": (replies({"name": "x" * 101}), "invalid"),
    "no body": (replies(b""), "invalid"),
    "a compressed body": (replies(b"\x1f\x8b", Content_Encoding="gzip"), "invalid"),
    "a large body": (replies({"name": "x" * BODY_BYTES}), "too_large"),
    "a body without an end": (never_ends, "too_large"),
    "no response": (hangs_up, "broken"),
    "no HTTP": (sends(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "broken"),
    "a header without an end": (sends(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000), "broken"),
    "half a body": (sends(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"'), "timeout"),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_bad_response_is_one_exception_that_is_a_503(
    server: UpstreamServer, case: str
) -> None:
    server.answer, reason = FAILURES[case]
    before = count(reason)
    async with calling(server.url, total_seconds=1 if reason == "timeout" else 60) as upstream:
        error = await failure_of(upstream)
    assert error.reason == reason
    assert isinstance(error, Unavailable)
    assert error.retry_after_seconds
    assert count(reason) == before + 1


async def test_status_of_the_upstream_is_known(server: UpstreamServer) -> None:
    server.answer = replies(status=404)
    async with calling(server.url) as upstream:
        assert (await failure_of(upstream)).upstream_status == 404


async def test_server_that_does_not_exist() -> None:
    async with open_upstream() as server:
        url = server.url
    async with calling(url) as upstream:
        assert (await failure_of(upstream)).reason == "unreachable"


async def test_name_that_does_not_exist() -> None:
    async with calling("http://no-such-name.invalid") as upstream:
        assert (await failure_of(upstream)).reason == "unresolved"


async def test_slow_upstream_is_given_up(server: UpstreamServer) -> None:
    server.answer = hangs
    async with calling(server.url, total_seconds=0.05) as upstream:
        assert (await failure_of(upstream)).reason == "timeout"


async def test_connection_is_reused_and_connections_are_limited(server: UpstreamServer) -> None:
    async with calling(server.url, connections_per_host=3) as upstream:
        calls = (upstream.get_json("/profiles/1", Profile) for _ in range(30))
        await asyncio.gather(*calls)
    assert len(server.received) == 30
    assert server.connections == server.peak == 3


async def test_cancelled_calls_leave_the_connections_whole(server: UpstreamServer) -> None:
    server.answer = hangs
    async with calling(server.url, connections_per_host=5) as upstream:
        calls = [asyncio.create_task(upstream.get_json("/profiles/1", Profile)) for _ in range(200)]
        await asyncio.sleep(0.05)
        for call in calls:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}
        assert not upstream.is_open
        server.answer = replies({"name": "Ada"})
        assert await upstream.get_json("/profiles/1", Profile)


async def test_idempotent_call_is_tried_again(server: UpstreamServer) -> None:
    server.answers = [replies(status=503), hangs_up]
    async with calling(server.url, retries=2) as upstream:
        assert await upstream.get_json("/profiles/1", Profile) == Profile(name="Ada")
    assert len(server.received) >= 3  # aiohttp itself may repeat one on a connection that is kept


async def test_refusals_are_not_tried_again(server: UpstreamServer) -> None:
    server.answer = replies(status=400)
    async with calling(server.url, retries=2) as upstream:
        assert (await failure_of(upstream)).reason == "refused"
    assert len(server.received) == 1


@pytest.mark.parametrize(("key", "attempts"), [("", 1), ("a-key", 2)])
async def test_post_is_tried_again_only_with_a_key(
    server: UpstreamServer, key: str, attempts: int
) -> None:
    server.answers = [replies(status=503), replies(status=400)]
    async with calling(server.url, retries=2) as upstream:
        with pytest.raises(UpstreamFailed):
            await upstream.send_json("POST", "/profiles", {}, Profile, idempotency_key=key)
    assert len(server.received) == attempts
    assert {request.headers.get("idempotency-key", "") for request in server.received} == {key}


IN_AN_HOUR = datetime.now(UTC) + timedelta(hours=1)


@pytest.mark.parametrize(
    "retry_after", ["2", format_datetime(IN_AN_HOUR, usegmt=True)], ids=["s", "date"]
)
async def test_no_retry_begins_that_could_not_end_before_the_request(
    server: UpstreamServer, retry_after: str
) -> None:
    server.answer = replies(status=503, Retry_After=retry_after)
    async with calling(server.url, retries=5) as upstream:
        with request(seconds=1):
            assert (await failure_of(upstream)).reason == "unhealthy"
    assert len(server.received) == 1


@pytest.mark.parametrize(
    "retry_after",
    [
        *("", "-1", "soon", "Sun, 06 Nov 1994 08:49:37 GMT"),
        f"Sun, 06 Nov {'9' * 99} 08:49:37 GMT",
    ],
)
async def test_retry_after_that_says_nothing_delays_nothing(
    server: UpstreamServer, retry_after: str
) -> None:
    server.answers = [replies(status=503, Retry_After=retry_after)]
    async with calling(server.url, retries=1) as upstream:
        with request(seconds=10):
            await upstream.get_json("/profiles/1", Profile)
    assert len(server.received) == 2


async def test_retry_waits_as_long_as_the_upstream_asks(server: UpstreamServer) -> None:
    server.answers = [replies(status=503, Retry_After="1")]
    async with calling(server.url, retries=1) as upstream:
        started = time.monotonic()
        await upstream.get_json("/profiles/1", Profile)
    assert time.monotonic() - started >= 1


async def test_call_ends_before_the_request_and_the_breaker_does_not_count_it(
    server: UpstreamServer,
) -> None:
    server.answer = hangs
    async with calling(server.url) as upstream:
        for _ in range(breaker.FAILURES_TO_OPEN):
            with request(seconds=0.15) as current:
                assert (await failure_of(upstream)).reason == "timeout"
                assert current.deadline is not None
        assert not upstream.is_open


async def test_breaker_does_not_count_calls_that_had_to_wait_for_a_connection(
    server: UpstreamServer,
) -> None:
    server.answer = hangs
    async with calling(server.url, connections_per_host=1, total_seconds=0.2) as upstream:
        failures = await asyncio.gather(
            *(failure_of(upstream) for _ in range(2 * breaker.FAILURES_TO_OPEN))
        )
        assert {failure.reason for failure in failures} == {"timeout"}
        assert not upstream.is_open


@pytest.mark.parametrize("setting", ["connections_per_host", "connections"])
async def test_breaker_does_not_count_waiting_for_the_connections_of_another_upstream(
    server: UpstreamServer, setting: str
) -> None:
    server.answer = hangs
    async with open_client(**{setting: 1}) as client:
        slow = asyncio.create_task(failure_of(client.upstream("profiles", server.url)))
        while not server.received:
            await asyncio.sleep(0.01)
        waiting = client.upstream("pictures", server.url, total_seconds=0.1)
        for _ in range(breaker.FAILURES_TO_OPEN):
            assert (await failure_of(waiting)).reason == "timeout"
        assert not waiting.is_open
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)


async def test_breaker_opens_lets_one_probe_through_and_closes(
    server: UpstreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MIN_OPEN_SECONDS", "MAX_OPEN_SECONDS"):
        monkeypatch.setattr(breaker, name, 0.2)
    server.answer = replies(status=500)
    async with calling(server.url) as upstream:
        for _ in range(breaker.FAILURES_TO_OPEN):
            assert (await failure_of(upstream)).reason == "unhealthy"
        assert upstream.is_open
        assert (await failure_of(upstream)).reason == "skipped"
        assert len(server.received) == breaker.FAILURES_TO_OPEN
        await asyncio.sleep(0.25)
        failures = await asyncio.gather(*(failure_of(upstream) for _ in range(20)))
        assert sorted(error.reason for error in failures) == ["skipped"] * 19 + ["unhealthy"]
        server.answer = replies({"name": "Ada"})
        await asyncio.sleep(0.25)
        assert await upstream.get_json("/profiles/1", Profile)
        assert not upstream.is_open


async def test_refused_and_invalid_responses_do_not_open_the_breaker(
    server: UpstreamServer,
) -> None:
    async with calling(server.url) as upstream:
        for answer in (replies(status=404), replies(b"<html>"), never_ends):
            server.answer = answer
            for _ in range(breaker.FAILURES_TO_OPEN):
                await failure_of(upstream)
        assert not upstream.is_open


async def test_slow_upstream_opens_the_breaker(server: UpstreamServer) -> None:
    server.answer = hangs
    async with calling(server.url, total_seconds=0.05) as upstream:
        for _ in range(breaker.FAILURES_TO_OPEN):
            await failure_of(upstream)
        assert upstream.is_open


@pytest.mark.parametrize("path", ["profiles", "/../admin", "/%2e%2e/admin", "/a?b=c", "/a#b"])
async def test_path_cannot_leave_the_base_url(server: UpstreamServer, path: str) -> None:
    async with calling(f"{server.url}/api") as upstream:
        with pytest.raises(ValueError, match="quoted"):
            await upstream.get_json(path, Profile)
    assert not server.received


async def test_quoted_part_of_a_path_is_sent_as_it_is(server: UpstreamServer) -> None:
    async with calling(f"{server.url}/api/") as upstream:
        await upstream.get_json("/a%2F..%3Fb", Profile)
    assert server.received[0].target == "/api/a%2F..%3Fb"


async def test_cookies_are_not_kept_and_the_id_of_the_request_is_passed_on(
    server: UpstreamServer,
) -> None:
    server.answer = replies({"name": "Ada"}, Set_Cookie="a=b; Path=/")
    async with calling(server.url.replace("127.0.0.1", "localhost")) as upstream:
        with request(seconds=60):
            await upstream.get_json("/profiles/1", Profile)
            await upstream.get_json("/profiles/1", Profile)
    headers = server.received[1].headers
    assert "cookie" not in headers
    assert headers["x-request-id"] == "id-of-the-request"
    assert headers["accept-encoding"] == "identity"


async def test_trace_is_continued_by_the_upstream(
    server: UpstreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracer = TracerProvider().get_tracer("test")
    monkeypatch.setattr(tracing, "_tracer", tracer)
    async with calling(server.url) as upstream:
        with request(seconds=60) as current:
            await upstream.get_json("/profiles/1", Profile)
            current.span = tracer.start_span("request")
            await upstream.get_json("/profiles/1", Profile)
    untraced, traced = (received.headers for received in server.received)
    assert "traceparent" not in untraced
    trace_id = format_trace_id(current.span.get_span_context().trace_id)
    assert traced["traceparent"].split("-")[1] == trace_id


async def test_time_of_an_upstream_is_known_to_the_request(server: UpstreamServer) -> None:
    async with calling(server.url) as upstream:
        with request(seconds=60) as current:
            await upstream.get_json("/profiles/1", Profile)
            await upstream.get_json("/profiles/1", Profile)
    assert current.slowest_upstream == "profiles"
    assert 0 < current.slowest_upstream_seconds < current.upstream_seconds


async def test_proxies_and_passwords_of_the_environment_are_ignored(
    server: UpstreamServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "netrc").write_text("default login a password b", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with calling(server.url) as upstream:
        await upstream.get_json("/profiles/1", Profile)
    assert "authorization" not in server.received[0].headers


async def test_log_contains_neither_secrets_nor_content(
    server: UpstreamServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RepeatFilter, "filter", lambda *_: True)
    secret = "a-secret"
    answers = [hangs_up, replies(secret.encode()), replies({"name": [secret]}), hangs]
    answers += [replies(status=500, X=secret)] * breaker.FAILURES_TO_OPEN
    async with open_client(total_seconds=0.2) as client:
        authorization = {"Authorization": f"Bearer {secret}"}
        upstream = client.upstream("profiles", server.url, headers=authorization)
        with caplog.at_level(logging.DEBUG):
            for server.answer in answers:
                with pytest.raises(UpstreamFailed) as caught:
                    await upstream.get_json(f"/{secret}", Profile, {"key": secret})
                assert secret not in str(caught.value)
    assert upstream.is_open
    assert server.received[0].headers["authorization"] == f"Bearer {secret}"
    assert "The upstream profiles fails" in caplog.text
    assert secret not in caplog.text


async def test_upstream_is_made_once(server: UpstreamServer) -> None:
    async with open_client() as client:
        upstream = client.upstream("profiles", server.url)
        assert client.upstream("profiles", server.url) is upstream
        with pytest.raises(ValueError, match="other arguments"):
            client.upstream("profiles", "http://127.0.0.1:1")
        with pytest.raises(ValueError, match="lower-case"):
            client.upstream("http://a", server.url)


async def test_breaker_is_a_gauge(server: UpstreamServer) -> None:
    server.answer = replies(status=500)
    async with open_client() as client:
        upstream = client.upstream("gauged", server.url)
        for _ in range(breaker.FAILURES_TO_OPEN):
            await failure_of(upstream)
        client.measure()
    assert REGISTRY.get_sample_value("upstream_breakers_open", {"upstream": "gauged"}) == 1
    running = {"upstream": "gauged"}
    assert REGISTRY.get_sample_value("upstream_requests_in_flight", running) == 0


async def test_identity_is_no_compression_however_it_is_written(server: UpstreamServer) -> None:
    server.answer = replies({"name": "Ada"}, Content_Encoding="Identity")
    async with calling(server.url) as upstream:
        assert (await upstream.get_json("/profiles/1", Profile)).name == "Ada"
