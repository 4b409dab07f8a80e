"""
Health: look at both stores and say what is wrong and what to do. It only looks.

Whatever fails, the look goes on with what is left, so that one screen shows everything. The
deployment is neither opened nor recovered: what a command's first call will do is said instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from sqlalchemy import text

from quota_engine.errors import EngineUnavailableError, QuotaError
from quota_engine.events import EventId
from quota_engine.jobs import gate_rules, gate_server
from quota_engine.jobs.alert_health import examine_alerts
from quota_engine.jobs.drift_told import found_last
from quota_engine.jobs.freshness import DutyHealth, duties_health, late_promises
from quota_engine.jobs.gate_rules import GAP
from quota_engine.jobs.late_syncs import count_of
from quota_engine.jobs.pinned import PinnedConnection
from quota_engine.jobs.server_check import check_server, read_info
from quota_engine.ledger import Ledger, duties, epochs, gauges, listing
from quota_engine.ledger.connection import answering
from quota_engine.ledger.migrate import newest, revision_of
from quota_engine.ledger.shards import read_deployment
from quota_engine.outbox import Outbox, age_seconds
from quota_engine.settings import Settings

CLOCK_DIFFERENCE_MAX_SECONDS = 60.0
#: Above this share of maxmemory, new holds will be refused soon.
MEMORY_SHARE_MAX = 0.8
FROZEN_SHOWN = 5
#: What a recovery did not find is told so long.
RECOVERY_TOLD_FOR = timedelta(days=1)
RECOVERIES_LOOKED_AT = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``fix`` says what to do; not fatal: worth knowing."""

    code: str
    message: str
    fix: str
    is_fatal: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardHealth:
    """One shard: its outbox, and how far it is persisted."""

    shard: int
    epoch: int
    length: int
    pending: int
    #: Age of the oldest entry that is not persisted yet, 0 when none waits.
    lag_seconds: float
    last_drain_at: datetime | None
    stopped: str | None
    #: Redis was told that the ledger has everything up to here, but it does not any more.
    lost_until: str | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """One number for a monitor. Units stand last in its name."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Health:
    """What one look has found. Facts are words for a person, in the order they were found."""

    facts: dict[str, str] = field(default_factory=dict)
    shards: list[ShardHealth] = field(default_factory=list)
    duties: list[DutyHealth] = field(default_factory=list)
    #: What was counted beside shards and duties, by the name of its measure.
    numbers: dict[str, float] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    #: Whose stores these are, once the ledger has told.
    deployment_id: str | None = None

    @property
    def is_well(self) -> bool:
        """Whether nothing fatal was found."""
        return not any(problem.is_fatal for problem in self.problems)

    def note(self, code: str, message: str, fix: str, *, is_fatal: bool = True) -> None:
        """Add a problem."""
        self.problems.append(Problem(code, message, fix, is_fatal))

    def measures(self) -> Iterator[Measure]:
        """Yield every number of the look, for a monitor to collect."""
        for name, value in self.numbers.items():
            yield Measure(name, value)
        for shard in self.shards:
            labels = {"shard": str(shard.shard)}
            yield Measure("outbox_entries", shard.length, labels)
            yield Measure("outbox_pending", shard.pending, labels)
            yield Measure("outbox_lag_seconds", shard.lag_seconds, labels)
            yield Measure("shard_stopped", bool(shard.stopped), labels)
            yield Measure("shard_lost_commits", bool(shard.lost_until), labels)
        for duty in self.duties:
            labels = {"duty": duty.duty}
            yield Measure("duty_age_seconds", duty.age_seconds, labels)
            yield Measure("duty_late", duty.is_late, labels)
            yield Measure("duty_failed", not duty.is_ok, labels)
        for problem in self.problems:
            labels = {"code": problem.code, "is_fatal": str(problem.is_fatal).lower()}
            yield Measure("problem", 1, labels)


def examine(
    client: redis.Redis, redis_place: str, database_url: str, settings: Settings | None = None
) -> Health:
    """Look at both stores. ``client`` must not decode replies. ``settings`` have the bounds."""
    settings = settings or Settings()
    health = Health()
    redis_answers = _examine_redis(health, client, redis_place)
    try:
        ledger = Ledger.open(
            database_url, connect_timeout_seconds=settings.connect_timeout_seconds
        )
    except QuotaError as error:
        health.note("postgresql", f"PostgreSQL cannot be used: {error}", DATABASE_FIX)
        return health
    with ledger:
        if _examine_tables(health, ledger):
            _examine_ledger(health, ledger)
            if redis_answers:
                _examine_gate(health, client, ledger)
                _examine_shards(health, client, ledger, settings)
                _examine_clocks(health, client, ledger)
            _examine_duties(health, ledger, settings)
    return health


REDIS_FIX = "start it, or correct QUOTA_ENGINE_REDIS_URL"
DATABASE_FIX = "start it, or correct QUOTA_ENGINE_DATABASE_URL"
DUTY_FIX = "see the workers' log, and docs/operations.md"
GAP_FIX = (
    "find the entries in a backup of either store, or go on without them:"
    " `quota-engine recovery run --accept-gap --actor NAME`"
)


def _examine_redis(health: Health, client: redis.Redis, place: str) -> bool:
    try:
        started = time.perf_counter()
        client.ping()
        took_ms = (time.perf_counter() - started) * 1000
        with PinnedConnection(client) as connection:
            info = read_info(connection)
        found = check_server(client)
    except (redis.RedisError, OSError, QuotaError) as error:
        health.note("redis", f"Redis at {place} does not answer: {error}", REDIS_FIX)
        return False
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "?")
    used = info.get("used_memory_human", "?")
    health.facts["redis"] = f"{name} {version} at {place}, {used} used, ping {took_ms:.1f} ms"
    health.facts["durability"] = (
        f"AOF {'on' if info.get('aof_enabled') == '1' else 'off'},"
        f" {info.get('maxmemory_policy', 'unknown policy')}"
    )
    for finding in found:
        health.note(
            finding.code, f"Redis: {finding.message}", finding.fix, is_fatal=finding.is_alarm
        )
    limit, memory = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    health.numbers |= {"redis_memory_bytes": memory, "redis_memory_limit_bytes": limit}
    health.numbers["redis_late_syncs_total"] = count_of(info)
    if limit and memory > limit * MEMORY_SHARE_MAX:
        message = (
            f"Redis uses {memory / limit:.0%} of its maxmemory: new holds are refused at 100%"
        )
        health.note("memory", message, "raise maxmemory, or let the workers drain")
    return True


def _examine_tables(health: Health, ledger: Ledger) -> bool:
    try:
        with ledger.transaction() as sql:
            version = sql.execute(text("SHOW server_version")).scalar_one()
        revision = revision_of(ledger.engine)
    except QuotaError as error:
        health.note("postgresql", f"PostgreSQL cannot be used: {error}", DATABASE_FIX)
        return False
    url, wanted = ledger.engine.url, newest()
    place = f"{url.host or url.query.get('host') or 'the local socket'}"
    health.facts["postgresql"] = f"PostgreSQL {str(version).split()[0]} at {place}/{url.database}"
    health.facts["tables"] = f"revision {revision}" if revision else "none"
    if revision is None or revision < wanted:
        message = f"the ledger's tables are {'at ' + revision if revision else 'missing'}"
        health.note("not_migrated", message, "run `quota-engine ledger migrate`")
        return False
    return True


def _examine_ledger(health: Health, ledger: Ledger) -> None:
    recorded = ledger.deployment()
    health.deployment_id = None if recorded is None else recorded.deployment_id
    with ledger.transaction() as sql:
        found = listing.attention(sql, FROZEN_SHOWN)
        promises = gauges.open_promises(sql)
    health.numbers["frozen_quotas"] = found.frozen_count
    health.numbers["quarantined_entries"] = found.quarantined
    health.numbers["late_intents"] = found.intents
    health.facts["frozen quotas"] = str(found.frozen_count)
    health.facts["quarantine"] = f"{found.quarantined} entries"
    for quota, reason in found.frozen:
        fix = f"run `quota-engine quarantine show '{quota.account}' {quota.quota_type}`"
        health.note("frozen", f"{quota} is frozen: {reason}", f"{fix}, then `resolve`")
    if found.frozen_count > len(found.frozen):
        rest = found.frozen_count - len(found.frozen)
        health.note(
            "frozen", f"{rest} more quotas are frozen", "run `quota-engine quarantine list`"
        )
    if found.quarantined:
        message = f"{found.quarantined} entries are in quarantine: they did not fit the ledger"
        health.note("quarantine", message, "run `quota-engine quarantine list`")
    health.numbers["open_promises"] = sum(promised.count for promised in promises)
    health.facts["promises"] = f"{sum(promised.count for promised in promises)} open"
    for late in late_promises(promises):
        health.note("promises", late, "run `quota-engine worker`, which keeps them")
    if found.repairs:
        message = f"{found.repairs} repairs were begun over a minute ago and not finished"
        health.note("repairs", message, "run `quota-engine reconcile --repair`, which ends them")
    if found.intents:
        message = f"{found.intents} grants were promised over a minute ago and not applied yet"
        health.note("intents", message, "run `quota-engine worker`, which applies them")


def _examine_gate(health: Health, client: redis.Redis, ledger: Ledger) -> None:
    with ledger.transaction() as sql:
        recorded = epochs.read_recorded(sql)
    if recorded is None:
        health.facts["deployment"] = "none yet: the first call makes one"
        return
    deployment = recorded.deployment
    health.facts["deployment"] = f"{deployment.deployment_id}, {deployment.shards} shards"
    try:
        with PinnedConnection(client) as connection:
            server = gate_server.read_server(connection, deployment.shards)
        gate_rules.check_ours(recorded, server)
        with ledger.transaction() as sql:
            superseded = epochs.is_superseded(sql, server.incarnation)
        gate_rules.check_admissible(
            recorded, server, is_superseded=superseded, adopt=False, allow_wiped=False
        )
    except QuotaError as error:
        health.facts["gate"] = "closed"
        message, _, fix = str(error).partition(": ")
        health.note("gate", message, fix or "see that both URLs are meant")
        return
    _examine_recoveries(health, ledger)
    reason = gate_rules.why_to_recover(recorded, server)
    health.facts["gate"] = f"to be recovered: {reason}" if reason else "open"
    if reason and recorded.was_opened:
        fix = "the next call recovers it; no need to do anything"
        health.note("gate", f"this Redis must be recovered first: {reason}", fix, is_fatal=False)


def _examine_recoveries(health: Health, ledger: Ledger) -> None:
    with ledger.transaction() as sql:
        recoveries = epochs.read_recoveries(sql, RECOVERIES_LOOKED_AT)
    for told in recoveries:
        losses: Any = told["losses"]
        gaps: Any = told["gaps"]
        opened_at: Any = told["opened_at"]
        missing = [*losses, *gaps]
        if missing and datetime.now(UTC) - opened_at < RECOVERY_TOLD_FOR:
            rest = f", and {len(missing) - 1} more shards" if len(missing) > 1 else ""
            message = f"the recovery of {opened_at:%Y-%m-%d %H:%M:%S %Z} found {missing[0]}{rest}"
            fix = "`quota-engine recovery status` tells all; callers may repeat what they know of"
            health.note("lost", message, fix, is_fatal=False)


def _examine_shards(
    health: Health, client: redis.Redis, ledger: Ledger, settings: Settings
) -> None:
    try:
        health.shards = list(_shards(client, ledger))
    except QuotaError as error:
        health.note("outbox", f"the outboxes cannot be read: {error}", "run doctor again")
        return
    waiting = sum(shard.pending for shard in health.shards)
    lag = max((shard.lag_seconds for shard in health.shards), default=0.0)
    drained = [shard.last_drain_at for shard in health.shards if shard.last_drain_at]
    health.facts["outbox"] = (
        f"{sum(shard.length for shard in health.shards)} entries, {waiting} not persisted,"
        f" the oldest for {lag:.1f} s"
    )
    health.facts["last drain"] = _ago(max(drained)) if drained else "never"
    if lag > settings.drain_late_seconds:
        message = f"{waiting} entries wait to be persisted, the oldest for {lag:.0f} s"
        health.note("lag", message, "run `quota-engine worker`, or `quota-engine ledger drain`")
    for shard in health.shards:
        if shard.stopped:
            message = f"shard {shard.shard} is stopped: {shard.stopped}"
            fix = "run `quota-engine ledger drain`, which asks the gate first; nothing is lost"
            health.note("stopped", message, GAP_FIX if shard.stopped.startswith(GAP) else fix)
        _examine_pressure(health, shard, settings)


def _examine_pressure(health: Health, shard: ShardHealth, settings: Settings) -> None:
    if shard.lost_until:
        message = (
            f"shard {shard.shard}: PostgreSQL has lost commits; it had everything up to"
            f" {shard.lost_until}"
        )
        fix = "the workers feed it again from the outbox; no need to do anything"
        health.note("lost_commits", message, fix, is_fatal=False)
    if shard.pending >= settings.outbox_soft_limit:
        hard = settings.outbox_hard_limit
        is_fatal = shard.pending >= hard
        message = f"{shard.pending} entries of shard {shard.shard} wait to be persisted"
        message += ": new holds are refused" if is_fatal else f": at {hard} holds are refused"
        fix = "see that PostgreSQL answers and that workers run"
        health.note("pressure", message, fix, is_fatal=is_fatal)


def _examine_duties(health: Health, ledger: Ledger, settings: Settings) -> None:
    with ledger.transaction() as sql:
        deployment = read_deployment(sql)
        if deployment is None:
            return
        now = sql.execute(text("SELECT clock_timestamp()")).scalar_one()
        runs = duties.read_runs(sql)
        examine_alerts(health, sql)
    found = found_last(runs)
    if found is not None:
        health.numbers["drifting_quotas"] = found.differ
        health.numbers["not_compared_quotas"] = found.by_sums
        health.facts["drift"] = f"{found.differ} quotas differed at the last reconciliation"
        if found.by_sums:
            health.facts["drift"] += f", {found.by_sums} were compared by their sums alone"
    health.duties = list(duties_health(runs, deployment.created_at, settings, now))
    for duty in health.duties:
        if duty.is_late:
            when = "has never been done"
            if duty.finished_at is not None:
                when = f"was done {timedelta(seconds=round(duty.age_seconds))} ago"
            fix = "run `quota-engine worker`; it does all duties by the clock"
            health.note("late", f"the duty {duty.duty} {when}", fix)
        if not duty.is_ok:
            health.note("duty", f"the duty {duty.duty}: {duty.outcome}", DUTY_FIX)


def _shards(client: redis.Redis, ledger: Ledger) -> Iterator[ShardHealth]:
    for row in ledger.read_shards():
        if row.epoch == 0:
            continue
        page = Outbox(client, row.shard).read(row.cursor, 1)
        is_same = page.last_id is not None and page.last_id.epoch == row.cursor.epoch
        last_id = page.last_id or EventId(0, 0)
        first = next((event for event in page.events if not event.is_marker), None)
        is_behind = page.noted is not None and page.noted > row.cursor
        yield ShardHealth(
            shard=row.shard,
            epoch=row.epoch,
            length=page.length,
            pending=last_id.n - row.cursor.n if is_same else page.length,
            lag_seconds=age_seconds(first.entry if first else None, time.time()),
            last_drain_at=row.last_drain_at,
            stopped=row.stopped,
            lost_until=str(page.noted) if is_behind else None,
        )


def _ago(instant: datetime) -> str:
    passed = max(datetime.now(UTC) - instant, timedelta(0))
    return f"{timedelta(seconds=round(passed.total_seconds()))} ago"


def _examine_clocks(health: Health, client: redis.Redis, ledger: Ledger) -> None:
    caller: Any = client
    try:
        with answering(ledger.engine), ledger.transaction() as sql:
            seconds, micros = caller.time()
            theirs = sql.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
    except (redis.RedisError, EngineUnavailableError):
        return
    apart = abs(seconds + micros / 1_000_000 - float(theirs))
    health.numbers["clock_difference_seconds"] = apart
    health.facts["clocks"] = f"{apart:.1f} s apart"
    if apart > CLOCK_DIFFERENCE_MAX_SECONDS:
        message = f"the clocks of Redis and PostgreSQL are {apart:.0f} s apart"
        health.note("clocks", message, "run an NTP client on both machines")
