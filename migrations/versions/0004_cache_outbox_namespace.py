"""Each row of the outbox belongs to one namespace of the cache.

Revision: 0004, after 0003
"""

import sqlalchemy as sa
from alembic import op

from app.settings import load_settings

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Processes of the old code go on inserting without it, so it has a default.

    Their namespace is the one in the settings: it cannot be changed by a rolling deployment.
    """
    namespace = sa.Column(
        "namespace", sa.Text(), server_default=load_settings().cache.namespace, nullable=False
    )
    op.add_column("cache_outbox", namespace)
    op.create_index(op.f("ix_cache_outbox_namespace_id"), "cache_outbox", ["namespace", "id"])


def downgrade() -> None:
    """Remove it."""
    op.drop_index(op.f("ix_cache_outbox_namespace_id"), "cache_outbox")
    op.drop_column("cache_outbox", "namespace")
