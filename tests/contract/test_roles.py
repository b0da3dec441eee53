"""deploy/postgres/roles.sql, run by psql as the administrators that there are."""

import asyncio
import os
import secrets
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
import pytest
from alembic.command import upgrade
from pydantic import SecretStr

from app.infra.database.connection_budget import ConnectionBudget, read_connection_budget
from app.infra.database.settings import DatabaseSettings
from app.settings import Settings
from dev.postgres import postgres_binary, postgres_program, start_postgres
from tests.application import client_of, running
from tests.contract.callers import log_in
from tests.contract.calls import call
from tests.contract.document import ROUTES
from tests.contract.features import ENDLESS, make_rows
from tests.features.users.factory import UserFactory
from tests.migrations import run_alembic
from tests.standby import LEASH

PROJECT = Path(__file__).parents[2]
FILE = PROJECT / "deploy" / "postgres" / "roles.sql"
NOTICE = "may not grant pg_read_all_stats"

ADMINISTRATORS = {
    "managed": "CREATE ROLE boss LOGIN CREATEDB CREATEROLE PASSWORD 'boss'",
    "managed, does not inherit": (
        "CREATE ROLE boss LOGIN CREATEDB CREATEROLE NOINHERIT PASSWORD 'boss'"
    ),
    "managed, may grant statistics": (
        "CREATE ROLE boss LOGIN CREATEDB CREATEROLE PASSWORD 'boss';"
        "GRANT pg_read_all_stats TO boss WITH ADMIN OPTION"
    ),
    "superuser": "CREATE ROLE boss LOGIN SUPERUSER PASSWORD 'boss'",
}


@dataclass
class Server:
    """A PostgreSQL server whose only database was made by its administrator `boss`."""

    port: int
    folder: Path

    def url(self, role: str, password: str, database: str = "service") -> str:
        return f"postgresql://{role}:{password}@127.0.0.1:{self.port}/{database}"

    def psql(self, *arguments: str, database: str = "service") -> str:
        """Run psql as the administrator, as the documents say, and return its output."""
        command = [postgres_binary("psql"), self.url("boss", "boss", database), *arguments]
        done = subprocess.run(
            command,
            env={"PATH": os.environ["PATH"], "SECRETS_DIR": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def make_roles(self) -> tuple[dict[str, str], str]:
        """Choose passwords and run the file. Return the passwords and the output."""
        passwords = {}
        for role in ("app", "migrations"):
            # Quotes and backslashes have no meaning in a password.
            passwords[role] = f"'\\{secrets.token_hex(8)}"
            (self.folder / f"{role}_password").write_text(f"{passwords[role]}\n", encoding="utf-8")
        return passwords, self.psql("-f", str(FILE))

    async def rows(self, role: str, password: str, query: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=self.port, user=role, password=password, database="service"
        )
        try:
            return await connection.fetch(query)
        finally:
            await connection.close()


@pytest.fixture(params=ADMINISTRATORS.values(), ids=list(ADMINISTRATORS))
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    program = replace(postgres_program(tmp_path), prefix=LEASH)
    process, url = start_postgres(program, durable=False, say=lambda _: None)
    try:
        # The first superuser has the name of the service's role. Only another one can rename it.
        first = await asyncpg.connect(url)
        await first.execute("CREATE ROLE root LOGIN SUPERUSER PASSWORD 'root'")
        await first.close()
        server = Server(process.port, tmp_path)
        root = await asyncpg.connect(server.url("root", "root", "postgres"))
        await root.execute("ALTER ROLE app RENAME TO first")
        await root.execute("DROP DATABASE app")
        await root.execute(request.param)
        await root.close()
        server.psql("-c", "CREATE DATABASE service", database="postgres")
        yield server
    finally:
        process.stop()


def escaped(password: str) -> str:
    return password.replace("'", "%27").replace("\\", "%5C")


def with_url(settings: Settings, url: str) -> Settings:
    values = settings.model_dump()
    values["database"]["url"] = url
    values["cache"]["namespace"] += "-roles"
    return Settings.model_validate(values)


async def test_the_file_makes_roles_that_migrate_and_serve(
    server: Server, settings: Settings, request: pytest.FixtureRequest
) -> None:
    """It may be run again, which changes the passwords and repairs missing privileges."""
    may_grant = "managed" not in request.node.name or "statistics" in request.node.name
    old, output = server.make_roles()
    assert (NOTICE in output) is not may_grant
    await run_alembic(upgrade, server.url("migrations", escaped(old["migrations"])), "head")

    await server.rows(
        "migrations", old["migrations"], "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM app"
    )
    new, _ = server.make_roles()
    for role in ("app", "migrations"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await server.rows(role, old[role], "SELECT 1")

    own = with_url(settings, server.url("app", escaped(new["app"])))
    async with running(own) as app, client_of(app) as client:
        user = await UserFactory(app.state.resources).user()
        ids = await make_rows(app.state.resources, user)
        caller = await log_in(client, user)
        # The account and the rows end with some of the calls. Those come last.
        for route in sorted(ROUTES.keys() - ENDLESS, key=lambda route: route.startswith("DELETE")):
            response = await call(client, route, ids, caller)
            assert response.status_code < 500, (route, response.text)
        assert (await client.get("/readyz")).is_success


async def test_the_service_gets_timeouts_and_cannot_change_the_schema(server: Server) -> None:
    passwords, _ = server.make_roles()
    await run_alembic(upgrade, server.url("migrations", escaped(passwords["migrations"])), "head")
    [[timeout]] = await server.rows("app", passwords["app"], "SHOW statement_timeout")
    assert timeout == "5s"
    [[timeout]] = await server.rows("migrations", passwords["migrations"], "SHOW statement_timeout")
    assert timeout == "0"
    for statement in ("CREATE TABLE t ()", "DROP TABLE posts", "TRUNCATE posts"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await server.rows("app", passwords["app"], statement)


async def test_the_connections_of_others_count_if_the_administrator_may_grant_that(
    server: Server,
) -> None:
    passwords, output = server.make_roles()
    others = await asyncpg.connect(server.url("boss", "boss"))
    url = server.url("app", escaped(passwords["app"]))
    database = DatabaseSettings(url=SecretStr(url))
    try:
        budget = await asyncio.to_thread(
            read_connection_budget,
            database,
            workers=1,
            replicas=1,
            has_cache=True,
            job_workers=1,
            concurrent_jobs=1,
        )
    finally:
        await others.close()
    assert isinstance(budget, ConnectionBudget)
    # More than one, if the server has not yet noticed that psql has ended.
    assert (budget.held_by_others > 0) == (NOTICE not in output)


async def test_a_missing_password_ends_the_file_before_it_changes_anything(
    server: Server,
) -> None:
    (server.folder / "app_password").write_text("", encoding="utf-8")
    with pytest.raises(AssertionError, match="SECRETS_DIR must name a folder"):
        server.psql("-f", str(FILE))
    root = await asyncpg.connect(server.url("boss", "boss"))
    assert await root.fetchval("SELECT to_regrole('migrations') IS NULL")
    await root.close()
