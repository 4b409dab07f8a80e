"""
Units whose leaving is in quarantine while their arrival stands: they must not be in both quotas.

In one shard both entries were written at once, and only the leaving may have met a log in doubt.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from quota_engine.commands import Transfer
from quota_engine.commands.transfers import transfer_of
from quota_engine.errors import QuotaError
from quota_engine.events import CANCELLED, QUOTA_TRANSFERRED_OUT
from quota_engine.jobs.thaw_rules import entry_of
from quota_engine.ledger.quarantine import Quarantined
from quota_engine.ledger.snapshots import find_operation


class ArrivedError(QuotaError):
    """What left a quota has arrived in another: it can't be said to have never left."""


def has_arrived(sql: Connection, transfer: Transfer) -> bool:
    """Tell whether the ledger has a transfer's arrival."""
    arrival = find_operation(sql, transfer.target, transfer.arrival_id)
    return arrival is not None and arrival.fingerprint != CANCELLED


def refuse_doubled(sql: Connection, found: Iterable[Quarantined]) -> None:
    """Raise ``ArrivedError`` if to discard these would leave units in two quotas."""
    for one in found:
        entry = entry_of(one)
        if one.quota is None or entry is None or entry.kind != QUOTA_TRANSFERRED_OUT:
            continue
        transfer = transfer_of(one.quota, entry.operation_id, entry.amount, entry.details)
        if has_arrived(sql, transfer):
            raise ArrivedError(
                f"entry {one.id} is the leaving of transfer {transfer.transfer_id}, and its"
                f" {transfer.amount} units have arrived in {transfer.target}: discarded, they"
                f" would be in both. `quota-engine quarantine resolve {one.quota.account}"
                f" {one.quota.quota_type}` without --discard takes them out of {one.quota}; what"
                " else is in quarantine can be discarded by its id"
            )
