"""
Three processes debit one account at once, and send every debit twice, as a retry does.

No unit is taken twice and none too many: Redis decides, and the ledger agrees.
Run it: `./run python examples/many_processes.py`
"""

import uuid
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from quota_engine import QuotaEngine, QuotaInsufficientError

GRANTED, EACH, ATTEMPTS = 1_000, 7, 60


def debit_many(account: str) -> int:
    """Try to debit sixty times; return how many units this process was given."""
    taken = 0
    with QuotaEngine.open() as engine:
        for _ in range(ATTEMPTS):
            operation_id = f"debit_{uuid.uuid4()}"
            try:
                first = engine.debit(account, "text_token", EACH, operation_id=operation_id)
                again = engine.debit(account, "text_token", EACH, operation_id=operation_id)
            except QuotaInsufficientError:
                break
            assert again.replayed
            assert again.balance == first.balance
            taken += EACH
    return taken


if __name__ == "__main__":
    account = f"example:{uuid.uuid4()}"
    with QuotaEngine.open() as engine:
        engine.issue_grant(account, "text_token", GRANTED, source="promotion")
        with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as processes:
            taken = sum(processes.map(debit_many, [account] * 3))
        left = engine.read_balance(account, "text_token").balance
        persisted = engine.drain()
        drifts = engine.reconcile().drifts
    print(f"{taken} taken, {left} left of {GRANTED}")
    print(f"{persisted} entries persisted, {len(drifts)} drifts")
