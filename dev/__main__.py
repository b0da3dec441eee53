"""The developer's commands, `python -m dev COMMAND`, which the Makefile names.

A command that fails ends with a sentence that says what to do.
"""

import argparse
import asyncio
import shutil
import sys
from collections.abc import Callable

from app.infra.settings_base.sources import SettingsSourceError, ignore_libpq_variables
from dev.backing import DATA, open_backing
from dev.database import DEMO_POSTS, flush_cache, seed, upgrade, write_migration
from dev.inspection import PROFILE_SECONDS, show_connections, show_memory, write_profile
from dev.installation import home_of_nobody
from dev.keeper import stop_leftovers
from dev.run import run
from dev.servers import claim
from dev.terminal import CommandError, say

Arguments = argparse.Namespace


def main() -> int:
    """Run the command that the command line names."""
    arguments = _parser().parse_args()
    ignore_libpq_variables()
    command: Callable[[Arguments], None] = arguments.command
    try:
        command(arguments)
    except (CommandError, SettingsSourceError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error}: make that possible, then run the command again.")
    except KeyboardInterrupt:
        return _fail("Interrupted: run the command again.")
    return 0


def _fail(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dev", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parsers = {name: commands.add_parser(name, help=COMMANDS[name].__doc__) for name in COMMANDS}
    for name, subparser in parsers.items():
        subparser.set_defaults(command=COMMANDS[name])
    parsers["migration"].add_argument("-m", "--message", required=True)
    parsers["seed"].add_argument("--posts", type=_positive, default=DEMO_POSTS)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def _run(_: Arguments) -> None:
    """Start everything, the service under Gunicorn."""
    run(reload=False)


def _dev(_: Arguments) -> None:
    """Start everything, the service reloading on a change."""
    run(reload=True)


def _migrate(_: Arguments) -> None:
    """Bring the schema up to date."""
    with open_backing() as backing:
        upgrade(backing)
    say("The schema is up to date.")


def _flush_cache(_: Arguments) -> None:
    """Empty the cache."""
    with open_backing() as backing:
        flush_cache(backing)


def _migration(arguments: Arguments) -> None:
    """Write a migration from the models."""
    with open_backing() as backing:
        write_migration(backing, arguments.message)


def _profile(_: Arguments) -> None:
    """Draw where the running service spends its time."""
    write_profile(PROFILE_SECONDS)


def _connections(_: Arguments) -> None:
    """Say who holds database connections."""
    with open_backing() as backing:
        asyncio.run(show_connections(backing.database_url))


def _memory(_: Arguments) -> None:
    """Say what memory the running service takes."""
    show_memory()


def _seed(arguments: Arguments) -> None:
    """Fill the empty database with demo data."""
    with open_backing() as backing:
        upgrade(backing)
        seed(backing, arguments.posts)


def _clean_data(_: Arguments) -> None:
    """Remove the data of the embedded servers."""
    if not DATA.exists():
        say("There is no data to remove.")
        return
    with claim(DATA):
        stop_leftovers(DATA, say)
        shutil.rmtree(home_of_nobody(DATA), ignore_errors=True)
        shutil.rmtree(DATA)
    say("Removed .data; the next start begins with an empty database.")


COMMANDS: dict[str, Callable[[Arguments], None]] = {
    "run": _run,
    "dev": _dev,
    "migrate": _migrate,
    "flush-cache": _flush_cache,
    "profile": _profile,
    "connections": _connections,
    "memory": _memory,
    "migration": _migration,
    "seed": _seed,
    "clean-data": _clean_data,
}

if __name__ == "__main__":
    sys.exit(main())
