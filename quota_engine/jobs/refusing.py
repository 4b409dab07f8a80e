"""
Writing down what a process refused: every few seconds in its background, and when it ends.

What was refused in the seconds before a SIGKILL is lost; no money depends on it.
"""

from __future__ import annotations

import atexit
import logging
import weakref

from quota_engine.background import BACKGROUND, Job
from quota_engine.errors import QuotaError
from quota_engine.ledger.ledger import Ledger
from quota_engine.ledger.refusals import add_refusals
from quota_engine.metrics.refused import Refusals

log = logging.getLogger("quota_engine.refusals")

#: Seconds from the first refusal to writing; while PostgreSQL is away, twice as long each time.
FIRST_SECONDS, PAUSE_SECONDS_MAX = 5.0, 60.0

#: Engines that have refused something and are open, for the end of the process.
_open: weakref.WeakKeyDictionary[Refusals, Ledger] = weakref.WeakKeyDictionary()


def keep_writing(refusals: Refusals, ledger: Ledger) -> None:
    """Have what is refused from now on written some seconds later, in the background."""
    reference = weakref.ref(refusals)

    def write_later() -> None:
        if (found := reference()) is not None:
            _open[found] = ledger
            BACKGROUND.do_by(_key(found), _writing(reference, ledger), after=FIRST_SECONDS)

    refusals.on_waiting = write_later


def write_now(refusals: Refusals, ledger: Ledger, *, is_last: bool = False) -> bool:
    """Write what waits; return whether that could be done. What could not waits on."""
    counts = refusals.take()
    try:
        add_refusals(ledger, counts)
    except QuotaError as error:
        refusals.give_back(counts)
        fate = "are lost" if is_last else "wait"
        log.warning("%d counts of refused calls %s: %s", len(counts), fate, error)
        return False
    return True


def write_at_last(refusals: Refusals, ledger: Ledger) -> None:
    """Write what waits before an engine closes; what cannot be written is told, and lost."""
    refusals.on_waiting = None
    BACKGROUND.forget(_key(refusals))
    _open.pop(refusals, None)
    try:
        write_now(refusals, ledger, is_last=True)
    except Exception:  # an engine closes, whatever becomes of its statistics
        log.exception("counts of refused calls are lost")


def _write_all() -> None:
    for refusals, ledger in list(_open.items()):
        write_at_last(refusals, ledger)


def _key(refusals: Refusals) -> object:
    return ("refusals", id(refusals))


def _writing(reference: weakref.ref[Refusals], ledger: Ledger) -> Job:
    pause = FIRST_SECONDS

    def job() -> float | None:
        nonlocal pause
        refusals = reference()
        if refusals is None or write_now(refusals, ledger):
            return None
        pause = min(2 * pause, PAUSE_SECONDS_MAX)
        return pause

    return job


atexit.register(_write_all)
