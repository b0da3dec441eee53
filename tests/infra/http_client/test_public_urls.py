"""URLs of users never lead into our own network: server-side request forgery."""

import asyncio
import itertools
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client import REGISTRY

from app.errors import AppError, Unavailable
from app.infra.http_client import public_network
from app.infra.http_client.client import open_http_client
from app.infra.http_client.exchange import Reply
from app.infra.http_client.failures import UpstreamFailed, UrlRefused
from app.infra.http_client.public_names import THREADS, PublicNames
from app.infra.http_client.public_network import is_public
from app.infra.http_client.public_urls import PublicUrls
from app.infra.http_client.settings import HttpClientSettings
from tests.upstream_server import UpstreamServer, hangs, open_upstream, replies

PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"  # a test takes the first one for a public address
Addresses = Iterable[tuple[str, ...]]


@pytest.fixture
async def private() -> AsyncIterator[UpstreamServer]:
    async with open_upstream(PRIVATE) as server:
        server.answer = replies("a secret of our network")
        yield server


@pytest.fixture
async def public(
    private: UpstreamServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[UpstreamServer]:
    """A server on the same port as the private one."""

    def is_public_here(address: str) -> bool:
        return address == PUBLIC or is_public(address)

    monkeypatch.setattr(public_network, "is_public", is_public_here)
    async with open_upstream(PUBLIC, port_of(private)) as server:
        server.answer = replies("public")
        yield server


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Addresses], None]:
    """Let a name have these addresses: those of the first look-up, of the second one, and so on."""
    real, names = socket.getaddrinfo, dict[str, Any]()

    def look_up(host: Any, port: Any, *arguments: Any, **options: Any) -> list[Any]:
        if host not in names:
            return real(host, port, *arguments, **options)
        kind = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
        return [(*kind, (address, port)) for address in next(names[host])]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    def add(name: str, addresses: Addresses) -> None:
        names[name] = iter(addresses)

    return add


def port_of(server: UpstreamServer) -> int:
    return urlsplit(server.url).port or 0


@asynccontextmanager
async def calling(port: int, **settings: Any) -> AsyncIterator[PublicUrls]:
    limits = HttpClientSettings(public_ports=f"80,{port}", **settings)
    async with open_http_client(limits) as client:
        yield client.public_urls("links")


async def get(url: str, port: int, redirects: int = 0) -> Reply:
    async with calling(port) as urls:
        return await urls.get(url, redirects=redirects)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1"),
        *("168.63.129.16", "198.18.0.1", "203.0.113.1", "224.0.0.1", "239.255.255.250"),
        *("240.0.0.1", "255.255.255.255", "192.88.99.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001::1", "2001:db8::1"),
        *("3fff::1", "5f00::1", "fec0::1", "100::1"),
    ],
)
def test_address_that_is_not_on_the_internet(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "::ffff:1.1.1.1", "2606:4700::1111", "2a00:1450::1"]
)
def test_address_on_the_internet(address: str) -> None:
    assert is_public(address)


async def test_public_server_is_called(public: UpstreamServer, private: UpstreamServer) -> None:
    reply = await get(public.url, port_of(public))
    assert reply.body == b'"public"'
    assert {"x-request-id", "traceparent"}.isdisjoint(public.received[0].headers)


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "localhost",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.0.0.1",
            "017700000001",
        ),
        *(
            "0177.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:7f00:1]",
        ),
        *("①27.0.0.1", "127。0。0。1", "0", "0.0.0.0", "127.0.0.1.", "LOCALHOST"),
    ],
)
async def test_no_spelling_of_a_private_address_is_called(
    public: UpstreamServer, private: UpstreamServer, host: str
) -> None:
    with pytest.raises((UrlRefused, UpstreamFailed)):
        await get(f"http://{host}:{port_of(private)}/", port_of(private))
    assert private.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://{host}/", "gopher://{host}/", "{host}", "//{host}/", ""),
        *("http://", "http:///a", "http://user@{host}/", "http://:secret@{host}/"),
        *("http://127.0.0.2:22/", "https://127.0.0.2/", "http://127.0.0.2:99999/", "http://[::1/"),
        *(
            "http://evil\\@{host}/",
            "http://[::1]@",
            "http://\ud800/",
            "javascript:alert(1)",
            "http://a b/",
            "http://\x00/",
        ),
    ],
)
async def test_other_urls_are_refused_as_a_mistake_of_the_user(
    public: UpstreamServer, url: str
) -> None:
    with pytest.raises(AppError) as caught:
        await get(url.format(host=f"{PUBLIC}:{port_of(public)}"), port_of(public))
    assert (caught.value.status, caught.value.code) == (422, "url_refused")
    assert public.connections == 0


@pytest.mark.parametrize(
    "name", ["a..example", f"{'a' * 64}.example", ".", "no-such-name.invalid", "xn--.example"]
)
async def test_name_that_no_server_can_have(name: str) -> None:
    with pytest.raises(UrlRefused):
        await get(f"http://{name}/", 80)


async def test_names_that_nobody_answers_for_do_not_stop_other_look_ups(
    private: UpstreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ends = socket.getaddrinfo, threading.Event()

    def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).endswith(".test"):
            ends.wait(60)
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    limits = HttpClientSettings(connect_seconds=0.2, total_seconds=60)
    async with open_http_client(limits) as client:
        links = client.public_urls("links")
        hanging = [
            asyncio.create_task(links.get(f"http://{number}.test/")) for number in range(100)
        ]
        done, _ = await asyncio.wait(hanging, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        upstream = client.upstream("internal", private.url.replace("127.0.0.1", "localhost"))
        assert await upstream.get_json("/", str)
        ends.set()
        failures = await asyncio.gather(*hanging, return_exceptions=True)
    assert done
    assert all(isinstance(failure, AppError) for failure in failures)


async def test_look_ups_are_measured_and_their_threads_end_with_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, ends = set[threading.Thread](), threading.Event()

    def look_up(*_: Any, **__: Any) -> Any:
        threads.add(threading.current_thread())
        ends.wait(60)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with open_http_client(HttpClientSettings(connect_seconds=60)) as client:
        links = client.public_urls("links")
        calls = [
            asyncio.create_task(links.get(f"http://{number}.test/"))
            for number in range(THREADS + 2)
        ]
        async with asyncio.timeout(60):
            while len(threads) < THREADS:
                await asyncio.sleep(0.01)
        client.measure()
        measured = in_threads("busy"), in_threads("waiting")
        ends.set()
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert measured == (THREADS, 2)
        assert [type(failure) for failure in failures] == [UrlRefused] * len(calls)
        client.measure()
        assert (in_threads("busy"), in_threads("waiting")) == (0, 0)
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def in_threads(state: str) -> float | None:
    return REGISTRY.get_sample_value("threads", {"pool": "names", "state": state})


async def test_name_of_a_private_server(
    private: UpstreamServer, resolve: Callable[[str, Addresses], None]
) -> None:
    resolve("intern.test", [(PRIVATE,)])
    with pytest.raises(UrlRefused):
        await get(f"http://intern.test:{port_of(private)}/", port_of(private))
    assert private.connections == 0


async def test_name_with_a_private_and_a_public_address(
    public: UpstreamServer, private: UpstreamServer, resolve: Callable[[str, Addresses], None]
) -> None:
    resolve("mixed.test", [(PRIVATE, PUBLIC)])
    reply = await get(f"http://mixed.test:{port_of(public)}/", port_of(public))
    assert reply.body == b'"public"'
    assert private.connections == 0


async def test_name_that_changes_its_address_between_two_calls(
    public: UpstreamServer, private: UpstreamServer, resolve: Callable[[str, Addresses], None]
) -> None:
    resolve("rebinding.test", itertools.chain([(PUBLIC,)], itertools.repeat((PRIVATE,))))
    url = f"http://rebinding.test:{port_of(public)}/"
    async with calling(port_of(public)) as urls:
        await urls.get(url)
    async with calling(port_of(public)) as urls:  # without the names of the first one
        with pytest.raises(UrlRefused):
            await urls.get(url)
    assert private.connections == 0


@pytest.mark.parametrize("target", ["{private}/", "//127.0.0.1:{port}/", "file:///etc/passwd"])
async def test_redirect_into_our_network(
    public: UpstreamServer, private: UpstreamServer, target: str
) -> None:
    location = target.format(private=private.url, port=port_of(private))
    public.answer = replies(status=302, Location=location)
    with pytest.raises(UrlRefused):
        await get(public.url, port_of(public), redirects=3)
    assert private.connections == 0


async def test_redirects_are_followed_if_asked_and_up_to_their_number(
    public: UpstreamServer,
) -> None:
    public.answers = [replies(status=301, Location="/b"), replies(status=307, Location="c?d=e")]
    reply = await get(f"{public.url}/a", port_of(public), redirects=2)
    assert reply.body == b'"public"'
    assert [request.target for request in public.received] == ["/a", "/b", "/c?d=e"]
    public.answer = replies(status=302, Location="/again")
    for allowed in (0, 3):
        public.received.clear()
        with pytest.raises(UpstreamFailed) as caught:
            await get(public.url, port_of(public), redirects=allowed)
        assert caught.value.reason == "redirect"
        assert len(public.received) == 1 + allowed


async def test_all_redirects_share_the_time_of_the_call(public: UpstreamServer) -> None:
    public.answers = [replies(status=302, Location="/again")]
    public.answer = hangs
    async with calling(port_of(public), total_seconds=0.2) as urls:
        with pytest.raises(UpstreamFailed) as caught:
            await urls.get(public.url, redirects=3)
    assert caught.value.reason == "timeout"


async def test_json_is_posted_and_a_redirect_is_a_failure(public: UpstreamServer) -> None:
    async with calling(port_of(public)) as urls:
        await urls.post_json(public.url, {"event": "a"})
        assert (public.received[0].method, public.received[0].body) == ("POST", b'{"event":"a"}')
        public.answer = replies(status=307, Location="/b")
        with pytest.raises(UpstreamFailed):
            await urls.post_json(public.url, {})
    assert len(public.received) == 2


async def test_connection_to_an_upstream_is_not_used_for_the_url_of_a_user(
    private: UpstreamServer,
) -> None:
    async with open_http_client(HttpClientSettings(public_ports=str(port_of(private)))) as client:
        upstream = client.upstream("internal", private.url)
        assert await upstream.get_json("/", str)
        with pytest.raises(UrlRefused):
            await client.public_urls("links").get(private.url)
    assert len(private.received) == 1


async def test_connections_to_strangers_are_closed(public: UpstreamServer) -> None:
    async with calling(port_of(public)) as urls:
        await urls.get(public.url)
        await asyncio.sleep(0.05)
        assert public.open_connections == 0


def counted(result: str) -> float:
    """Return how many calls ended like this, by the metrics."""
    labels = {"upstream": "links", "result": result}
    return REGISTRY.get_sample_value("upstream_request_duration_seconds_count", labels) or 0


async def test_call_that_finds_no_thread_or_takes_too_long_is_not_counted_as_cancelled(
    public: UpstreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise Unavailable("There are too many look-ups.")

    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    before = {result: counted(result) for result in ("cancelled", "skipped", "timeout")}
    for act in (refuse, hang):
        with monkeypatch.context() as patch:
            patch.setattr(PublicNames, "resolve", act)
            async with calling(port_of(public), total_seconds=0.2) as urls:
                with pytest.raises(Unavailable):
                    await urls.get(f"http://links.example:{port_of(public)}/")
    grown = {result: counted(result) - before[result] for result in before}
    assert grown == {"cancelled": 0, "skipped": 1, "timeout": 1}
