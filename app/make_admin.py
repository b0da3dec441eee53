"""Make an account an administrator: `python -m app.make_admin ada@example.com`.

The first administrator is made with this command, and makes the others over the API. With
`--verified`, the address of the account is marked as verified, which an administrator needs.
"""

import argparse
import asyncio

from sqlalchemy.exc import DBAPIError

from app.errors import Conflict, NotFound, Unavailable
from app.features.users.service import make_admin
from app.infra.database.connection_budget import APPLICATION_NAME
from app.infra.lifespan import open_resources
from app.settings import load_settings

CURES = {
    "disabled": "Another administrator has to enable it first.",
    "not_verified": (
        "If you know who registered the account, run the command again with --verified (with "
        "make: verified=1). This marks the address as verified."
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.make_admin", description=__doc__)
    parser.add_argument("email", nargs="?", help="the e-mail address of the account")
    parser.add_argument(
        "--verified", action="store_true", help="you know that its owner registered the account"
    )
    arguments = parser.parse_args()
    if arguments.email is None:
        raise SystemExit("Name the account: python -m app.make_admin ada@example.com")
    try:
        asyncio.run(_run(arguments.email, is_known=arguments.verified))
    except NotFound as error:
        raise SystemExit(f"{error} Register it first.") from None
    except Conflict as error:
        raise SystemExit(f"{error} {CURES[error.code]}") from None
    except (Unavailable, DBAPIError) as error:
        reason = str(error) if isinstance(error, Unavailable) else type(error.orig).__name__
        raise SystemExit(
            f"The account could not be changed ({reason}). Check DATABASE_URL, and bring the "
            "schema up to date with: alembic upgrade head"
        ) from None


async def _run(email: str, *, is_known: bool) -> None:
    async with (
        open_resources(load_settings().sections(), APPLICATION_NAME) as resources,
        resources.database.transaction() as session,
    ):
        await make_admin(session, email, is_known=is_known)
    print("The account is an administrator now.")  # noqa: T201 - a command


if __name__ == "__main__":
    main()
