"""What the tests of the contract know of `accounts`. The owner and the other user are admins."""

from app.features.accounts.queries import ACCOUNTS_BY_ROLE, ALL_ACCOUNTS
from app.features.users.models import Role
from tests.contract.declaration import Contract, ListPlan, Route

CONTRACT = Contract(
    {
        "GET /v1/admin/users": Route(200, 403, 401, 401, query={"q": "user", "role": "admin"}),
        "PATCH /v1/admin/users/{user_id}": Route(
            *(200, 403, 401, 401), drops=("user:{user_id}",), changes_cached_answers=False
        ),
    },
    schemas=frozenset({"AdminUser", "AdminUserPage"}),
    lists=(
        ListPlan(ALL_ACCOUNTS, {"q": ""}, "ix_users_email_key_id", deep_row=1_900),
        ListPlan(ALL_ACCOUNTS, {"q": "1"}, "ix_users_email_key_id", deep_row=900),
        ListPlan(
            ACCOUNTS_BY_ROLE,
            {"q": "", "role": Role.ADMIN},
            "ix_users_role_email_key_id",
            deep_row=150,
        ),
    ),
)
