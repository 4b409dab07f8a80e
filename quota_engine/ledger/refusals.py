"""
The table of refused calls: counts that clients add up, a few seconds after they refused.

Adding is one statement for all that a client counted. Rows are written in the order of their key,
so that two clients wait for each other and never in a circle.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import BigInteger, Column, Date, Index, Table, Text, text

from quota_engine.ledger.arrays import columns
from quota_engine.ledger.ledger import Ledger
from quota_engine.ledger.tables import metadata
from quota_engine.refusals import Refused


def _name() -> Text:
    return Text(collation="C")


#: How often calls were refused, by day (UTC) and reason. A name that nobody told is empty; an
#: empty account stands for those that one client could not count apart.
refusals = Table(
    "refusals",
    metadata,
    Column("day", Date, primary_key=True),
    *(Column(name, _name(), primary_key=True) for name in ("account", "quota_type")),
    *(Column(name, _name(), primary_key=True) for name in ("provider", "model", "reason")),
    Column("refused", BigInteger, nullable=False),
    Index("refusals_of_account", "account", "day"),
)

_NAMES = "day, account, quota_type, provider, model, reason"
_ADD = text(f"""
INSERT INTO refusals AS known ({_NAMES}, refused)
SELECT * FROM unnest(
    CAST(:day AS date[]), CAST(:account AS text[]), CAST(:quota_type AS text[]),
    CAST(:provider AS text[]), CAST(:model AS text[]), CAST(:reason AS text[]),
    CAST(:refused AS bigint[])
)
ON CONFLICT ({_NAMES}) DO UPDATE SET refused = known.refused + excluded.refused
""")


def add_refusals(ledger: Ledger, counts: Mapping[Refused, int]) -> None:
    """
    Add counts, all or none. Raises ``EngineUnavailableError``.

    Where the answer to the commit is lost, whoever adds again counts twice.
    """
    rows = [
        (one.date.isoformat(), *one[1:], count)
        for one, count in sorted(counts.items(), key=lambda item: item[0])
    ]
    if not rows:
        return
    names = ("day", "account", "quota_type", "provider", "model", "reason", "refused")
    with ledger.transaction() as connection:
        connection.execute(_ADD, dict(zip(names, columns(rows, len(names)), strict=True)))
