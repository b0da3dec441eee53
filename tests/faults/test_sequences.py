"""A PostgreSQL sequence is behind its table, as after a wrong restore, or has reached its end."""

from tempfile import TemporaryFile

import pytest

from tests.faults.conftest import Judge, Serve
from tests.faults.load import register
from tests.faults.postgres import Backend
from tests.faults.verdicts import GUARDED

pytestmark = pytest.mark.faults
BEHIND, AT_ITS_END = "1, false", f"{2**63 - 1}, true"
TABLES = ("users", "posts", "refresh_tokens")


@pytest.mark.parametrize("control", [GUARDED, "with database faults reported as client errors"])
@pytest.mark.parametrize(
    ("case", "value", "named"),
    [
        ("A PostgreSQL sequence is behind its table", BEHIND, "constraint pk_{}"),
        ("A PostgreSQL sequence has reached its end", AT_ITS_END, "{}_id_seq"),
    ],
)
async def test_a_sequence_that_does_not_fit_is_no_fault_of_the_client(
    serve: Serve, backend: Backend, judge: Judge, control: str, case: str, value: str, named: str
) -> None:
    statuses: dict[str, int] = {}
    with TemporaryFile() as log:
        async with serve(control, output=log) as service:
            email, headers = await register(service.client)
            account = {"email": f"other.{email}", "name": "B", "password": "another password"}
            form = {"username": email, "password": "correct horse battery"}
            post = {"title": "T", "body": "B"}
            (await service.client.post("/v1/posts", json=post, headers=headers)).raise_for_status()
            client = service.client
            sent = {
                "users": lambda: client.post("/v1/users", json=account),
                "posts": lambda: client.post("/v1/posts", json=post, headers=headers),
                "refresh_tokens": lambda: client.post("/v1/auth/token", data=form),
            }
            for table in TABLES:
                sequence = f"pg_get_serial_sequence('{table}', 'id')"
                [(kept,)] = await backend.rows(f"SELECT max(id) FROM {table}")
                await backend.rows(f"SELECT setval({sequence}, {value})")
                statuses[table] = (await sent[table]()).status_code
                await backend.rows(f"SELECT setval({sequence}, {kept})")
        log.seek(0)
        written = log.read().decode()
    unnamed = [table for table in TABLES if named.format(table) not in written]
    broken = [
        f"a write to {table} got status {status}"
        for table, status in statuses.items()
        if status != 500
    ]
    broken += [f"the log does not name what is wrong with {', '.join(unnamed)}"] * bool(unnamed)
    figure = (
        f"writes to each of {len(TABLES)} tables got status 500, a correct login too; the log "
        "names the constraint or sequence"
    )
    judge(case, control, figure, broken)
