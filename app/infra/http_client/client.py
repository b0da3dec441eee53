"""The HTTP sessions of a process, and what features call other services through."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, ThreadedResolver
from yarl import URL

from app.infra.http_client.public_names import PublicNames
from app.infra.http_client.public_network import open_public_socket
from app.infra.http_client.public_urls import PublicUrls
from app.infra.http_client.settings import HttpClientSettings
from app.infra.http_client.upstream import Upstream
from app.infra.observability.metrics import UPSTREAM_OPEN

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")  # it is the label of metrics
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "aiohttp"}


class HttpClient:
    """Makes upstreams. They live as long as the process, because they have a breaker."""

    def __init__(
        self,
        settings: HttpClientSettings,
        session: ClientSession,
        public: ClientSession,
        names: PublicNames,
    ) -> None:
        self._settings = settings
        self._session = session
        self._public = public
        self._names = names
        self._upstreams: dict[str, tuple[tuple[Any, ...], Upstream]] = {}
        self._running = Counter[URL]()

    def upstream(
        self,
        name: str,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        total_seconds: float | None = None,
    ) -> Upstream:
        """Return the service with this name. It is made by the first call.

        `name` is for metrics and the log. `base_url` is a setting: for the URL of a user, take
        `public_urls`. `headers` are sent with each call, and may be secret.
        """
        arguments = (base_url, dict(headers or {}), total_seconds)
        known = self._upstreams.get(name)
        if known is None:
            _check_name(name)
            made = Upstream(self._session, self._settings, name, *arguments, self._running)
            self._upstreams[name] = known = (arguments, made)
        if known[0] != arguments:
            raise ValueError(f"The upstream {name} has been made with other arguments")
        return known[1]

    def public_urls(self, name: str) -> PublicUrls:
        """Return what calls URLs from users. `name` is for metrics and the log."""
        _check_name(name)
        return PublicUrls(self._public, self._settings, name)

    def measure(self) -> None:
        self._names.measure()
        for name, (_, upstream) in self._upstreams.items():
            UPSTREAM_OPEN.labels(name).set(upstream.is_open)


@asynccontextmanager
async def open_http_client(settings: HttpClientSettings) -> AsyncIterator[HttpClient]:
    """Open the sessions. They connect at their first call.

    URLs of users have a session of their own. If the two shared their connections, a URL of a user
    could reach a server of our network over a connection that is open already.
    """
    async with AsyncExitStack() as stack:
        names = PublicNames(settings.connect_seconds)
        stack.push_async_callback(names.close)
        session = _open_session(settings, resolver=ThreadedResolver())
        public = _open_session(
            settings, resolver=names, socket_factory=open_public_socket, force_close=True
        )
        await stack.enter_async_context(session)
        await stack.enter_async_context(public)
        yield HttpClient(settings, session, public, names)


def _open_session(settings: HttpClientSettings, **options: Any) -> ClientSession:
    connector = TCPConnector(
        limit=settings.connections,
        limit_per_host=settings.connections_per_host,
        **options,
    )
    return ClientSession(
        connector=connector,
        # The total is limited by the callers, because it includes their retries.
        timeout=ClientTimeout(total=None, sock_connect=settings.connect_seconds),
        headers=HEADERS,  # without compression, no small response can become a large one
        auto_decompress=False,
        cookie_jar=DummyCookieJar(),
        # Variables such as HTTPS_PROXY, and the passwords in ~/.netrc, are ignored. A proxy would
        # resolve the names, so that the check of their addresses would mean nothing.
        trust_env=False,
    )


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ValueError("The name of an upstream has lower-case letters, digits and _ only")
