"""Timeouts, pools and probes in the files of the deployment fit together."""

import re

import pytest
from fastapi.sse import _PING_INTERVAL

from app.infra.database.connection_budget import ConnectionBudget
from app.infra.database.settings import DatabaseSettings
from app.infra.events.settings import EventsSettings
from app.infra.jobs.settings import JobsSettings
from app.infra.jobs.worker import CANCELLING_SECONDS
from app.infra.server.settings import CLOSING_SECONDS, ServerSettings
from app.settings import Settings
from tests.contract.deployment import (
    DEPLOYMENTS,
    PRODUCTION,
    PROJECT,
    container,
    default,
    environment,
    haproxy,
    kustomization,
    manifests,
    nginx,
    pods,
    seconds,
    service,
    text,
)

RESERVED_CONNECTIONS = 3  # PostgreSQL's default


def drain(where: str) -> float:
    return float(environment(where)["SERVER_DRAIN_SECONDS"])


def graceful(where: str) -> float:
    return float(environment(where)["SERVER_GRACEFUL_TIMEOUT_SECONDS"])


def keep_alive() -> float:
    return ServerSettings().keep_alive_seconds


def test_proxies_close_idle_connections_before_the_service_does() -> None:
    idle = haproxy("pool-purge-delay")
    # Half of them at each delay: fifteen delays are more than there can be connections.
    assert idle * 15 <= keep_alive()
    assert nginx("keepalive_timeout", "upstream") < keep_alive()


def test_balancer_notices_a_shutdown_before_the_replica_stops_accepting() -> None:
    checks = haproxy("inter") * haproxy("fall") + haproxy("timeout check")
    assert checks < drain("compose")
    probe = container()["readinessProbe"]
    for where in ("base", "production"):
        assert probe["periodSeconds"] * probe["failureThreshold"] < drain(where)


def test_draining_replica_is_not_killed() -> None:
    needed = drain("compose") + graceful("compose")
    assert needed < seconds(service("app")["stop_grace_period"])
    pre_stop = float(container()["lifecycle"]["preStop"]["exec"]["command"][-1])
    granted = pods()["Deployment"]["terminationGracePeriodSeconds"]
    for where in ("base", "production"):
        assert pre_stop + drain(where) + graceful(where) < granted
    assert haproxy("hard-stop-after") < seconds(service("balancer")["stop_grace_period"])


def test_worker_gives_its_jobs_back_before_it_is_killed() -> None:
    needed = JobsSettings().stop_seconds + CANCELLING_SECONDS + CLOSING_SECONDS
    assert needed < seconds(service("worker")["stop_grace_period"])
    assert needed < pods()["worker"]["terminationGracePeriodSeconds"]


def test_timeout_of_the_balancer_is_longer_than_those_of_the_service() -> None:
    patience = min(
        haproxy("timeout server"), haproxy("timeout client"), nginx("proxy_read_timeout")
    )
    assert patience > max(_PING_INTERVAL, EventsSettings().heartbeat_seconds)
    assert patience > DatabaseSettings().command_timeout_seconds


def test_the_role_has_the_timeouts_of_the_settings() -> None:
    found = dict(
        re.findall(r"ALTER ROLE app SET (\w+) = '(\w+)'", text("deploy/postgres/roles.sql"))
    )
    settings = DatabaseSettings()
    assert {name: seconds(value) for name, value in found.items()} == {
        "statement_timeout": settings.statement_timeout_seconds,
        "lock_timeout": settings.lock_timeout_seconds,
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_timeout_seconds,
        "client_connection_check_interval": 2,
    }


def platforms() -> dict[str, list[str]]:
    """Return the rows of the table of times in docs/deployment/paas.md by their platforms."""
    page = (PROJECT / "docs/deployment/paas.md").read_text(encoding="utf-8")
    table = page.partition("## Times of the platforms")[2].partition("\n- ")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {name: cells for name, *cells in rows[1:]}


@pytest.mark.parametrize("name", platforms())
def test_the_settings_for_a_platform_fit_its_times(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted, patience, idle, changes = platforms()[name]
    for variable, value in re.findall(r"([A-Z_]{5,})=(\w+)", changes):
        monkeypatch.setenv(variable, value)
    settings = Settings(_env_file=None)
    server, limits = settings.server, settings.limits
    [killed] = re.findall(r"kill_timeout = (\d+)", changes) or re.findall(r"^(\d+) s", granted)
    assert server.drain_seconds + limits.request_seconds < float(killed)
    for gives_up in re.findall(r"^(\d+) s", patience):
        assert limits.request_seconds < float(gives_up)
    for closes_after in re.findall(r"^(\d+) s", idle):
        assert float(closes_after) < server.keep_alive_seconds


@pytest.mark.parametrize("where", DEPLOYMENTS)
def test_the_pools_of_all_replicas_fit_in_the_database(where: str) -> None:
    flags = " ".join(service("database")["command"])
    [limit] = re.findall(r"max_connections=(\d+)", flags)
    given = environment(where)
    budget = ConnectionBudget(
        workers=int(given["WEB_CONCURRENCY"]),
        pool_size=int(given["DATABASE_POOL_SIZE"]),
        cache_connections=1,
        replicas=int(given["REPLICAS"]),
        job_workers=int(given["JOBS_WORKERS"]),
        concurrent_jobs=int(given["JOBS_CONCURRENCY"]),
        max_connections=int(limit),
        reserved=RESERVED_CONNECTIONS,
        held_by_others=0,
    )
    assert budget.needed <= budget.free


def test_replicas_setting_covers_a_rolling_update() -> None:
    instances = int(default(service("app")["deploy"]["replicas"]))
    assert 2 * instances <= int(environment("compose")["REPLICAS"])
    most = {"base": manifests()["HorizontalPodAutoscaler"]["spec"]["maxReplicas"]}
    [autoscaler] = [
        patch["patch"]
        for patch in kustomization(PRODUCTION)["patches"]
        if patch["target"]["kind"] == "HorizontalPodAutoscaler"
    ]
    [most["production"]] = map(int, re.findall(r"maxReplicas, value: (\d+)", autoscaler))
    surge = manifests()["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    for where, count in most.items():
        assert count + surge + 1 <= int(environment(where)["REPLICAS"])
