"""Compose: how .env reaches the services, the overlays, and the scripts in deploy/compose."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values

from app.settings import Settings
from tests.contract.deployment import (
    DEPLOY,
    PROJECT,
    compose,
    default,
    haproxy,
    seconds,
    service,
    text,
)
from tests.contract.test_documents import setting_names

SCRIPTS = sorted((DEPLOY / "compose").glob("*.sh"))
CADDY = (DEPLOY / "caddy" / "Caddyfile").read_text(encoding="utf-8")
DOCUMENT = (PROJECT / "docs" / "deployment" / "vm.md").read_text(encoding="utf-8")
# What a developer may have in .env. In a container, these addresses lead nowhere.
OF_A_DEVELOPER = {
    "ENVIRONMENT": "development",
    "DATABASE_URL": "postgresql://dev:dev@127.0.0.1:5432/dev",
    "VALKEY_URL": "redis://127.0.0.1:6379/0",
    "RATE_LIMITS_URL": "redis://127.0.0.1:6379/1",
    "SERVER_HOST": "127.0.0.1",
    "SERVER_PORT": "8001",
    "METRICS_PORT": "0",
    "SECRETS_DIR": "./secrets",
}


def started_with(name: str, dotenv: dict[str, str]) -> dict[str, str]:
    """Return the variables that a service gets from Compose when .env has these values.

    `environment` wins over `env_file`. `${NAME:-value}` in it is the value in .env, if it has one.
    """
    values = dict(dotenv) if service(name)["env_file"] else {}
    for key, value in service(name)["environment"].items():
        [*written] = re.findall(r"^\$\{(\w+):-", value)
        values[key] = (written and dotenv.get(written[0])) or default(value)
    return values


@pytest.mark.parametrize("name", ["app", "worker", "migrate"])
def test_the_file_of_settings_may_be_missing(name: str) -> None:
    assert service(name)["env_file"] == [{"path": ".env", "required": False}]


def test_every_setting_is_fixed_or_can_be_set_in_dotenv() -> None:
    for name in setting_names():
        value = started_with("app", {name: "from .env"})[name]
        assert (value != "from .env") == (name in OF_A_DEVELOPER), name


@pytest.mark.parametrize("name", ["app", "worker", "migrate"])
def test_the_addresses_of_a_developer_do_not_reach_the_service(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in [*os.environ]:
        if variable in setting_names():
            monkeypatch.delenv(variable)
    dotenv = OF_A_DEVELOPER | {"LIMITS_BODY_BYTES": "5000"}
    for variable, value in started_with(name, dotenv).items():
        monkeypatch.setenv(variable, value)
    (tmp_path / "auth_secret").write_text("s" * 32, encoding="utf-8")
    url = "postgresql://app:secret@database:5432/app"
    (tmp_path / "database_url").write_text(url, encoding="utf-8")
    assert os.environ["SECRETS_DIR"] == ""  # the default, which is a folder of the container
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    settings = Settings()
    assert settings.is_production
    assert settings.database.url.get_secret_value().endswith("@database:5432/app")
    assert settings.valkey.url.get_secret_value().startswith("redis://valkey:")
    assert (settings.server.host, settings.server.port) == ("0.0.0.0", 8000)
    assert settings.limits.body_bytes == 5000


def test_the_page_names_each_setting_that_compose_decides() -> None:
    for name in service("app")["environment"]:
        assert f"`{name}`" in DOCUMENT, name


def test_the_page_names_each_variable_of_the_compose_files() -> None:
    files = [PROJECT / "docker-compose.yml", *DEPLOY.glob("*/docker-compose.yml")]
    for file in files:
        for name in re.findall(r"(?<!\$)\$\{(\w+)", file.read_text(encoding="utf-8")):
            assert f"`{name}`" in DOCUMENT, name


def test_the_settings_that_the_page_writes_are_read_as_they_are_written(tmp_path: Path) -> None:
    [written] = re.findall(r"cat >\.env <<'END'\n(.*?)END\n", DOCUMENT, re.DOTALL)
    file = tmp_path / ".env"
    file.write_text(written, encoding="utf-8")
    values = dotenv_values(file)
    for path in str(values["COMPOSE_FILE"]).split(":"):
        assert (PROJECT / path).is_file()
    assert f"{{${'DOMAIN'}}} {{" in CADDY


def test_another_database_is_used_by_all_services_and_one_of_them_owns_its_schema() -> None:
    [written] = re.findall(r"^```yaml\n(services:\n.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    overridden = yaml.safe_load(written)["services"]
    image = service("app")["image"]
    assert {name for name, it in compose()["services"].items() if it["image"] == image} == {
        *overridden
    }
    for name, values in overridden.items():
        assert "front" in values["networks"]  # the way out
        from_file = {"MANAGED_MIGRATIONS_URL": "owner"} if service(name)["env_file"] else {}
        known = (from_file | values["environment"]).values()
        assert ("owner" in known) == (name == "migrate"), name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.name))
def test_scripts_can_be_run(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.parametrize("overlay", ["caddy", "nginx"])
def test_compose_accepts_the_files(overlay: str) -> None:
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("Docker with Compose is not installed")
    files = ["-f", "docker-compose.yml", "-f", f"deploy/{overlay}/docker-compose.yml"]
    result = subprocess.run(
        [docker, "compose", *files, "config", "--quiet"],
        cwd=PROJECT,
        env={**os.environ, "DOMAIN": "api.example.com"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_caddy_accepts_its_configuration() -> None:
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("caddy is not installed")
    result = subprocess.run(
        [caddy, "validate", "--adapter", "caddyfile", "--config", DEPLOY / "caddy" / "Caddyfile"],
        env={
            **os.environ,
            "DOMAIN": "api.example.com",
            "ACME_CA": "https://ca.example.com/directory",
        },
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def caddy(name: str) -> float:
    """Return a duration in the Caddyfile, in seconds."""
    [value] = re.findall(rf"^\s*{name} (\w+)$", CADDY, re.MULTILINE)
    return seconds(value)


def test_timeouts_of_caddy_fit_to_the_balancer() -> None:
    assert caddy("keepalive") < haproxy("timeout http-keep-alive")
    overlay = text("deploy/caddy/docker-compose.yml")
    [grace] = re.findall(r"stop_grace_period: (\w+)", overlay)
    assert caddy("grace_period") < seconds(grace)
    assert haproxy("timeout http-request") == caddy("read_header")


def test_with_caddy_nobody_else_reaches_the_balancer() -> None:
    overlay = text("deploy/caddy/docker-compose.yml")
    [balancer] = re.findall(r"^  balancer:\n((?:    .*\n)+)", overlay, re.MULTILINE)
    assert "ports: !reset []" in balancer
    assert 'BEHIND_PROXY: "yes"' in balancer
