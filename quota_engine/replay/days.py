"""
A run over simulated days: users have monthly plans, and every account's statement must add up.

All processes make the calls of one day, then the schedule runs as of the next morning, as workers
would have run it meanwhile. So time is an argument here too; nothing waits for a month.
"""

from __future__ import annotations

import secrets
import time
from calendar import monthrange
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from sqlalchemy import text

from quota_engine.deployment import Deployment
from quota_engine.engine import QuotaEngine
from quota_engine.errors import InvalidArgumentError
from quota_engine.replay import proofs
from quota_engine.replay.clients import QUOTA_TYPE, Crew, Share, Told, subscription_id_of
from quota_engine.replay.costs import ModelCost, read_costs, write_prices
from quota_engine.replay.persisting import Worker
from quota_engine.replay.proofs import Proof, proof
from quota_engine.replay.running import (
    POLL_SECONDS,
    Options,
    Progress,
    Tokens,
    Watcher,
    orderly_end,
    refused_accounts,
)
from quota_engine.replay.timeline import SimulatedClock, Timeline
from quota_engine.replay.trace import Call
from quota_engine.replay.workload import PlannedPlan, User, Workload, plan_months
from quota_engine.statements import Statement

PREFIX = "replay:"
_OTHERS = text("SELECT account FROM quotas WHERE account NOT LIKE :pattern LIMIT 1")
#: Columns of a statement that add up when a period is divided.
MOVED = ("granted", "used", "expired", "voided", "refunded", "transferred_in", "transferred_out")


@dataclass(frozen=True, slots=True, kw_only=True)
class DaysReport:
    """What a run over simulated days did, and what was proved of it."""

    run_id: str
    account_prefix: str
    days: int
    starts_at: datetime
    users: int
    users_refused: int
    processes: int
    seed: int
    calls: int
    admitted: int
    refused: dict[str, int]
    seconds: float
    #: Periods that began after the first one of each user.
    renewals: int
    #: Units that rolled over into another period.
    rolled_over: int
    tokens: Tokens
    costs: tuple[ModelCost, ...]
    proofs: tuple[Proof, ...]
    example_account: str

    @property
    def holds(self) -> bool:
        """Whether everything that had to be proved was."""
        return all(proof.holds for proof in self.proofs)


@dataclass(frozen=True, slots=True)
class Account:
    """One user's books at the end: over all days, over both halves, and what rolled over."""

    user: User
    whole: Statement
    first: Statement
    second: Statement
    rolled_over: int


def run_days(calls: Sequence[Call], options: Options, days: int, watch: Watcher) -> DaysReport:
    """
    Make the calls as if they took so many days, with monthly plans; prove what happened.

    The schedule of the whole deployment runs ahead, so none may have accounts but those of
    replays: raises ``InvalidArgumentError``.
    """
    run_id = secrets.token_hex(4)
    prefix = f"{PREFIX}{run_id}:"
    workload = plan_months(calls, prefix=prefix, users=options.users, seed=options.seed, days=days)
    now = datetime.now(UTC).replace(microsecond=0)
    timeline = Timeline(now, days, max(call.offset_seconds for call in calls))
    clock = SimulatedClock(now)
    watch(Progress("reaching the servers"))
    with orderly_end(), QuotaEngine.open(clock=clock) as engine:
        deployment = engine.deployment
        _check_alone(deployment)
        write_prices(engine, options.prices)
        _define_plans(engine, workload)
        started = time.monotonic()
        told = _live(engine, clock, workload, timeline=timeline, options=options, watch=watch)
        seconds = time.monotonic() - started
        watch(Progress("reading the statements", len(calls)))
        accounts = [_account(engine, user, timeline) for user in workload.users]
        proved = _proved(
            *(deployment, workload, told, accounts),
            timeline=timeline,
            prefix=prefix,
            watch=watch,
        )
        for user in workload.users:  # nobody renews them in a later run
            engine.cancel_subscription(subscription_id_of(user))
        costs = read_costs(deployment, prefix)
    dry = refused_accounts(workload, told)
    return DaysReport(
        run_id=run_id,
        account_prefix=prefix,
        days=days,
        starts_at=timeline.starts_at,
        users=len(workload.users),
        users_refused=len(dry),
        processes=options.processes,
        seed=options.seed,
        calls=len(calls),
        admitted=sum(len(one.captured) for one in told),
        refused=dict(sum((one.refused for one in told), Counter[str]())),
        seconds=round(seconds, 3),
        renewals=sum(_periods(user, timeline) - 1 for user in workload.users),
        rolled_over=sum(account.rolled_over for account in accounts),
        tokens=Tokens(
            granted=sum(account.whole.granted for account in accounts),
            used=sum(account.whole.used for account in accounts),
            expired=sum(account.whole.expired for account in accounts),
            left=sum(account.whole.closing for account in accounts),
            shortfall=sum(account.whole.shortfall for account in accounts),
        ),
        costs=costs.by_model,
        proofs=tuple(proved),
        example_account=min(dry, default=workload.users[0].account),
    )


def _check_alone(deployment: Deployment) -> None:
    """Refuse a deployment with accounts of others: what they have would begin and end early."""
    with deployment.ledger.transaction() as sql:
        other = sql.execute(_OTHERS, {"pattern": f"{PREFIX}%"}).scalar()
    if other is not None:
        raise InvalidArgumentError(
            f"--days lets time pass for the whole deployment, and this one has other accounts,"
            f" such as {other}: set QUOTA_ENGINE_HOME to a new folder, and no URLs"
        )


def _define_plans(engine: QuotaEngine, workload: Workload) -> None:
    plans: dict[str, PlannedPlan] = {
        user.plan.name: user.plan for user in workload.users if user.plan is not None
    }
    for plan in plans.values():
        engine.plans.define(
            plan.name,
            period="month",
            amounts={QUOTA_TYPE: plan.amount},
            rollover="all" if plan.rolls_over else None,
        )


def _live(
    engine: QuotaEngine,
    clock: SimulatedClock,
    workload: Workload,
    *,
    timeline: Timeline,
    options: Options,
    watch: Watcher,
) -> list[Told]:
    """Let one day after the other pass; return what the clients were told."""
    deployment = engine.deployment
    shares = [
        Share(
            number=number,
            redis_url=deployment.redis_url,
            database_url=deployment.database_url,
            users=workload.users[number :: options.processes],
            calls=workload.share_of_users(number, options.processes),
            output_limit=options.output_limit,
            models=tuple(price.model for price in options.prices),
            timeline=timeline,
        )
        for number in range(options.processes)
    ]
    with (
        Worker(deployment.redis_url, deployment.database_url) as worker,
        Crew(shares) as crew,
    ):
        while not crew.are_ready:
            watch(Progress("subscribing each user to a plan"))
            worker.check()
            time.sleep(POLL_SECONDS)
        crew.begin()
        for day in range(timeline.days):
            clock.now = timeline.begin_of(day)
            engine.run_schedule()
            crew.begin_day(day)
            while not crew.has_done(day):
                stage = f"making calls, day {day + 1} of {timeline.days}"
                watch(Progress(stage, crew.made, crew.refused))
                worker.check()
                time.sleep(POLL_SECONDS)
        while not crew.are_done:
            time.sleep(POLL_SECONDS)
        clock.now = timeline.ends_at
        engine.run_schedule()
        engine.drain()
        return crew.told


def _account(engine: QuotaEngine, user: User, timeline: Timeline) -> Account:
    """Read one user's books; the halves meet where nothing but the clock does."""
    middle, end = timeline.begin_of(timeline.days // 2), timeline.ends_at
    granted = engine.grants(user.account, QUOTA_TYPE)
    rolled_over = sum(grant.amount for grant in granted if grant.source == "rollover")
    return Account(
        user=user,
        whole=engine.statement(user.account, QUOTA_TYPE, None, end),
        first=engine.statement(user.account, QUOTA_TYPE, None, middle),
        second=engine.statement(user.account, QUOTA_TYPE, middle, end),
        rolled_over=rolled_over,
    )


def _proved(
    deployment: Deployment,
    workload: Workload,
    told: Sequence[Told],
    accounts: Sequence[Account],
    *,
    timeline: Timeline,
    prefix: str,
    watch: Watcher,
) -> list[Proof]:
    made = len(workload.calls)
    watch(Progress("counting again in Redis and the ledger", made))
    counted = proofs.count(deployment, workload, told, prefix)
    proved = [
        proofs.calls_proof(counted),
        proof(
            "every user was granted its plan once for each month that began, and beside it only"
            " what rolled over",
            _wrong_grants(accounts, timeline),
        ),
        proof(
            "every statement adds up to the unit, is the sum of its two halves, and ends in the"
            " balance that Redis has; its usage is what clients were told",
            _wrong_statements(accounts, counted, _used(workload, told)),
        ),
        *proofs.cost_proofs(read_costs(deployment, prefix)),
    ]
    watch(Progress("verifying the hash chains", made))
    proved.append(proofs.chain_proof(deployment, prefix))
    watch(Progress("reconciling Redis with the ledger", made))
    proved.append(proofs.drift_proof(deployment.reconcile()))
    return proved


def _used(workload: Workload, told: Sequence[Told]) -> Counter[str]:
    """Return the tokens of each account that its clients were told to be collected."""
    used = Counter[str]()
    for one in told:
        for number, (amount, shortfall) in one.captured.items():
            used[workload.users[workload.user_of[number - 1]].account] += amount - shortfall
    return used


def _wrong_grants(accounts: Sequence[Account], timeline: Timeline) -> Iterator[str]:
    for account in accounts:
        assert account.user.plan is not None
        planned = account.user.plan.amount * _periods(account.user, timeline)
        granted = account.whole.granted - account.rolled_over
        if granted != planned:
            yield f"{account.user.account}: planned {planned}, granted {granted}"
        if account.rolled_over and not account.user.plan.rolls_over:
            yield f"{account.user.account}: {account.rolled_over} rolled over, by no plan"


def _wrong_statements(
    accounts: Sequence[Account], counted: proofs.Counted, used: Counter[str]
) -> Iterator[str]:
    for account in accounts:
        name, whole, first, second = (
            *(account.user.account, account.whole, account.first, account.second),
        )
        if whole.opening or whole.difference or first.difference or second.difference:
            yield f"{name}: {whole.difference} units are in no column"
        if first.closing != second.opening:
            yield f"{name}: one half ends with {first.closing}, the other opens {second.opening}"
        for column in MOVED:
            halves = getattr(first, column) + getattr(second, column)
            if halves != getattr(whole, column):
                yield f"{name}: {column} {getattr(whole, column)}, both halves {halves}"
        if whole.closing != counted.balances[name].balance or counted.balances[name].held:
            yield f"{name}: closes with {whole.closing}, Redis {counted.balances[name].balance}"
        if whole.used != used[name]:
            yield f"{name}: used {whole.used}, clients were told {used[name]}"


def _periods(user: User, timeline: Timeline) -> int:
    """Return how many months began by the end, counted on the calendar of the user's zone."""
    zone = ZoneInfo(user.time_zone)
    anchor = timeline.starts_at.astimezone(zone)
    months = 0
    while _months_after(anchor, months) < timeline.ends_at:
        months += 1
    return months


def _months_after(anchor: datetime, months: int) -> datetime:
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    day = min(anchor.day, monthrange(year, month + 1)[1])
    return anchor.replace(year=year, month=month + 1, day=day)
