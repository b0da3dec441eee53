"""Make an account an administrator: `python -m app.make_admin ada@example.com`.

The first administrator is made with this command, and makes the others over the API.
"""

import asyncio
import sys

from sqlalchemy.exc import DBAPIError

from app.errors import Conflict, NotFound, Unavailable
from app.features.users.service import make_admin
from app.infra.database.connection_budget import APPLICATION_NAME
from app.infra.lifespan import open_resources
from app.settings import load_settings


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("Name the account: python -m app.make_admin ada@example.com")
    try:
        asyncio.run(_run(sys.argv[1]))
    except NotFound as error:
        raise SystemExit(f"{error} Register it first.") from None
    except Conflict as error:
        raise SystemExit(f"{error} Another administrator has to enable it first.") from None
    except (Unavailable, DBAPIError) as error:
        reason = str(error) if isinstance(error, Unavailable) else type(error.orig).__name__
        raise SystemExit(
            f"The account could not be changed ({reason}). Check DATABASE_URL, and bring the "
            "schema up to date with: alembic upgrade head"
        ) from None


async def _run(email: str) -> None:
    async with (
        open_resources(load_settings().sections(), APPLICATION_NAME) as resources,
        resources.database.transaction() as session,
    ):
        await make_admin(session, email)
    print("The account is an administrator now.")  # noqa: T201 - a command


if __name__ == "__main__":
    main()
