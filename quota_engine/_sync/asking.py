# Written by tools/unasync.py from quota_engine/_async/asking.py. Edit that file instead.
"""The steps of a flow that the ledger answers. They block: async lends them a thread."""

from __future__ import annotations

from typing import Any

from quota_engine.backing import Backing
from quota_engine.commands import (
    AwaitDrain,
    FindCharge,
    FindHold,
    FindOperation,
    NotePolicy,
    PersistTail,
    ReadPolicy,
    ReadSnapshot,
    RecordIntent,
    RecordRefunds,
    Step,
    WithdrawIntent,
    WithdrawRefund,
)
from quota_engine.waiting import in_place


def ask_ledger(backing: Backing, step: Step) -> Any:
    """Take one step that is no command, and return its answer."""
    match step:
        case ReadSnapshot(quota):
            return in_place(backing.read_snapshot, quota)
        case FindHold(quota, hold_id):
            return in_place(backing.find_hold, quota, hold_id)
        case FindOperation(quota, operation_id):
            return in_place(backing.find_operation, quota, operation_id)
        case RecordIntent(command):
            return in_place(backing.record_intent, command)
        case WithdrawIntent(quota, grant_id):
            return in_place(backing.withdraw_intent, quota, grant_id)
        case FindCharge(quota, operation_id):
            return in_place(backing.find_charge, quota, operation_id)
        case RecordRefunds(requests):
            return in_place(backing.record_refunds, requests)
        case WithdrawRefund(quota, refund_id):
            return in_place(backing.withdraw_refund, quota, refund_id)
        case ReadPolicy(account):
            return in_place(backing.account_store.read, account)
        case NotePolicy(account, record):
            return in_place(backing.account_store.note, account, record)
        case AwaitDrain(quota):
            return in_place(backing.persist, quota)
        case PersistTail(quota):
            return in_place(backing.persist_tail, quota)
