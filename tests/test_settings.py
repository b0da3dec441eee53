"""Settings: their sources, and what is refused at start-up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.infra.server.settings import CLOSING_SECONDS
from app.settings import Settings, load_settings

PROJECT = Path(__file__).parents[1]
SECRET = "hunter2" * 7


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("postgres://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgresql://u:p@h:1/d", "postgresql+asyncpg://u:p@h:1/d"),
        ("postgresql+asyncpg://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgres://u:p%40@h/d?sslmode=require", "postgresql+asyncpg://u:p%40@h/d?ssl=require"),
    ],
)
def test_every_common_postgresql_url_works(
    monkeypatch: pytest.MonkeyPatch, given: str, read: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", given)
    assert Settings().database.url.get_secret_value() == read


def test_empty_value_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    url = Settings().database.url.get_secret_value()
    assert url == "postgresql+asyncpg://app:app@127.0.0.1:5432/app"


@pytest.mark.parametrize("given", ["valkey://h:1/0", "redis://h:1/0"])
def test_scheme_of_valkey_is_converted(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("VALKEY_URL", given)
    assert Settings().valkey.url.get_secret_value() == "redis://h:1/0"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://u:hunter2@h/d"),
        ("DATABASE_URL", "hunter2"),
        ("DATABASE_URL", "postgresql://u:hunter2@h/d?target_session_attrs=any"),
        ("DATABASE_URL", "postgresql://u:hunter2@h/d?sslmode=hunter2"),
        ("DATABASE_URL", "postgresql://u:hunter2@h:99999/d"),
        ("DATABASE_URL", "postgresql://u:hunter2@a,b/d"),
        ("VALKEY_URL", "redis://:hunter2@h:x/0"),
        ("VALKEY_URL", "redis://:hunter2@h:1/0?hunter2=1"),
        ("WEB_CONCURRENCY", "1000000"),
        ("DATABASE_POOL_SIZE", "0"),
        ("DATABASE_POOL_TIMEOUT_SECONDS", "nan"),
        ("VALKEY_URL", "http://hunter2"),
        ("DATABASE_REPLICA_URL", "mysql://u:hunter2@h/d"),
        ("DATABASE_REPLICA_LAG_SECONDS", "1"),
        ("AUTH_SECRET", "hunter2"),
        ("MAIL_URL", "smtp://hunter2@h"),
        ("MAIL_URL", "http://u:hunter2@h"),
        ("MAIL_URL", "smtp://u:p@hunter2@h"),
        ("MAIL_URL", "smtp://u:hunter2@h?tls=hunter2"),
        ("MAIL_FROM", "hunter2"),
        ("MAIL_FROM", "Shop\nBcc: hunter2@example.com <shop@example.com>"),
        ("MAIL_LINKS_URL", "hunter2"),
        ("MAIL_LINKS_URL", "https://h/#hunter2"),
        ("ENVIRONMENT", "hunter2"),
        ("WEB_CONCURRENCY", "hunter2"),
    ],
)
def test_error_names_the_setting_and_does_not_show_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as refusal:
        load_settings()
    message = str(refusal.value)
    assert name in message
    assert "hunter2" not in message


def test_cluster_refuses_another_database_than_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALKEY_URL", "valkey://:hunter2@h:1/0")
    monkeypatch.setenv("VALKEY_CLUSTER", "true")
    assert Settings().valkey.cluster
    monkeypatch.setenv("VALKEY_URL", "valkey://:hunter2@h:1/1")
    with pytest.raises(SystemExit, match=r"VALKEY: .*database 0 alone") as refusal:
        load_settings()
    assert "hunter2" not in str(refusal.value)


def test_production_refuses_the_development_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    with pytest.raises(SystemExit, match=r"AUTH_SECRET.*openssl rand"):
        load_settings()
    monkeypatch.setenv("AUTH_SECRET", SECRET)
    assert load_settings().environment == "production"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"MAIL_FOLDER": "/tmp/mails"}, r"MAIL_FOLDER is for development only.*set MAIL_URL"),
        ({"MAIL_URL": "smtp://hunter2:hunter2@h"}, r"MAIL_LINKS_URL is missing"),
    ],
)
def test_production_refuses_mails_that_would_be_unsafe(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], sentence: str
) -> None:
    for name, value in {"ENVIRONMENT": "production", "AUTH_SECRET": SECRET, **given}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=sentence) as refusal:
        load_settings()
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    "given",
    ["*", "0.0.0.0/0", "::/0", "10.0.0.1,*", "balancer", "10.0.0.1/8", "0", "10", "1,2", "-1", "²"],
)
def test_trusting_every_proxy_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("SERVER_TRUSTED_PROXIES", given)
    with pytest.raises(SystemExit, match=r"SERVER_TRUSTED_PROXIES.*load balancers alone"):
        load_settings()
    monkeypatch.setenv("SERVER_TRUSTED_PROXIES", "10.0.0.5,10.1.0.0/16,fd00::/8")
    assert load_settings().server.trusted_proxies == "10.0.0.5,10.1.0.0/16,fd00::/8"
    assert load_settings().server.trusted_hops == 0
    monkeypatch.setenv("SERVER_TRUSTED_PROXIES", "2")
    assert load_settings().server.trusted_hops == 2


def test_defaults_leave_time_for_every_phase_of_the_shutdown() -> None:
    settings = Settings()
    ends = (
        settings.server.drain_seconds,
        settings.server.drain_seconds + settings.limits.request_seconds,
        settings.server.graceful_timeout_seconds - CLOSING_SECONDS,
        settings.server.graceful_timeout_seconds,
    )
    assert list(ends) == sorted(ends)


def test_drain_time_that_exceeds_the_graceful_timeout_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SERVER_GRACEFUL_TIMEOUT_SECONDS", "40")
    monkeypatch.setenv("SERVER_DRAIN_SECONDS", "26")
    with pytest.raises(SystemExit, match=r"SERVER_GRACEFUL_TIMEOUT_SECONDS.*SERVER_DRAIN"):
        load_settings()
    monkeypatch.setenv("SERVER_DRAIN_SECONDS", "25")
    assert load_settings().server.drain_seconds == 25


def test_secrets_are_read_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "auth_secret").write_text(SECRET + "\n", encoding="utf-8")
    (tmp_path / "database_url").write_text("postgres://u:p@h/d\n", encoding="utf-8")
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    settings = Settings()
    assert settings.auth.secret.get_secret_value() == SECRET
    assert settings.database.url.get_secret_value() == "postgresql+asyncpg://u:p@h/d"


def test_no_secret_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_SECRET", SECRET)
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hunter2@h/d")
    settings = Settings()
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.database.pool_size = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.environment = "production"  # type: ignore[misc]


def test_start_with_the_development_secret_in_production_exits_with_a_sentence() -> None:
    started = subprocess.run(
        [sys.executable, "-m", "app.serve"],
        cwd=PROJECT,
        env={**os.environ, "ENVIRONMENT": "production"},
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert started.returncode != 0
    assert "AUTH_SECRET is the development default" in started.stderr
    assert "Traceback" not in started.stderr
