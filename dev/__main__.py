"""The commands of the Makefile: `python -m dev COMMAND`."""

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Callable

from app.infra.settings_base.sources import SettingsSourceError, ignore_libpq_variables
from dev.database import DEMO_SIZE, seed, upgrade, write_migration
from dev.inspection import PROFILE_SECONDS, show_connections, show_memory, write_profile
from dev.openapi import CLIENT, DOCUMENT, write_client, write_document
from dev.remove import remove_feature
from dev.rename import rename
from dev.resource import KINDS, make_resource
from dev.run import run
from dev.servers import DATA, ROOT, open_servers, remove_data
from dev.terminal import CommandError, say

Arguments = argparse.Namespace


def main() -> int:
    arguments = _parse_arguments()
    ignore_libpq_variables()
    command: Callable[[Arguments], None] = arguments.command
    try:
        command(arguments)
    except (CommandError, SettingsSourceError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error}. Correct that, then run the command again.")
    except KeyboardInterrupt:
        return _fail("Interrupted. Run the command again to finish it.")
    return 0


def _fail(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


def _parse_arguments() -> Arguments:
    parser = argparse.ArgumentParser(prog="python -m dev", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name)
        subparser.set_defaults(command=command)
        if name == "jobs":
            subparser.add_argument("words", nargs="*")
        if name == "admin":
            subparser.add_argument("email")
            subparser.add_argument("--verified", action="store_true")
        if name == "migration":
            subparser.add_argument("-m", "--message", required=True)
        if name == "remove":
            subparser.add_argument("name")
        if name == "rename":
            subparser.add_argument("name")
            subparser.add_argument("--template", metavar="URL")
        if name == "resource":
            subparser.add_argument("name")
            subparser.add_argument("--kind", choices=KINDS, default="private")
            subparser.add_argument("--singular")
        if name == "seed":
            subparser.add_argument("--size", type=_positive, default=DEMO_SIZE)
    return parser.parse_args()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _migrate(_: Arguments) -> None:
    with open_servers() as servers:
        upgrade(servers)
    say("The database schema is up to date.")


def _flush_cache(_: Arguments) -> None:
    with open_servers() as servers:
        command = [sys.executable, "-m", "app.flush_cache"]
        result = subprocess.run(command, cwd=ROOT, env=servers.environment, check=False)
    if result.returncode:
        raise CommandError("The cache was not emptied. Correct the error above, then try again.")


def _jobs(arguments: Arguments) -> None:
    with open_servers() as servers:
        command = [sys.executable, "-m", "app.jobs", *arguments.words]
        result = subprocess.run(command, cwd=ROOT, env=servers.environment, check=False)
    if result.returncode:
        raise CommandError("Correct the error above, then try again.")


def _admin(arguments: Arguments) -> None:
    with open_servers() as servers:
        options = ["--verified"] if arguments.verified else []
        command = [sys.executable, "-m", "app.make_admin", *options, "--", arguments.email]
        result = subprocess.run(command, cwd=ROOT, env=servers.environment, check=False)
    if result.returncode:
        raise CommandError("Nothing was changed. Correct the error above, then try again.")


def _migration(arguments: Arguments) -> None:
    with open_servers() as servers:
        write_migration(servers, arguments.message)


def _connections(_: Arguments) -> None:
    with open_servers() as servers:
        asyncio.run(show_connections(servers.database_url))


def _openapi(_: Arguments) -> None:
    write_document()
    say(f"Wrote {DOCUMENT}. Read the difference as a client would: git diff {DOCUMENT}")


def _client(_: Arguments) -> None:
    write_client(ROOT / CLIENT)
    say(f"Wrote {CLIENT} from {DOCUMENT}. {CLIENT}/README.md shows how to use it.")
    say(f"To install it, run in the environment that needs it: pip install {ROOT / CLIENT}")


def _seed(arguments: Arguments) -> None:
    with open_servers() as servers:
        upgrade(servers)
        seed(servers, arguments.size)


def _clean_data(_: Arguments) -> None:
    if not DATA.exists():
        say("There is no data to remove.")
        return
    remove_data(DATA, say)
    say("Removed .data. The next start creates a new database.")


COMMANDS: dict[str, Callable[[Arguments], None]] = {
    "run": lambda _: run(reload=False),
    "dev": lambda _: run(reload=True),
    "migrate": _migrate,
    "admin": _admin,
    "flush-cache": _flush_cache,
    "profile": lambda _: write_profile(PROFILE_SECONDS),
    "connections": _connections,
    "openapi": _openapi,
    "client": _client,
    "memory": lambda _: show_memory(),
    "jobs": _jobs,
    "migration": _migration,
    "resource": lambda arguments: make_resource(arguments.name, arguments.kind, arguments.singular),
    "seed": _seed,
    "remove": lambda arguments: remove_feature(arguments.name),
    "rename": lambda arguments: rename(arguments.name, arguments.template),
    "clean-data": _clean_data,
}

if __name__ == "__main__":
    sys.exit(main())
