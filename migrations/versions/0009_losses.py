"""
What a recovery did not find: how far each outbox was seen, and what each recovery came to.

Revision 0009, after 0008. What each column means is told in quota_engine/ledger/tables.py.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SHARDS = """
ALTER TABLE shards
    ADD COLUMN seen_epoch BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN seen_n BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN entry_at_ms BIGINT
"""

RECOVERIES = """
ALTER TABLE recoveries
    ADD COLUMN losses JSON NOT NULL DEFAULT '[]',
    ADD COLUMN appended BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN quarantined BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN dropped BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN last_entry_at TIMESTAMPTZ
"""


def upgrade() -> None:
    """Add the columns."""
    op.execute(SHARDS)
    op.execute(RECOVERIES)


def downgrade() -> None:
    """Drop the columns."""
    op.execute(
        "ALTER TABLE shards DROP COLUMN seen_epoch, DROP COLUMN seen_n, DROP COLUMN entry_at_ms"
    )
    op.execute(
        "ALTER TABLE recoveries DROP COLUMN losses, DROP COLUMN appended,"
        " DROP COLUMN quarantined, DROP COLUMN dropped, DROP COLUMN last_entry_at"
    )
