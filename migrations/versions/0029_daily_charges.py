"""
What quotas are charged, day by day.

Revision 0029, after 0028. See quota_engine/ledger/daily_charges.py.
"""

from __future__ import annotations

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_SUMS = """
SELECT account, quota_type, DATE '1970-01-01' + (at_ms / 86400000)::integer AS day,
    sum(units) AS charged,
    coalesce(sum(units) FILTER (WHERE NOT (
        operation_id ~ '@[0-9a-f]{{16}}(\\:capture|\\:release)?$' AND details LIKE '%"account"%'
    )), 0) AS called,
    coalesce(sum(
        units + coalesce(substring(flags FROM 'unreturned ([0-9]+)')::numeric, 0)
    ) FILTER (WHERE flags NOT LIKE '%counted%'), 0) AS paid
FROM (
    SELECT *, CASE WHEN kind = 'quota.refunded' THEN -amount ELSE amount END AS units FROM {rows}
) AS entries
WHERE duplicate_of IS NULL AND amount <> 0 AND (
    kind IN ('hold.captured', 'quota.debited')
    OR kind = 'quota.refunded' AND operation_id ~ '\\:correction\\:[0-9]+(@[0-9a-f]{{16}})?$'
)
GROUP BY 1, 2, 3
"""

DAILY_CHARGES = f"""
CREATE TABLE daily_charges (
    account TEXT COLLATE "C" NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    day DATE NOT NULL,
    charged NUMERIC NOT NULL,
    called NUMERIC NOT NULL,
    paid NUMERIC NOT NULL,
    PRIMARY KEY (account, quota_type, day)
);
CREATE INDEX daily_charges_of_day ON daily_charges (day);
CREATE FUNCTION add_daily_charges() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO daily_charges AS d (account, quota_type, day, charged, called, paid)
    {_SUMS.format(rows="added")}
    ORDER BY 1, 2, 3
    ON CONFLICT (account, quota_type, day) DO UPDATE SET
        charged = d.charged + excluded.charged, called = d.called + excluded.called,
        paid = d.paid + excluded.paid;
    RETURN NULL;
END
$$;
CREATE TRIGGER ledger_entries_charges AFTER INSERT ON ledger_entries
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION add_daily_charges();
"""

# The trigger's making has locked the table: entries of transactions under way come after it.
_FILL = f"""
INSERT INTO daily_charges (account, quota_type, day, charged, called, paid)
{_SUMS.format(rows="ledger_entries")}
"""


def upgrade() -> None:
    """Make the table and the trigger; what the log has is summed."""
    op.execute(DAILY_CHARGES)
    op.execute(_FILL)


def downgrade() -> None:
    """Drop them; the entries stay."""
    op.execute("DROP TRIGGER ledger_entries_charges ON ledger_entries")
    op.execute("DROP FUNCTION add_daily_charges")
    op.execute("DROP TABLE daily_charges")
