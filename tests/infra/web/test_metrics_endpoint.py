"""Who may see `/metrics`."""

import httpx2
import pytest
from fastapi import FastAPI

from app.settings import Settings
from tests.application import client_of, running


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("127.0.0.1", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("8.8.8.8", 404),
        ("unknown", 404),
        ("", 404),
    ],
)
async def test_only_loopback_addresses_see_the_metrics_by_default(
    app: FastAPI, address: str, status: int
) -> None:
    transport = httpx2.ASGITransport(app, client=(address, 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/metrics")).status_code == status


@pytest.mark.parametrize(
    ("metrics", "status"),
    [({}, 200), ({"networks": "10.0.0.0/8"}, 404), ({"port": 9}, 404), ({"enabled": False}, 404)],
)
async def test_settings_decide_who_sees_the_metrics(
    settings: Settings, metrics: dict[str, object], status: int
) -> None:
    values = {**settings.model_dump(), "metrics": metrics}
    async with running(Settings.model_validate(values)) as app, client_of(app) as client:
        response = await client.get("/metrics")
        assert "/metrics" not in (await client.get("/openapi.json")).json()["paths"]
    assert response.status_code == status
    if status == 200:
        assert "http_request_duration_seconds_bucket" in response.text
