"""
A call is given up, and the server executes it later: then it is there, or it never will be.

Method: the server is stopped by a signal, so that what was sent to it waits in its sockets.
"""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from quota_engine import EngineUnavailableError, OperationCancelledError
from tests.faults.history import Call
from tests.faults.world import HOT, World
from tests.faults.writers import QUOTA_TYPE

STOPPED_SECONDS = 3.0


@pytest.mark.row(
    17,
    injection="SIGSTOP of Redis for 3 s, a debit is given up after 1 s and cancelled, SIGCONT",
    outcome="the debit is there and its answer returned, or absent for good; never both",
)
@pytest.mark.parametrize("is_cancelled_at_once", [True, False])
def test_what_was_given_up_is_told_or_never_happens(
    world: World, is_cancelled_at_once: bool
) -> None:
    hasty = world.open_engine(call_timeout_seconds=1.0, socket_timeout_seconds=0.5)
    patient = world.open_engine(call_timeout_seconds=30.0, socket_timeout_seconds=0.5)
    account, late = HOT[0], Call("debit", HOT[0], "late", 7)
    with world.writing() as writers, ThreadPoolExecutor(1) as pool:
        writers.wait_for(60)
        hasty.read_balance(account, QUOTA_TYPE)
        pid = world.server.pid
        assert pid is not None
        late.started = time.monotonic()
        with world.fault():
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(EngineUnavailableError, match="unknown"):
                hasty.debit(account, QUOTA_TYPE, 7, operation_id="late")
            if is_cancelled_at_once:
                cancelling = pool.submit(patient.cancel, account, QUOTA_TYPE, "late")
            time.sleep(max(0.0, late.started + STOPPED_SECONDS - time.monotonic()))
        finally:
            os.kill(pid, signal.SIGCONT)
        if not is_cancelled_at_once:
            cancelling = pool.submit(patient.cancel, account, QUOTA_TYPE, "late")
        told = cancelling.result(60)
        late.ended, late.outcome = time.monotonic(), "done" if told.was_applied else "refused"
        if told.was_applied:
            late.version, late.balance = told.version, told.balance
            assert hasty.debit(account, QUOTA_TYPE, 7, operation_id="late").replayed
        else:
            with pytest.raises(OperationCancelledError):
                hasty.debit(account, QUOTA_TYPE, 7, operation_id="late")
        assert patient.cancel(account, QUOTA_TYPE, "late").was_applied == told.was_applied
        writers.wait_for(60)
    world.calls.append(late)
    print(f"the debit was {'applied' if told.was_applied else 'cancelled'}")
    world.check(writers=[writers])
