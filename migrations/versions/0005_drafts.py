"""Drafts.

Revision: 0005, after 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "drafts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "draft",
                "scheduled",
                "published",
                name="draftstatus",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("publish_on", sa.Date(), nullable=True),
        sa.Column("post_id", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name=op.f("fk_drafts_owner_id_users"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["post_id"], ["posts.id"], name=op.f("fk_drafts_post_id_posts"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drafts")),
        sa.UniqueConstraint("owner_id", "title", name="uq_drafts_owner_id_title"),
    )
    op.create_index(
        op.f("ix_drafts_owner_id_created_at_id"),
        "drafts",
        ["owner_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_drafts_owner_id_status_created_at_id"),
        "drafts",
        ["owner_id", "status", "created_at", "id"],
        unique=False,
    )
    op.create_index(op.f("ix_drafts_post_id"), "drafts", ["post_id"], unique=False)


def downgrade() -> None:
    """Drop it."""
    op.drop_index(op.f("ix_drafts_post_id"), table_name="drafts")
    op.drop_index(op.f("ix_drafts_owner_id_status_created_at_id"), table_name="drafts")
    op.drop_index(op.f("ix_drafts_owner_id_created_at_id"), table_name="drafts")
    op.drop_table("drafts")
