"""The developer's commands, `python -m dev COMMAND`; the Makefile names them all.

A command that fails ends with a sentence that says what to do.
"""

import argparse
import shutil
import sys
from collections.abc import Callable

from dev.backing import DATA, open_backing
from dev.database import seed, upgrade, write_migration
from dev.installation import home_of_nobody
from dev.run import run
from dev.servers import claim
from dev.terminal import CommandError, say


def main() -> int:
    """Run the command that the arguments name."""
    arguments = _parser().parse_args()
    command: Callable[[argparse.Namespace], None] = arguments.command
    try:
        command(arguments)
    except CommandError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: run the same command again to go on.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dev", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[[argparse.Namespace], None], description: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=description, description=description)
        added.set_defaults(command=command)
        return added

    add("run", lambda _: run(reload=False), "everything up, the service under Gunicorn")
    add("dev", lambda _: run(reload=True), "everything up, the service reloads on a change")
    add("migrate", _migrate, "bring the schema up to date")
    migration = add("migration", _write_migration, "write a migration from the models")
    migration.add_argument("-m", "--message", required=True)
    add("seed", _seed, "fill the empty database").add_argument(
        "--posts", type=_positive, default=100_000
    )
    add("clean-data", _clean_data, "remove the embedded servers' data")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def _migrate(_: argparse.Namespace) -> None:
    with open_backing() as backing:
        upgrade(backing)
    say("The schema is up to date.")


def _write_migration(arguments: argparse.Namespace) -> None:
    with open_backing() as backing:
        write_migration(backing, arguments.message)


def _seed(arguments: argparse.Namespace) -> None:
    with open_backing() as backing:
        upgrade(backing)
        seed(backing, arguments.posts)


def _clean_data(_: argparse.Namespace) -> None:
    if not DATA.exists():
        say("There is no data to remove.")
        return
    with claim(DATA):
        shutil.rmtree(home_of_nobody(DATA), ignore_errors=True)
        shutil.rmtree(DATA)
    say("Removed .data; the next start begins with an empty database.")


if __name__ == "__main__":
    sys.exit(main())
