"""What the tests of the contract know of `users`."""

from tests.contract.declaration import Contract, Lookup, Route, World

ME = ("user:{user_id}",)


async def populate(world: World) -> None:
    users = (world.owner.id, world.other.id)
    # The next id does not exist until an account is created.
    world.urls += [f"/v1/users/{user_id}" for user_id in (*users, max(users) + 1, 999)]


CONTRACT = Contract(
    {
        "POST /v1/users": Route(201, 201, 201, 201, drops=("user:{id}",)),
        "GET /v1/users/me": Route(200, 200, 401, 401),
        "PATCH /v1/users/me": Route(200, 200, 401, 401, drops=ME),
        "DELETE /v1/users/me": Route(
            204, 204, 401, 401, drops=(*ME, "account:{user_id}"), ends_account=True
        ),
        "GET /v1/users/{user_id}": Route(200, 200, 200, 200, shows=ME),
    },
    populate=populate,
    schemas=frozenset({"User", "PublicUser"}),
    fill="""
        INSERT INTO users (email, name, password_hash, role)
            SELECT lpad(i::text, 4, '0') || '@example.com', i, 'x',
                CASE WHEN i % 10 = 0 THEN 'admin' ELSE 'user' END
            FROM generate_series(1, 2000) i
    """,
    lookups=(
        Lookup(
            "SELECT id FROM users WHERE lower(email) = lower($1) AND deleted_at IS NULL",
            ("0005@example.com",),
            "uq_users_email",
        ),
    ),
)
