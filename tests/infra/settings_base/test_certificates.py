"""TLS connections to PostgreSQL and Valkey, configured by the parameters of their URLs."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from redis.exceptions import ConnectionError as ConnectionLost
from sqlalchemy import text

from app.errors import Unavailable
from app.infra.database.engine import open_engine
from app.infra.database.settings import DatabaseSettings
from app.infra.settings_base.urls import valkey_url
from app.settings import Settings
from coherent_cache import CacheConfig
from coherent_cache.client import open_valkey
from tests.tls import Front, make_certificate, tls_front


@pytest.fixture
async def database_front(settings: Settings, certificate: Path) -> AsyncIterator[Front]:
    port = urlsplit(settings.database.url.get_secret_value()).port
    assert port
    async with tls_front(certificate, port, postgresql=True) as front:
        yield front


@pytest.fixture
async def valkey_front(settings: Settings, certificate: Path) -> AsyncIterator[Front]:
    port = urlsplit(settings.valkey.url.get_secret_value()).port
    assert port
    async with tls_front(certificate, port, postgresql=False) as front:
        yield front


async def ask_database(settings: Settings, front: Front, parameters: str) -> None:
    there = urlsplit(settings.database.url.get_secret_value())
    url = f"postgresql://{there.username}:{there.password}@localhost:{front.port}{there.path}"
    database = DatabaseSettings(url=SecretStr(url + parameters), connect_timeout_seconds=30)
    engine = open_engine(database, "tls")
    try:
        async with engine.connect() as connection:
            assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    finally:
        await engine.dispose()


@pytest.mark.parametrize(
    "parameters",
    [
        "",
        "?sslmode=prefer",
        "?sslmode=require",
        "?sslmode=require&channel_binding=require",
        "?sslmode=require&sslrootcert={}",
        "?sslmode=verify-ca&sslrootcert={}",
        "?sslmode=verify-full&sslrootcert={}",
        "?sslrootcert={}",
    ],
)
async def test_database_is_reached_with_tls(
    settings: Settings, database_front: Front, certificate: Path, parameters: str
) -> None:
    await ask_database(settings, database_front, parameters.format(certificate))
    assert database_front.encrypted == 1


@pytest.mark.parametrize(
    "parameters",
    ["?sslmode=disable", "?sslmode=verify-ca", "?sslmode=verify-full", "?sslrootcert={}"],
)
async def test_database_with_an_untrusted_certificate_is_refused(
    settings: Settings, database_front: Front, tmp_path: Path, parameters: str
) -> None:
    other = make_certificate(tmp_path)
    with pytest.raises(Unavailable):
        await ask_database(settings, database_front, parameters.format(other))


async def ping_valkey(settings: Settings, front: Front, parameters: str) -> None:
    password = urlsplit(settings.valkey.url.get_secret_value()).password
    url = f"valkeys://:{password}@localhost:{front.port}/0{parameters}"
    config = CacheConfig(valkey_url=valkey_url(url), code_version="", timeout_seconds=30)
    async with open_valkey(config) as valkey:
        assert await valkey.ping()


@pytest.mark.parametrize(
    "parameters",
    [
        "?ssl_cert_reqs=none",
        "?ssl_ca_certs={}",
        "?ssl_cert_reqs=optional&ssl_ca_certs={}",
        "?ssl_cert_reqs=required&ssl_ca_certs={}&ssl_check_hostname=false",
    ],
)
async def test_valkey_is_reached_with_tls(
    settings: Settings, valkey_front: Front, certificate: Path, parameters: str
) -> None:
    await ping_valkey(settings, valkey_front, parameters.format(certificate))
    assert valkey_front.encrypted == 1


@pytest.mark.parametrize("parameters", ["", "?ssl_cert_reqs=required", "?ssl_ca_certs={}"])
async def test_valkey_with_an_untrusted_certificate_is_refused(
    settings: Settings, valkey_front: Front, tmp_path: Path, parameters: str
) -> None:
    other = make_certificate(tmp_path)
    with pytest.raises(ConnectionLost):
        await ping_valkey(settings, valkey_front, parameters.format(other))
