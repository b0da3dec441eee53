"""What the tests of the contract know of `idempotency`, which has no routes of its own."""

from app.features.users.models import User
from app.infra.resources import ProcessResources
from tests.contract.declaration import Contract, Ids, Lookup
from tests.features.idempotency.factory import KeyFactory


async def make_rows(resources: ProcessResources, ids: Ids) -> Ids:
    await KeyFactory(resources).key(User(id=ids["user_id"]))
    return {}


CONTRACT = Contract(
    {},
    make_rows=make_rows,
    fill="""
        INSERT INTO idempotency_keys (user_id, key, fingerprint, status, headers, body, created_at)
            SELECT 1 + i % 2000, i, '', 201, '[]', '', now() - i * interval '5 seconds'
            FROM generate_series(1, 20000) i
    """,
    lookups=(
        Lookup(
            "SELECT id FROM idempotency_keys WHERE user_id = $1 AND key = $2",
            (5, "4"),
            "ix_idempotency_keys_user_id_key",
        ),
        Lookup(
            "SELECT id FROM idempotency_keys WHERE created_at <= now() - interval '24 hours' "
            "ORDER BY created_at LIMIT 100",
            (),
            "ix_idempotency_keys_created_at",
        ),
    ),
)
