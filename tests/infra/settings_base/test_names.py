"""The sources of settings, and what happens with misspelt names and unreadable files."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from app.settings import Settings, load_settings, misspelt_variables, setting_names

SECRET = "hunter2" * 7


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Run the test in a folder without .env, with a folder for secrets."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secrets").mkdir()
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path / "secrets"))
    return tmp_path


def refusal() -> str:
    with pytest.raises(SystemExit) as refused:
        load_settings()
    message = str(refused.value)
    assert "hunter2" not in message
    return message


MISSPELT = [
    ("ENVIROMENT", "ENVIRONMENT"),
    ("ENVIRMENT", "ENVIRONMENT"),
    ("DATABASE_POOLSIZE", "DATABASE_POOL_SIZE"),
    ("SERVER_TRUSTED_PROXY", "SERVER_TRUSTED_PROXIES"),
    ("REPLICA", "REPLICAS"),
    ("LOGLEVEL", "LOG_LEVEL"),
    ("WEB_CONCURENCY", "WEB_CONCURRENCY"),
    ("SECRET_DIR", "SECRETS_DIR"),
    ("database_ulr", "DATABASE_URL"),
    ("DATABASE", "DATABASE_URL"),
    ("LOG", "LOG_LEVEL"),
    ("CACHE_TTL", "CACHE_TTL_SECONDS"),
    ("RATE_LIMITS_QUOTES", "RATE_LIMITS_QUOTAS"),
    ("DATABASE_POOL", "DATABASE_POOL_SIZE"),
]
PARTS = [
    ("RATE_LIMITS_HOST", "RATE_LIMITS_URL"),
    *[(f"DATABASE_{part}", "DATABASE_URL") for part in ("PASSWORD", "HOST", "USER", "NAME")],
    *[(f"VALKEY_{part}", "VALKEY_URL") for part in ("PASSWORD", "HOST", "PORT", "DB")],
]
STRANGERS = [
    *("COMPOSE_PROJECT_NAME", "OTEL_SERVICE_NAME", "BALANCER_ADDRESS", "POSTGRES_PASSWORD"),
    *("HOST", "POST", "PATH", "ROOT", "LOGS", "SERVE", "TZ", "PORTS"),
]


@pytest.mark.parametrize(("written", "meant"), MISSPELT)
def test_misspelt_name_in_dotenv_is_refused_with_a_suggestion(
    folder: Path, written: str, meant: str
) -> None:
    (folder / ".env").write_text(f"{written}=hunter2\n", encoding="utf-8")
    message = refusal()
    assert f".env: {written.upper()} is not a setting" in message
    assert f"the nearest one is {meant}:" in message


@pytest.mark.parametrize(("written", "meant"), MISSPELT)
def test_misspelt_file_in_the_secrets_folder_is_refused(
    folder: Path, written: str, meant: str
) -> None:
    (folder / "secrets" / written.lower()).write_text("hunter2", encoding="utf-8")
    message = refusal()
    assert f"SECRETS_DIR: {written.upper()} is not a setting" in message
    assert f"the nearest one is {meant}:" in message


@pytest.mark.parametrize(("written", "meant"), MISSPELT)
def test_misspelt_environment_variable_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, written: str, meant: str
) -> None:
    monkeypatch.setenv(written, "hunter2")
    load_settings()
    [sentence] = [it for it in misspelt_variables() if it.startswith(written.upper())]
    assert f"the nearest one is {meant}:" in sentence
    assert "hunter2" not in sentence


@pytest.mark.parametrize(("written", "url"), PARTS)
def test_hint_for_a_part_of_an_address_names_the_url_setting(
    folder: Path, written: str, url: str
) -> None:
    (folder / ".env").write_text(f"{written}=hunter2\n", encoding="utf-8")
    assert f"{written} is not a setting, its value is a part of {url}: " in refusal()


@pytest.mark.parametrize("written", ["CACHE_HOST", "SERVER_WORKERS", "AUTH_KEY", "LOG_FILE"])
def test_name_without_a_similar_setting_gets_no_suggestion(folder: Path, written: str) -> None:
    (folder / ".env").write_text(f"{written}=hunter2\n", encoding="utf-8")
    message = refusal()
    assert f"{written} is not a setting, and no setting has a similar name" in message
    assert "nearest" not in message


def test_names_of_other_programs_are_ignored(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    lines = "".join(f"{name}=x\n" for name in STRANGERS)
    (folder / ".env").write_text(lines + "LIMITS_RUNNING=7\n", encoding="utf-8")
    secrets = folder / "secrets"
    (secrets / "tls.key").write_bytes(b"\x80\xff\x00")
    (secrets / "kubernetes.io").mkdir()
    for name in STRANGERS:
        (secrets / name.lower()).write_text("x", encoding="utf-8")
        monkeypatch.setenv(name, "x")
    assert load_settings().limits.running == 7
    assert not any(sentence.startswith(name) for name in STRANGERS for sentence in [*warned()])


def warned() -> set[str]:
    return {sentence.split()[0] for sentence in misspelt_variables()}


def test_every_setting_can_be_in_dotenv(folder: Path) -> None:
    lines = "".join(f"{name}=\n{name.lower()}=\n" for name in setting_names().settings)
    (folder / ".env").write_text(lines, encoding="utf-8")
    assert load_settings().replicas == 1


def test_service_variables_of_kubernetes_are_not_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for service in ("SERVER", "METRICS", "DATABASE", "VALKEY", "CACHE"):
        monkeypatch.setenv(f"{service}_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv(f"{service}_SERVICE_PORT", "6379")
        monkeypatch.setenv(f"{service}_SERVICE_PORT_HTTP", "6379")
        monkeypatch.setenv(f"{service}_PORT", "tcp://10.0.0.1:6379")
        monkeypatch.setenv(f"{service}_PORT_6379_TCP", "tcp://10.0.0.1:6379")
        monkeypatch.setenv(f"{service}_PORT_6379_TCP_ADDR", "10.0.0.1")
    settings = load_settings()
    assert (settings.server.port, settings.metrics.port) == (8000, 0)
    assert warned() == set()


def test_secrets_are_read_as_kubernetes_mounts_them(folder: Path) -> None:
    secrets = folder / "secrets"
    version = secrets / "..2026_01_01"
    version.mkdir()
    (version / "auth_secret").write_text(f"{SECRET}\n", encoding="utf-8")
    (secrets / "..data").symlink_to(version.name)
    (secrets / "auth_secret").symlink_to("..data/auth_secret")
    assert load_settings().auth.secret.get_secret_value() == SECRET


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("AUTH_ISSUER=hunter2".encode("utf-16"), id="UTF-16"),
        pytest.param("AUTH_ISSUER=hunter2".encode("utf-16-be"), id="UTF-16 without a mark"),
        pytest.param("AUTH_ISSUER=hunter2é".encode("latin-1"), id="Latin-1"),
    ],
)
def test_dotenv_that_is_not_utf_8_is_refused(folder: Path, content: bytes) -> None:
    (folder / ".env").write_bytes(content)
    assert ".env is not UTF-8 text: save it as UTF-8." in refusal()


def test_dotenv_with_a_byte_order_mark_is_read(folder: Path) -> None:
    (folder / ".env").write_bytes("AUTH_ISSUER=é\r\n".encode("utf-8-sig"))
    assert load_settings().auth.issuer == "é"


@pytest.mark.parametrize(
    "line",
    ["AUTH_SECRET: hunter2", 'AUTH_SECRET="hunter2', 'AUTH_SECRET="hunter2"x', "hunter2 hunter2"],
)
def test_malformed_line_of_dotenv_is_refused_with_its_number(folder: Path, line: str) -> None:
    (folder / ".env").write_text(f"LIMITS_RUNNING=7\n\n{line}\nREPLICAS=2\n", encoding="utf-8")
    assert ".env: line 3 is not NAME=value" in refusal()


def test_dotenv_that_is_a_folder_is_refused(folder: Path) -> None:
    (folder / ".env").mkdir()
    assert ".env cannot be read (Is a directory)" in refusal()


def test_binary_secret_is_refused_by_name(folder: Path) -> None:
    (folder / "secrets" / "auth_secret").write_bytes(b"\x80\xff" * 32)
    assert "AUTH_SECRET in SECRETS_DIR is not UTF-8 text" in refusal()


def test_secret_that_is_a_folder_is_refused_by_name(folder: Path) -> None:
    (folder / "secrets" / "database_url").mkdir()
    assert "DATABASE_URL in SECRETS_DIR cannot be read (Is a directory)" in refusal()


@pytest.mark.parametrize("given", ["nothing", "file"])
def test_configured_secrets_folder_must_exist(
    monkeypatch: pytest.MonkeyPatch, folder: Path, given: str
) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("SECRETS_DIR", str(folder / given))
    assert "SECRETS_DIR cannot be read" in refusal()


def test_dotenv_can_name_the_secrets_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("SECRETS_DIR")
    (folder / ".env").write_text(f"SECRETS_DIR={folder}/secrets\n", encoding="utf-8")
    (folder / "secrets" / "limits_running").write_text("7", encoding="utf-8")
    assert load_settings().limits.running == 7


def test_environment_wins_over_dotenv_and_dotenv_over_files(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    for name in ("limits_running", "limits_queued", "limits_streams"):
        (folder / "secrets" / name).write_text("1", encoding="utf-8")
    (folder / ".env").write_text("LIMITS_RUNNING=2\nLIMITS_QUEUED=2\n", encoding="utf-8")
    monkeypatch.setenv("LIMITS_RUNNING", "3")
    limits = load_settings().limits
    assert (limits.running, limits.queued, limits.streams) == (3, 2, 1)


def test_variable_that_is_not_utf_8_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_ISSUER", "hunter2\udcff")
    assert "AUTH_ISSUER in the environment is not UTF-8 text" in refusal()


@pytest.mark.parametrize(
    ("server_port", "port", "used"), [("", "", 8000), ("", "81", 81), ("82", "81", 82)]
)
def test_platform_can_choose_the_port(
    monkeypatch: pytest.MonkeyPatch, server_port: str, port: str, used: int
) -> None:
    monkeypatch.setenv("SERVER_PORT", server_port)
    monkeypatch.setenv("PORT", port)
    assert load_settings().server.port == used


def test_invalid_port_of_the_platform_is_refused_if_it_is_used(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("PORT", "hunter2")
    assert "PORT is not a port" in refusal()
    (folder / "secrets" / "server_port").write_text("83", encoding="utf-8")
    assert load_settings().server.port == 83


@pytest.mark.parametrize("given", ["", " ", "auto", "AUTO"])
def test_auto_means_one_worker_for_each_core(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", given)
    assert load_settings().web_concurrency is None


@pytest.mark.parametrize(
    "given", ["2.5", "2 # two", "-1", "0", "257", "many", "1_0", "٣", "9" * 99]
)
def test_invalid_number_of_workers_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", given)
    assert "WEB_CONCURRENCY: " in refusal()


def numeric_settings() -> list[str]:
    """Return the names of the numeric settings."""
    sections = {name: field.default for name, field in Settings.model_fields.items()}
    values = {
        f"{name}_{key}": value
        for name, section in sections.items()
        if isinstance(section, BaseModel)
        for key, value in section
    }
    numbers = {name.upper() for name, value in values.items() if type(value) in (int, float)}
    return sorted(numbers | {"REPLICAS", "WEB_CONCURRENCY"})


@pytest.mark.parametrize("value", ["hunter2", "-1", "nan", "inf", "9" * 26, "9" * 5_000, "1;2"])
@pytest.mark.parametrize("name", numeric_settings())
def test_invalid_or_too_large_number_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert f"  {name}: " in refusal()


@pytest.mark.parametrize("name", ["CACHE_ENABLED", "DATABASE_POOLER", "LOG_ACCESS", "DOCS_ENABLED"])
@pytest.mark.parametrize("value", ["hunter2", "2", "-1", "ja"])
def test_invalid_switch_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert f"  {name}: " in refusal()
