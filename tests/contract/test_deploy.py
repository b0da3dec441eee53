"""The files of the deployment: settings, secrets, rights, health checks and the start order."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fastapi import FastAPI

from app.settings import Settings
from tests.contract.deployment import (
    DEPLOY,
    DEPLOYMENTS,
    KINDS,
    PROJECT,
    compose,
    container,
    documents,
    environment,
    http_paths,
    pods,
    service,
    text,
)
from tests.contract.document import api_routes
from tests.contract.test_documents import setting_names

LONG_RUNNING = [
    "balancer",
    "app",
    "worker",
    "database",
    "valkey",
    "valkey-limits",
    "replica",
    "prometheus",
    "grafana",
]


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Return a folder with the secrets that `docker compose up` makes at its first start."""
    for reader in ("app", "migrate", "database"):
        (tmp_path / reader).mkdir()
    make_secrets(tmp_path)
    return tmp_path


def make_secrets(folder: Path) -> None:
    subprocess.run(["sh", DEPLOY / "compose/make-secrets.sh", folder], check=True)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in files}


@pytest.mark.parametrize("where", DEPLOYMENTS)
def test_a_deployment_sets_only_settings_that_exist(where: str) -> None:
    assert environment(where).keys() <= {*setting_names(), "SECRETS_DIR"}


@pytest.mark.parametrize("where", DEPLOYMENTS)
@pytest.mark.parametrize("reader", ["app", "migrate"])
def test_production_accepts_the_settings_and_the_secrets(
    where: str, reader: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*os.environ]:
        if name in setting_names():
            monkeypatch.delenv(name)
    for name, value in environment(where).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("SECRETS_DIR", str(secrets / reader))
    settings = Settings(_env_file=None)
    role = {"app": "app", "migrate": "migrations"}[reader]
    password = (secrets / "database" / f"{role}_password").read_text(encoding="utf-8")
    url = settings.database.url.get_secret_value()
    assert url == f"postgresql+asyncpg://{role}:{password}@database:5432/app"


def test_secrets_are_made_once_and_differ_everywhere(secrets: Path, tmp_path: Path) -> None:
    made = contents(secrets)
    make_secrets(secrets)
    assert contents(secrets) == made
    passwords = [value for name, value in made.items() if name.startswith("database/") and value]
    assert len({*passwords, made["app/auth_secret"]}) == 4


def test_no_secret_is_committed() -> None:
    objects = [entry for path in DEPLOY.glob("kubernetes/**/*.yaml") for entry in documents(path)]
    assert not [entry for entry in objects if entry["kind"] == "Secret"]
    for name, values in compose()["services"].items():
        given = [
            key
            for key, value in values.get("environment", {}).items()
            if value and re.search("PASSWORD|AUTH_SECRET|DATABASE_URL", key)
        ]
        assert not given, name


@pytest.mark.parametrize("name", ["app", "worker", "migrate"])
def test_in_compose_the_root_is_read_only_and_no_right_is_kept(name: str) -> None:
    assert service(name)["read_only"] is True
    assert service(name)["cap_drop"] == ["ALL"]
    assert "user" not in service(name)  # the image's


@pytest.mark.parametrize("kind", KINDS)
def test_in_kubernetes_the_root_is_read_only_and_nobody_is_root(kind: str) -> None:
    pod = pods()[kind]
    [found] = re.findall(r"^USER (\d+):\d+$", text("Dockerfile"), re.MULTILINE)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == int(found) > 0
    assert pod["automountServiceAccountToken"] is False
    for entry in pod["containers"]:
        assert entry["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"requests", "limits"} <= entry["resources"].keys()


def test_the_image_holds_what_is_locked_and_nothing_for_development() -> None:
    dockerfile = text("Dockerfile")
    assert "--require-hashes" in dockerfile
    assert "dev.txt" not in dockerfile
    assert not re.search(
        r"^# *syntax=", (PROJECT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert (
        re.findall(r"^CMD (.*)$", dockerfile, re.MULTILINE)[-1] == '["python", "-m", "app.serve"]'
    )
    context = text(".dockerignore").split()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    for path in " ".join(copied).split():
        assert f"!{path}" in context
        assert (PROJECT / path).exists()


def test_health_checks_ask_for_paths_that_exist(app: FastAPI) -> None:
    assert http_paths() == {"/livez", "/readyz"}
    assert http_paths() <= {route.path for route in api_routes(app)}


def test_liveness_never_asks_for_the_database() -> None:
    assert container()["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container()["startupProbe"]["httpGet"]["path"] == "/livez"
    assert container()["readinessProbe"]["httpGet"]["path"] == "/readyz"


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_every_service_has_a_health_check_and_limits(name: str) -> None:
    checked = "healthcheck" in service(name) or "HEALTHCHECK" in text("Dockerfile")
    assert checked if name == "app" else "healthcheck" in service(name)
    assert service(name)["deploy"]["resources"]["limits"].keys() >= {"cpus", "memory"}


def test_the_worker_has_the_secrets_of_the_service_and_its_own_command() -> None:
    worker = service("worker")
    assert worker["volumes"] == service("app")["volumes"]
    [from_kubernetes] = pods()["worker"]["containers"]
    assert worker["command"] == from_kubernetes["command"] == ["python", "-m", "app.worker"]
    assert f":{environment('compose')['METRICS_PORT']}/readyz" in " ".join(
        worker["healthcheck"]["test"]
    )
    assert container()["volumeMounts"] == from_kubernetes["volumeMounts"]


def test_services_start_after_those_they_depend_on() -> None:
    for name, values in compose()["services"].items():
        for needed, condition in values.get("depends_on", {}).items():
            runs_once = needed in ("migrate", "secrets")
            expected = "service_completed_successfully" if runs_once else "service_healthy"
            assert condition["condition"] == expected, (name, needed)
    assert service("app")["depends_on"].keys() == {
        "migrate",
        "database",
        "valkey",
        "valkey-limits",
    }
    assert service("worker")["depends_on"] == service("app")["depends_on"]
    assert service("balancer")["depends_on"].keys() == {"app"}


@pytest.mark.parametrize(
    ("name", "policy"), [("valkey", "allkeys-lru"), ("valkey-limits", "noeviction")]
)
def test_valkey_persists_nothing_and_has_a_memory_limit(name: str, policy: str) -> None:
    flags = " ".join(f"{flag!r}" if flag == "" else flag for flag in service(name)["command"])
    for flag in ("--save ''", "--appendonly no", "--maxmemory ", f"--maxmemory-policy {policy}"):
        assert flag in flags


def test_in_compose_the_rate_limits_have_a_server_of_their_own() -> None:
    assert "//valkey-limits:" in service("app")["environment"]["RATE_LIMITS_URL"]
    assert "//valkey:" in service("app")["environment"]["VALKEY_URL"]


@pytest.mark.parametrize(
    "command",
    [
        ["haproxy", "-c", "-f", "deploy/haproxy/haproxy.cfg"],
        ["promtool", "check", "config", "deploy/prometheus/prometheus.yml"],
        ["kubectl", "kustomize", "deploy/kubernetes/base"],
        ["kubectl", "kustomize", "deploy/kubernetes/overlays/production"],
    ],
    ids=" ".join,
)
def test_the_program_accepts_its_configuration(command: list[str]) -> None:
    check(command)


def test_nginx_accepts_its_configuration(tmp_path: Path) -> None:
    configuration = (DEPLOY / "nginx/nginx.conf").read_text(encoding="utf-8")
    file = tmp_path / "nginx.conf"
    file.write_text(
        configuration.replace("server app:8000", "server 127.0.0.1:8000"), encoding="utf-8"
    )
    check(["nginx", "-t", "-c", str(file)])


def check(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    result = subprocess.run(
        command,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        encoding="utf-8",
    )
    assert result.returncode == 0, result.stdout + result.stderr
