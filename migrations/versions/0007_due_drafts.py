"""An index for the drafts that are due.

Revision: 0007, after 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create it."""
    op.create_index(
        op.f("ix_drafts_publish_on_id"),
        "drafts",
        ["publish_on", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'scheduled'"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_index(
        op.f("ix_drafts_publish_on_id"),
        table_name="drafts",
        postgresql_where=sa.text("status = 'scheduled'"),
    )
