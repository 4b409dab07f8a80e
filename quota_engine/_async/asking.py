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
from quota_engine.waiting import in_thread


async def ask_ledger(backing: Backing, step: Step) -> Any:
    """Take one step that is no command, and return its answer."""
    match step:
        case ReadSnapshot(quota):
            return await in_thread(backing.read_snapshot, quota)
        case FindHold(quota, hold_id):
            return await in_thread(backing.find_hold, quota, hold_id)
        case FindOperation(quota, operation_id):
            return await in_thread(backing.find_operation, quota, operation_id)
        case RecordIntent(command):
            return await in_thread(backing.record_intent, command)
        case WithdrawIntent(quota, grant_id):
            return await in_thread(backing.withdraw_intent, quota, grant_id)
        case FindCharge(quota, operation_id):
            return await in_thread(backing.find_charge, quota, operation_id)
        case RecordRefunds(requests):
            return await in_thread(backing.record_refunds, requests)
        case WithdrawRefund(quota, refund_id):
            return await in_thread(backing.withdraw_refund, quota, refund_id)
        case ReadPolicy(account):
            return await in_thread(backing.account_store.read, account)
        case NotePolicy(account, record):
            return await in_thread(backing.account_store.note, account, record)
        case AwaitDrain(quota):
            return await in_thread(backing.persist, quota)
        case PersistTail(quota):
            return await in_thread(backing.persist_tail, quota)
