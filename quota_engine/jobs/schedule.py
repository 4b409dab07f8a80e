"""
The duties: what is done by the clock, whoever calls and however often.

Each looks at what is there and does what is due (it is level-triggered), so it may run twice,
late, or in two processes at once. A row in the ledger says when each was taken up last, so that
many workers do not all do the same, and what came of it, so that somebody can see.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from quota_engine._sync.transport import Clock, Transport
from quota_engine.errors import QuotaError
from quota_engine.instants import from_ms
from quota_engine.jobs import clocks, intents
from quota_engine.jobs.account_moves import MoveDuty
from quota_engine.jobs.alerts import Alerting
from quota_engine.jobs.deployed import Deployed
from quota_engine.jobs.drift_told import told_of
from quota_engine.jobs.policies import tell_policies
from quota_engine.jobs.reminders import Reminding
from quota_engine.jobs.renewal import renew
from quota_engine.jobs.reports import sum_days, sum_pools
from quota_engine.jobs.server_check import check_server, note_late_syncs
from quota_engine.jobs.sweep import sweep
from quota_engine.jobs.trim import trim
from quota_engine.jobs.unload import Unloader
from quota_engine.ledger import duties
from quota_engine.ledger.policies import instant_of
from quota_engine.settings import Settings

log = logging.getLogger("quota_engine.schedule")

#: An intent's issuer may still be waiting this long after its call timeout.
INTENT_GRACE = timedelta(seconds=5)
#: Claims end a little early, so that a steady clock finds its own last one over.
CLAIM_PART = 0.9


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a duty, in words, and whether nobody need look at it."""

    text: str
    is_ok: bool = True


@dataclass(frozen=True, slots=True)
class Duty:
    """One thing that is done every so often."""

    name: str
    every: Callable[[Settings], float]
    """Seconds between two runs, of all workers together."""
    run: Callable[[Scheduler], Outcome]


class Scheduler:
    """Does the duties of one deployment, one at a time."""

    def __init__(
        self,
        deployment: Deployed,
        *,
        clock: Clock | None = None,
        intent_age: timedelta | None = None,
    ) -> None:
        """
        ``clock`` decides what is due, instead of the server's. ``intent_age``: how old a promised
        grant must be; by default its issuer has given up by then.
        """
        self.deployment = deployment
        given_up = timedelta(seconds=deployment.settings.call_timeout_seconds) + INTENT_GRACE
        self.intent_age = given_up if intent_age is None else intent_age
        self.transport = Transport(deployment.redis_url, deployment, deployment.settings, clock)
        self.unloader = Unloader(deployment)
        self.reminding = Reminding(deployment)
        self.moves = MoveDuty(deployment, self.transport)
        self.alerting = Alerting(deployment)
        self._complaints: dict[str, str] = {}

    def close(self) -> None:
        """Close the connections to Redis."""
        self.transport.close()

    def now_ms(self) -> int:
        """Return the instant up to which things are due."""
        now_ms = self.transport.now_ms()
        return clocks.server_now_ms(self.deployment.client) if now_ms is None else now_ms

    def seconds_between(self, duty: Duty) -> float:
        """Return how often a duty is done."""
        return duty.every(self.deployment.settings)

    def run_if_due(self, duty: Duty) -> Outcome | None:
        """Do a duty unless some worker has lately; return what came of it, or None."""
        every = timedelta(seconds=self.seconds_between(duty) * CLAIM_PART)
        with self.deployment.ledger.transaction() as sql:
            if not duties.claim(sql, duty.name, every):
                return None
        return self.run(duty)

    def run(self, duty: Duty) -> Outcome:
        """Do a duty now, and record what came of it. Its failure is an outcome, too."""
        try:
            outcome = duty.run(self)
        except QuotaError as error:
            outcome = Outcome(f"failed: {error}", is_ok=False)
        self._complain(duty, outcome)
        with self.deployment.ledger.transaction() as sql:
            duties.claim(sql, duty.name, timedelta(0))
            duties.finish(sql, duty.name, outcome.text, is_ok=outcome.is_ok)
        return outcome

    def _complain(self, duty: Duty, outcome: Outcome) -> None:
        """Log what needs attention, once for as long as it says the same."""
        before = self._complaints.pop(duty.name, "")
        if outcome.is_ok:
            if before:
                log.warning("%s is well again: %s", duty.name, outcome.text)
            return
        self._complaints[duty.name] = outcome.text
        if outcome.text != before:
            log.error("%s: %s", duty.name, outcome.text)


def _clocks(scheduler: Scheduler) -> Outcome:
    deployment = scheduler.deployment
    difference = clocks.difference_ms(deployment.client, deployment.ledger)
    wrong = clocks.alarm(difference)
    return Outcome(wrong or f"{difference:+d} ms between Redis and PostgreSQL", not wrong)


def _server(scheduler: Scheduler) -> Outcome:
    """Look at settings that somebody may have changed since the gate has looked."""
    deployment = scheduler.deployment
    note_late_syncs(deployment.client)
    found = check_server(
        deployment.client,
        is_durable_elsewhere=deployment.settings.redis_is_durable_elsewhere,
    )
    told = "; ".join(f"{finding.message} ({finding.fix})" for finding in found)
    is_ok = not any(finding.is_alarm for finding in found)
    return Outcome(told or "Redis keeps what it is given", is_ok)


def _sweep(scheduler: Scheduler) -> Outcome:
    if wrong := _clocks_differ(scheduler):
        return wrong
    swept = sweep(scheduler.deployment, scheduler.transport, scheduler.now_ms())
    text = f"{swept.changes} changes applied to {swept.quotas} quotas"
    return Outcome(f"{text}, {swept.failed} failed" if swept.failed else text, not swept.failed)


def _intents(scheduler: Scheduler) -> Outcome:
    if wrong := _clocks_differ(scheduler):
        return wrong
    kept = intents.apply_intents(scheduler.deployment, scheduler.transport, scheduler.intent_age)
    text = f"{kept.kept} promises kept, {kept.refused} refused, {kept.wait} wait"
    return Outcome(text, not kept.refused)


def _renewals(scheduler: Scheduler) -> Outcome:
    if wrong := _clocks_differ(scheduler):
        return wrong
    now = from_ms(scheduler.now_ms())
    renewed = renew(scheduler.deployment, scheduler.transport, now)
    text = (
        f"{renewed.grants} grants promised to {renewed.looked_at} subscriptions,"
        f" {renewed.settled} rests and debts settled"
    )
    if renewed.finished:
        text += f", {renewed.finished} changes finished"
    return Outcome(f"{text}, {renewed.failed} wait" if renewed.failed else text)


def _reminders(scheduler: Scheduler) -> Outcome:
    if wrong := _clocks_differ(scheduler):
        return wrong
    return Outcome(f"{scheduler.reminding.run(scheduler.now_ms())} ends of grants told")


def _clocks_differ(scheduler: Scheduler) -> Outcome | None:
    deployment = scheduler.deployment
    wrong = clocks.alarm(clocks.difference_ms(deployment.client, deployment.ledger))
    return Outcome(wrong, is_ok=False) if wrong else None


def _trim(scheduler: Scheduler) -> Outcome:
    deployment, settings = scheduler.deployment, scheduler.deployment.settings
    trimmed = sum(
        trim(
            deployment.client,
            deployment.ledger,
            shard,
            trim_after=timedelta(seconds=settings.trim_after_seconds),
            keep_max=settings.trim_keep_max,
        )
        for shard in range(deployment.opened.shards)
    )
    return Outcome(f"{trimmed} persisted entries left the outboxes")


def _accounts(scheduler: Scheduler) -> Outcome:
    told = tell_policies(scheduler.deployment, scheduler.transport)
    finished, waiting = scheduler.moves.run()
    text = f"Redis was told of {told} accounts that it did not know of"
    return Outcome(f"{text}; {finished} moves finished, {waiting} wait")


def _unload(scheduler: Scheduler) -> Outcome:
    return Outcome(f"{scheduler.unloader.run(scheduler.now_ms())} idle quotas left Redis")


def _reports(scheduler: Scheduler) -> Outcome:
    summed, is_done = sum_days(scheduler.deployment.ledger)
    return Outcome(f"{summed} days of accounts summed" + ("" if is_done else ", more wait"))


def _pools(scheduler: Scheduler) -> Outcome:
    return Outcome(f"{sum_pools(scheduler.deployment.ledger)} notes of provider pools taken up")


def _alerts(scheduler: Scheduler) -> Outcome:
    done = scheduler.alerting.run(scheduler.now_ms())
    text = f"{done.steps} alerts fired, escalated or resolved"
    return Outcome(text if done.is_done else f"{text}; old quotas are still looked at")


def _reconcile(scheduler: Scheduler) -> Outcome:
    deployment = scheduler.deployment
    report = deployment.reconcile(repair=False)
    late = timedelta(seconds=deployment.settings.reconcile_late_seconds)
    with deployment.ledger.transaction() as sql:
        return Outcome(*told_of(report, duties.read_runs(sql), instant_of(sql, None), late))


def _trim_seconds(settings: Settings) -> float:
    """Return a quarter of the time that entries stay at least, within reason."""
    return min(max(settings.trim_after_seconds / 4, 1), 15)


ACCOUNTS = Duty("accounts", lambda settings: 5, _accounts)
SWEEP = Duty("sweep", lambda settings: 5, _sweep)
INTENTS = Duty("intents", lambda settings: 5, _intents)
RENEWALS = Duty("renewals", lambda settings: 5, _renewals)
REMINDERS = Duty("reminders", lambda settings: 60, _reminders)
ALERTS = Duty("alerts", lambda settings: 1, _alerts)

#: In the order in which one scheduler takes them up.
DUTIES = (
    Duty("clocks", lambda settings: 30, _clocks),
    Duty("server", lambda settings: 30, _server),
    ACCOUNTS,
    SWEEP,
    INTENTS,
    RENEWALS,
    REMINDERS,
    Duty("trim", _trim_seconds, _trim),
    Duty("unload", lambda settings: 10, _unload),
    Duty("reports", lambda settings: 10, _reports),
    Duty("pools", lambda settings: 10, _pools),
    ALERTS,
    Duty("reconcile", lambda settings: settings.reconcile_every_seconds, _reconcile),
)


def run_schedule(deployment: Deployed, clock: Clock | None) -> dict[str, Outcome]:
    """
    Do now what is due of quotas and accounts: changes, promises of any age, renewals, moves.

    With a clock of the caller's own, it decides what is renewed and whom to remind; else quotas
    that it has not touched are left alone.
    """
    scheduler = Scheduler(deployment, clock=clock, intent_age=timedelta(0))
    try:
        due = [ACCOUNTS, INTENTS, RENEWALS, REMINDERS, ALERTS]
        if clock is None:
            due.insert(0, SWEEP)
        return {duty.name: scheduler.run(duty) for duty in due}
    finally:
        scheduler.close()
