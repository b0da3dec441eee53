"""An index for the comments of a post after a certain one.

Revision: 0009, after 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create it."""
    op.create_index(op.f("ix_comments_post_id_id"), "comments", ["post_id", "id"], unique=False)


def downgrade() -> None:
    """Drop it."""
    op.drop_index(op.f("ix_comments_post_id_id"), table_name="comments")
