"""Is what the workers do by the clock done? Rules over rows of the ledger; no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from quota_engine.jobs.schedule import DUTIES
from quota_engine.ledger.duties import DutyRun
from quota_engine.ledger.gauges import Promises
from quota_engine.settings import Settings

RECONCILE = "reconcile"
#: Workers keep a promise within seconds of its caller's giving up.
PROMISE_LATE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DutyHealth:
    """One duty: when it was done last, how long ago that is, and what came of it."""

    duty: str
    finished_at: datetime | None
    #: Since it was done, or since there is a deployment whose workers should do it.
    age_seconds: float
    #: An age that is an alarm.
    late_seconds: float
    outcome: str
    is_ok: bool

    @property
    def is_late(self) -> bool:
        """Whether it should have been done by now."""
        return self.age_seconds > self.late_seconds


def duties_health(
    runs: Sequence[DutyRun], begun_at: datetime, settings: Settings, now: datetime
) -> Iterator[DutyHealth]:
    """Yield how each duty stands. ``now`` is the clock of the ledger, which the runs are by."""
    known = {run.duty: run for run in runs}
    for duty in DUTIES:
        run = known.get(duty.name)
        finished_at = None if run is None else run.finished_at
        age = max(now - (finished_at or begun_at), timedelta(0))
        is_reconcile = duty.name == RECONCILE
        late = settings.reconcile_late_seconds if is_reconcile else settings.duty_late_seconds
        yield DutyHealth(
            duty=duty.name,
            finished_at=finished_at,
            age_seconds=age.total_seconds(),
            late_seconds=late,
            outcome="" if run is None else run.outcome,
            is_ok=run is None or run.is_ok,
        )


def late_promises(promises: Sequence[Promises]) -> Iterator[str]:
    """Yield what to say of refunds and transfers that are late; doctor has grants elsewhere."""
    for promised in promises:
        is_late = promised.oldest_seconds > PROMISE_LATE_SECONDS
        if promised.kind in {"refund", "transfer"} and is_late:
            yield (
                f"{promised.count} {promised.kind}s were promised and not seen to be made, the"
                f" oldest for {promised.oldest_seconds:.0f} s"
            )
