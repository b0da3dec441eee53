"""Behind PgBouncer, the role must have the timeouts, and no statement is kept prepared.

`tests/faults/test_pooler.py` runs the service behind a real PgBouncer.
"""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import make_url, text

from app.infra.database.connection_budget import read_connection_budget
from app.infra.lifespan import open_resources
from app.infra.resources import ProcessResources
from app.settings import Settings

PREPARED = text("SELECT count(*) FROM pg_prepared_statements")


def behind_pooler(settings: Settings) -> Settings:
    pooled = settings.database.model_copy(update={"pooler": True})
    return settings.model_copy(update={"database": pooled})


def start_up_check(settings: Settings) -> tuple[bool, str]:
    """Return whether start-up is content with the database, and what it says otherwise."""
    found = read_connection_budget(
        behind_pooler(settings).database,
        workers=1_000,  # PgBouncer limits the connections
        replicas=1,
        has_cache=True,
        job_workers=0,
        concurrent_jobs=1,
    )
    assert found is not None
    return found.is_sufficient, str(found)


@pytest.fixture
async def all_but_lock_timeout(
    settings: Settings, resources: ProcessResources
) -> AsyncIterator[None]:
    """Let every new session have the other timeouts."""
    name = make_url(settings.database.url.get_secret_value()).database
    timeouts = ("statement_timeout", "idle_in_transaction_session_timeout")
    async with resources.database.transaction() as session:
        for timeout in timeouts:
            await session.execute(text(f"ALTER DATABASE {name} SET {timeout} = '1h'"))
    yield
    async with resources.database.transaction() as session:
        await session.execute(text(f"ALTER DATABASE {name} RESET ALL"))


def test_start_up_names_each_timeout_that_the_role_lacks(settings: Settings) -> None:
    is_sufficient, message = start_up_check(settings)
    assert not is_sufficient
    seconds = settings.database
    for name, value in (
        ("idle_in_transaction_session_timeout", seconds.idle_in_transaction_timeout_seconds),
        ("lock_timeout", seconds.lock_timeout_seconds),
        ("statement_timeout", seconds.statement_timeout_seconds),
    ):
        assert f"ALTER ROLE … SET {name} = '{value * 1000:.0f}ms'" in message


def test_start_up_does_not_name_the_timeouts_that_the_role_has(
    settings: Settings, all_but_lock_timeout: None
) -> None:
    is_sufficient, message = start_up_check(settings)
    assert not is_sufficient
    assert message.count("ALTER ROLE") == 1
    assert "SET lock_timeout" in message


async def test_statements_stay_prepared_only_without_a_pooler(settings: Settings) -> None:
    kept = []
    for one in (settings, behind_pooler(settings)):
        async with open_resources(one.sections(), "test") as held, held.database.read() as session:
            kept.append(bool(await session.scalar(PREPARED)))
    assert kept == [True, False]


async def test_session_behind_a_pooler_sets_no_timeouts(settings: Settings) -> None:
    """PgBouncer refuses a connection that asks for them."""
    found = []
    for one in (settings, behind_pooler(settings)):
        async with open_resources(one.sections(), "test") as held, held.database.read() as session:
            found.append(await session.scalar(text("SHOW lock_timeout")))
    assert found == [f"{settings.database.lock_timeout_seconds:.0f}s", "0"]
