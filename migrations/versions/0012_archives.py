"""Archives, and an index for all comments of a user.

Building the index locks writes to comments: for about a second per million comments.

Revision: 0012, after 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

UNFINISHED = sa.text("status IN ('queued', 'running')")


def upgrade() -> None:
    """Create the table and the index."""
    op.create_table(
        "archives",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("object_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "status",
            sa.Enum(
                "queued",
                "running",
                "done",
                "failed",
                name="archivestatus",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            server_default="queued",
            nullable=False,
        ),
        sa.Column("progress", sa.Integer(), server_default="0", nullable=False),
        sa.Column("key", sa.String(length=200), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
            name=op.f("fk_archives_user_id_users"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["object_id"], ["stored_objects.id"], name=op.f("fk_archives_object_id_stored_objects")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_archives")),
    )
    op.create_index(op.f("ix_archives_object_id"), "archives", ["object_id"])
    op.create_index(op.f("ix_archives_expires_at"), "archives", ["expires_at"])
    op.create_index(op.f("ix_archives_user_id_created_at"), "archives", ["user_id", "created_at"])
    op.create_index(
        op.f("uq_archives_user_id"),
        "archives",
        ["user_id"],
        unique=True,
        postgresql_where=UNFINISHED,
    )
    op.create_index(op.f("ix_comments_author_id_id"), "comments", ["author_id", "id"])
    op.drop_index(op.f("ix_comments_author_id"), table_name="comments")


def downgrade() -> None:
    """Undo it. The objects stay in the store."""
    op.create_index(op.f("ix_comments_author_id"), "comments", ["author_id"])
    op.drop_index(op.f("ix_comments_author_id_id"), table_name="comments")
    op.drop_table("archives")
