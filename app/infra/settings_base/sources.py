"""Reads the values of settings by name: from the environment, from `.env`, from SECRETS_DIR.

Every name is returned in upper case. A value that is empty counts as not set.
"""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from app.infra.settings_base.names import PORT, SECRETS_DIR, SettingNames, is_service_link

DOTENV = Path(".env")
DEFAULT_SECRETS_DIR = "/run/secrets"
LIBPQ_VARIABLE = re.compile(r"PG[A-Z]+")


class SettingsSourceError(Exception):
    """A source of settings cannot be read. The text says which one, and what to do."""


def read_values(known: SettingNames) -> dict[str, str]:
    """Return the value of every setting that is set somewhere: the environment wins, then `.env`.

    A name in `.env` or SECRETS_DIR that looks like a misspelt setting is refused.
    """
    environment = read_environment({*known.settings, SECRETS_DIR, PORT}.__contains__)
    dotenv = read_dotenv()
    folder = environment.get(SECRETS_DIR) or dotenv.get(SECRETS_DIR)
    files = files_in(Path(folder or DEFAULT_SECRETS_DIR), is_required=folder is not None)
    for where, names in ((DOTENV.name, dotenv), (SECRETS_DIR, files)):
        if wrong := known.misspelt(names):
            raise SettingsSourceError(
                "\n  ".join(f"{where}: {_is_no_setting(*it)}" for it in wrong.items())
            )
    secrets = {name: read_secret(name, files[name]) for name in known.settings & files.keys()}
    values = {name: value for name, value in secrets.items() if value} | dotenv | environment
    if PORT in values and "SERVER_PORT" not in values:
        values["SERVER_PORT"] = _platform_port(values[PORT])
    return values


def unknown_variables(known: SettingNames) -> list[str]:
    """Say of each variable of the environment that looks like a misspelt setting that it is none.

    This is for a warning: unlike a file of ours the environment is full of other programs' names.
    """
    ours = (name.upper() for name, value in os.environ.items() if not is_service_link(name, value))
    return [_is_no_setting(*it) for it in known.misspelt(ours).items()]


def _is_no_setting(name: str, cure: str) -> str:
    return f"{name} is not a setting, {cure}"


def _platform_port(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,5}", text.strip()) or int(text) > 65_535:
        raise SettingsSourceError(
            "PORT is not a port: set it, or SERVER_PORT, to a number up to 65535."
        )
    return text


def ignore_libpq_variables() -> None:
    """Remove PGSSLMODE, PGHOST and the like from the environment of this process.

    asyncpg reads them, and they would change what DATABASE_URL says.
    """
    for name in filter(LIBPQ_VARIABLE.fullmatch, list(os.environ)):
        del os.environ[name]


def read_environment(is_wanted: Callable[[str], bool]) -> dict[str, str]:
    """Return the wanted variables of the environment, as UTF-8 whatever the locale is."""
    found = {}
    for name, value in os.environ.items():
        if is_wanted(name.upper()) and value.strip() and not is_service_link(name, value):
            found[name.upper()] = _text(os.fsencode(value), f"{name} in the environment")
    return found


def read_dotenv(file: Path = DOTENV) -> dict[str, str]:
    """Return what the file sets; nothing when there is no file."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsSourceError(
            f"{file.name} cannot be read ({error.strerror}): make it a readable file, or remove it."
        ) from None
    text = _text(content, file.name)
    _refuse_unreadable_lines(text, file.name)
    return {
        name.upper(): value
        for name, value in dotenv_values(stream=io.StringIO(text)).items()
        if value and value.strip()
    }


def _refuse_unreadable_lines(text: str, file: str) -> None:
    """Refuse what `dotenv_values` would skip: a setting in it would keep its default."""
    for statement in parse_stream(io.StringIO(text)):
        if statement.error:
            string, line = statement.original  # the string begins with the empty lines before it
            line += string[: -len(string.lstrip())].count("\n")
            raise SettingsSourceError(
                f"{file}: line {line} is not NAME=value: correct it, and the quotes around its "
                "value, or write # before it."
            )


def files_in(folder: Path, *, is_required: bool) -> dict[str, Path]:
    """Return the files of SECRETS_DIR by name. Hidden ones are not looked at: Kubernetes' own."""
    try:
        return {
            path.name.upper(): path
            for path in sorted(folder.iterdir())
            if not path.name.startswith(".")
        }
    except FileNotFoundError:
        if not is_required:
            return {}
        reason = "No such folder"
    except OSError as error:
        reason = str(error.strerror)
    raise SettingsSourceError(
        f"SECRETS_DIR cannot be read ({reason}): set it to a folder that this user may read."
    ) from None


def read_secret(name: str, file: Path) -> str:
    """Return what the file of a secret contains, without white space around it."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SettingsSourceError(
            f"{name} in SECRETS_DIR cannot be read ({error.strerror}): "
            "make it a file that this user may read."
        ) from None
    return _text(content, f"{name} in SECRETS_DIR").strip()


def _text(content: bytes, what: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise SettingsSourceError(f"{what} is not UTF-8 text: save it as UTF-8.")
    return text
