"""Roles, verified and disabled accounts, and the mails about accounts.

`email_key` is a stored column, so PostgreSQL rewrites the table `users`, and locks it meanwhile.

Revision: 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

KEPT = sa.text("deleted_at IS NULL")
FALSE = sa.text("false")


def upgrade() -> None:
    """Add the columns, and create the table."""
    op.add_column(
        "users",
        sa.Column(
            "email_key",
            sa.String(length=254, collation="C"),
            sa.Computed("lower((email)::text)", persisted=True),
            nullable=False,
        ),
    )
    op.add_column(
        "users", sa.Column("role", sa.String(length=40), server_default="user", nullable=False)
    )
    op.create_check_constraint(op.f("ck_users_role"), "users", "role IN ('user', 'admin')")
    for name in ("verified", "disabled"):
        op.add_column("users", sa.Column(name, sa.Boolean(), server_default=FALSE, nullable=False))
    op.create_index(
        op.f("ix_users_email_key_id"), "users", ["email_key", "id"], postgresql_where=KEPT
    )
    op.create_index(
        op.f("ix_users_role_email_key_id"),
        "users",
        ["role", "email_key", "id"],
        postgresql_where=KEPT,
    )
    op.create_table(
        "account_mails",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "purpose",
            sa.Enum(
                "verification",
                "password_reset",
                "address_changed",
                name="purpose",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("credential_version", sa.Integer(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
            name=op.f("fk_account_mails_user_id_users"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account_mails")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_account_mails_token_hash")),
    )
    op.create_index(op.f("ix_account_mails_expires_at"), "account_mails", ["expires_at"])
    op.create_index(
        op.f("ix_account_mails_user_id_purpose_created_at"),
        "account_mails",
        ["user_id", "purpose", "created_at"],
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("account_mails")
    op.drop_index(op.f("ix_users_role_email_key_id"), table_name="users", postgresql_where=KEPT)
    op.drop_index(op.f("ix_users_email_key_id"), table_name="users", postgresql_where=KEPT)
    for name in ("disabled", "verified"):
        op.drop_column("users", name)
    op.drop_constraint(op.f("ck_users_role"), "users")
    op.drop_column("users", "role")
    op.drop_column("users", "email_key")
