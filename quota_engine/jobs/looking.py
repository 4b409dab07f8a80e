"""
A look at the deployment for a monitor: bounded in cost and time, whatever is away.

Its parts are looked at side by side, each in a thread of its own. One that does not answer in time
is told as down, and is not asked again while its thread still waits. Within a second everybody is
shown the same look. It asks no gate, loads no quota and writes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from datetime import UTC, datetime
from typing import Any

import redis
from sqlalchemy import text

from quota_engine.commands import Balance, ReadBalance
from quota_engine.delivering import COUNTERS
from quota_engine.errors import QuotaError
from quota_engine.events import EventId
from quota_engine.jobs.deployed import Deployed
from quota_engine.jobs.drift_told import found_last
from quota_engine.jobs.freshness import duties_health
from quota_engine.jobs.running import run_commands
from quota_engine.keys import QuotaName
from quota_engine.ledger import Ledger, duties, gauges, shards
from quota_engine.metrics.described import Sample
from quota_engine.outbox import age_seconds, pressures_of
from quota_engine.spool import Spool

log = logging.getLogger("quota_engine.worker")

#: A monitor waits this long at most, all parts together.
LOOK_SECONDS_MAX = 2.0
#: A look is good for so long.
FRESH_SECONDS = 1.0

Read = Callable[[], Iterable[Sample]]


class _Part:
    """One part of the look: at most one thread at a time is at it."""

    def __init__(self, name: str, read: Read) -> None:
        self.name = name
        self._read = read
        self._asking: Future[list[Sample]] | None = None

    def begin(self) -> Future[list[Sample]]:
        """Return the look that is under way, or a new one."""
        if self._asking is None or self._asking.done():
            self._asking = Future()
            threading.Thread(target=self._run, args=(self._asking,), daemon=True).start()
        return self._asking

    def _run(self, asking: Future[list[Sample]]) -> None:
        started = time.perf_counter()
        try:
            found = list(self._read())
        except (QuotaError, redis.RedisError, OSError) as error:
            asking.set_exception(error)
        except Exception as error:
            log.exception("the look at %s is broken", self.name)
            asking.set_exception(error)
        else:
            labels = {"part": self.name}
            seconds = time.perf_counter() - started
            asking.set_result([*found, Sample("look_seconds", seconds, labels)])


class DeploymentLook:
    """
    What a monitor is told of one deployment. Safe in threads.

    ``client`` and ``ledger`` are its own, with short waits; ``close`` closes them.
    """

    def __init__(self, deployment: Deployed, client: redis.Redis, ledger: Ledger) -> None:
        self._deployment = deployment
        self._client = client
        self._ledger = ledger
        self._lock = threading.Lock()
        self._fresh_until = 0.0
        self._last: list[Sample] = []
        self._quotas = [QuotaName.parse(name) for name in deployment.settings.metrics_quotas]
        parts: dict[str, Read] = {
            "redis": self._of_redis,
            "postgresql": self._of_postgresql,
            "spool": self._of_spool,
        }
        if self._quotas:
            parts["quotas"] = self._of_quotas
        self._parts = [_Part(name, read) for name, read in parts.items()]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._ledger.close()

    def samples(self) -> list[Sample]:
        """Return the numbers of all parts that answer within two seconds; never raises."""
        with self._lock:
            if time.monotonic() >= self._fresh_until:
                self._last = list(self._look())
                self._fresh_until = time.monotonic() + FRESH_SECONDS
            return self._last

    def _look(self) -> Iterator[Sample]:
        asked = [(part, part.begin()) for part in self._parts]
        done, _ = wait([asking for _, asking in asked], LOOK_SECONDS_MAX)
        for part, asking in asked:
            is_up = asking in done and asking.exception() is None
            yield Sample("up", is_up, {"part": part.name})
            if is_up:
                yield from asking.result()
        for outcome, count in COUNTERS.snapshot().items():
            yield Sample("alert_attempts_total", count, {"outcome": outcome})

    # -- the parts

    def _of_redis(self) -> Iterator[Sample]:
        caller: Any = self._client
        memory = caller.info("memory")
        late = caller.info("persistence").get("aof_delayed_fsync", 0)
        yield Sample("redis_memory_bytes", memory["used_memory"])
        yield Sample("redis_memory_limit_bytes", memory.get("maxmemory", 0))
        yield Sample("redis_late_syncs_total", late)
        now = time.time()
        found = pressures_of(self._client, self._deployment.opened.shards)
        for shard, pressure in enumerate(found):
            labels = {"shard": str(shard)}
            last, noted = pressure.last_id or EventId(0, 0), pressure.noted or EventId(0, 0)
            is_same = last.epoch == noted.epoch
            yield Sample("outbox_entries", pressure.length, labels)
            yield Sample(
                "outbox_pending", last.n - noted.n if is_same else pressure.length, labels
            )
            oldest = pressure.oldest
            yield Sample("outbox_lag_seconds", age_seconds(oldest, now), labels)
            yield Sample("issued_entries_total", last.n, labels)

    def _of_postgresql(self) -> Iterator[Sample]:
        with self._ledger.transaction() as sql:
            gauges.bound_statements(sql, round(LOOK_SECONDS_MAX * 1000))
            for row in shards.read_shards(sql):
                labels = {"shard": str(row.shard)}
                yield Sample("persisted_entries_total", row.cursor.n, labels)
                yield Sample("shard_epoch", row.epoch, labels)
                yield Sample("shard_stopped", bool(row.stopped), labels)
            deployment = shards.read_deployment(sql)
            runs = duties.read_runs(sql)
            now = sql.execute(text("SELECT clock_timestamp()")).scalar_one()
            frozen, quarantined = gauges.count_in_doubt(sql)
            promises = gauges.open_promises(sql)
            alerted = gauges.alert_counts(sql)
        yield Sample("frozen_quotas", frozen)
        yield Sample("quarantined_entries", quarantined)
        for promised in promises:
            yield Sample("open_promises", promised.count, {"kind": promised.kind})
        oldest = max(promised.oldest_seconds for promised in promises)
        yield Sample("oldest_promise_seconds", oldest)
        if deployment is not None:
            settings = self._deployment.settings
            for duty in duties_health(runs, deployment.created_at, settings, now):
                labels = {"duty": duty.duty}
                yield Sample("duty_age_seconds", duty.age_seconds, labels)
                yield Sample("duty_late", duty.is_late, labels)
                yield Sample("duty_failed", not duty.is_ok, labels)
        found = found_last(runs)
        if found is not None:
            yield Sample("drifting_quotas", found.differ)
            yield Sample("not_compared_quotas", found.by_sums)
        yield Sample("alerts_open", alerted.warning, {"severity": "warning"})
        yield Sample("alerts_open", alerted.critical, {"severity": "critical"})
        yield Sample("alert_messages_waiting", alerted.waiting)
        yield Sample("alert_dead_letters", alerted.dead)

    def _of_spool(self) -> Iterator[Sample]:
        deployment_id = self._deployment.opened.deployment_id
        spool = Spool(self._deployment.settings.spool_place, deployment_id)
        now = datetime.now(UTC)
        try:
            found = spool.status(round(now.timestamp() * 1000))
        finally:
            spool.close()
        oldest = 0.0 if found.oldest_at is None else (now - found.oldest_at).total_seconds()
        yield Sample("spool_waiting", found.waiting)
        yield Sample("spool_refused", found.refused)
        yield Sample("spool_oldest_seconds", max(oldest, 0.0))

    def _of_quotas(self) -> Iterator[Sample]:
        """Read the chosen quotas in Redis, and those that are not loaded in the ledger."""
        commands = [ReadBalance(quota=quota, with_grants=False) for quota in self._quotas]
        answers = run_commands(self._client, self._deployment.opened, commands)
        absent = []
        for quota, answer in zip(self._quotas, answers, strict=True):
            if isinstance(answer, Balance):
                yield from _sums(quota, answer.balance, answer.held, answer.spendable)
            else:
                absent.append(quota)
        if not absent:
            return
        with self._ledger.transaction() as sql:
            gauges.bound_statements(sql, round(LOOK_SECONDS_MAX * 1000))
            found = gauges.sums_of(sql, absent)
        for sums in found:
            limit = sums.overdraft_limit
            spendable = None if limit is None else sums.balance - sums.held + limit
            yield from _sums(sums.quota, sums.balance, sums.held, spendable)


def _sums(quota: QuotaName, balance: int, held: int, spendable: int | None) -> Iterator[Sample]:
    labels = {"account": quota.account, "quota_type": quota.quota_type}
    yield Sample("quota_balance", balance, labels)
    yield Sample("quota_held", held, labels)
    yield Sample("quota_spendable", float("inf") if spendable is None else spendable, labels)
