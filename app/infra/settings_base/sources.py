"""Reads the values of settings: from the environment, from `.env`, and from SECRETS_DIR.

pydantic-settings can read these too. But it skips malformed lines and misspelt names, fails with a
traceback for text that is not UTF-8, and takes variables that Kubernetes sets for settings.

Names are returned in upper case. An empty value counts as not set.
"""

import io
import os
import re
from collections.abc import Iterable
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from app.infra.settings_base.names import PORT, SECRETS_DIR, SettingNames, is_service_variable

DOTENV = Path(".env")
DEFAULT_SECRETS_DIR = "/run/secrets"
LIBPQ_VARIABLE = re.compile(r"PG[A-Z]+")


class SettingsSourceError(Exception):
    """A source of settings cannot be read. The message says which one, and what to do."""


def read_values(names: SettingNames) -> dict[str, str]:
    """Return the values that are set: the environment wins over `.env`, and that over files.

    Misspelt names in `.env` and in SECRETS_DIR are errors. The environment contains the variables
    of other programs too, so there they are warnings: see `misspelt_variables`.
    """
    environment = _read_environment({*names.settings, SECRETS_DIR, PORT})
    dotenv = read_dotenv()
    folder = environment.get(SECRETS_DIR) or dotenv.get(SECRETS_DIR)
    files = _list_files(Path(folder or DEFAULT_SECRETS_DIR), is_required=folder is not None)
    for source, found in ((DOTENV.name, dotenv), (SECRETS_DIR, files)):
        if sentences := _misspelt(names, found):
            raise SettingsSourceError("\n  ".join(f"{source}: {it}" for it in sentences))
    secrets = {name: _read_secret(name, files[name]) for name in names.settings & files.keys()}
    values = {name: value for name, value in secrets.items() if value} | dotenv | environment
    if PORT in values and "SERVER_PORT" not in values:
        values["SERVER_PORT"] = _check_port(values[PORT])
    return values


def misspelt_variables(names: SettingNames) -> list[str]:
    """Return a sentence for each environment variable that looks like a misspelt setting."""
    variables = os.environ.items()
    return _misspelt(
        names, (name.upper() for name, value in variables if not is_service_variable(name, value))
    )


def _misspelt(names: SettingNames, found: Iterable[str]) -> list[str]:
    hints = names.find_misspelt(found)
    return [f"{name} is not a setting, {hint}" for name, hint in hints.items()]


def _check_port(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,5}", text.strip()) or int(text) > 65_535:
        raise SettingsSourceError(
            "PORT is not a port: set it, or SERVER_PORT, to a number up to 65535."
        )
    return text


def ignore_libpq_variables() -> None:
    """Remove PGHOST, PGSSLMODE and the like from the environment of this process.

    Otherwise asyncpg would read them, and they would change the meaning of DATABASE_URL.
    """
    for name in filter(LIBPQ_VARIABLE.fullmatch, list(os.environ)):
        del os.environ[name]


def _read_environment(wanted: set[str]) -> dict[str, str]:
    """Return the wanted variables. They are decoded as UTF-8, whatever the locale is."""
    return {
        name.upper(): _decode(os.fsencode(value), f"{name} in the environment")
        for name, value in os.environ.items()
        if name.upper() in wanted and value.strip() and not is_service_variable(name, value)
    }


def read_dotenv(file: Path = DOTENV) -> dict[str, str]:
    """Return the values in the file, or nothing when the file does not exist."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsSourceError(
            f"{file.name} cannot be read ({error.strerror}): make it a readable file, or remove it."
        ) from None
    text = _decode(content, file.name)
    _refuse_malformed_lines(text, file.name)
    return {
        name.upper(): value
        for name, value in dotenv_values(stream=io.StringIO(text)).items()
        if value and value.strip()
    }


def _refuse_malformed_lines(text: str, file: str) -> None:
    """Raise an error for lines that `dotenv_values` would skip."""
    for statement in parse_stream(io.StringIO(text)):
        if statement.error:
            string, line = statement.original  # the string may start with empty lines
            line += string[: -len(string.lstrip())].count("\n")
            raise SettingsSourceError(
                f"{file}: line {line} is not NAME=value: correct it, and the quotes around its "
                "value, or write # before it."
            )


def _list_files(folder: Path, *, is_required: bool) -> dict[str, Path]:
    """Return the files by upper-case name, without hidden ones, which Kubernetes creates."""
    try:
        return {
            path.name.upper(): path
            for path in sorted(folder.iterdir())
            if not path.name.startswith(".")
        }
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not is_required:
            return {}
        raise SettingsSourceError(
            f"SECRETS_DIR cannot be read ({error.strerror}): "
            "set it to a folder that this user may read."
        ) from None


def _read_secret(name: str, file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SettingsSourceError(
            f"{name} in SECRETS_DIR cannot be read ({error.strerror}): "
            "make it a file that this user may read."
        ) from None
    return _decode(content, f"{name} in SECRETS_DIR").strip()


def _decode(content: bytes, what: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise SettingsSourceError(f"{what} is not UTF-8 text: save it as UTF-8.")
    return text
