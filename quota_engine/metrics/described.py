"""
The one list of metrics: name, kind, labels, meaning. The table in docs is written from it.

Names follow Prometheus' conventions: units stand last, and whatever only counts up ends in
``_total``. This module must not know where a number comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

PREFIX = "quota_engine_"


class Kind(StrEnum):
    """How a metric's numbers are to be read."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, as it is exported: ``text`` says what it counts, its unit and its alarm."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of a metric."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timings:
    """
    One histogram: how many took at most so long, not added up, and all their seconds.

    ``counts`` has one more than ``bounds``: those that took longer than the last.
    """

    name: str
    labels: Mapping[str, str]
    bounds: Sequence[float]
    counts: Sequence[int]
    seconds: float


def _client() -> Iterator[Metric]:
    yield Metric(
        "calls_total",
        Kind.COUNTER,
        "Calls of this engine that were decided. `outcome`: `admitted`, `refused` (nothing was"
        " changed) or `failed` (unknown, or a bug); `reason` of an admitted one: `new`,"
        " `replayed`, `offline` or `spooled`; of others: `insufficient`, `backpressure`,"
        " `frozen`, `unavailable` and more.",
        ("operation", "outcome", "reason"),
    )
    yield Metric(
        "call_seconds",
        Kind.HISTOGRAM,
        "How long a call took, whatever its outcome, with waiting, hydration and retries.",
        ("operation",),
    )
    yield Metric(
        "shortfall_units_total",
        Kind.COUNTER,
        "Units that captures and debits of this engine could not collect.",
        ("quota_type",),
    )
    yield Metric(
        "shadowed_total",
        Kind.COUNTER,
        "Quotas that would have refused a call, and let it through: they are in the shadow."
        " `reason`: `insufficient` or `limited`.",
        ("operation", "reason"),
    )
    yield Metric(
        "late_captures_total",
        Kind.COUNTER,
        "Captures of a hold that was no longer open: estimates of duration are too short.",
    )
    yield Metric(
        "resent_total",
        Kind.COUNTER,
        "Commands that this engine sent again because a new epoch began: `survived`, `restored`,"
        " `dropped`, `cancelled`, `failed`.",
        ("outcome",),
    )
    for name, text in MODEL_CALLS.values():
        yield Metric(name, Kind.COUNTER, text)


#: What ``metering.COUNTERS`` counts in a process, and what it is called here.
MODEL_CALLS: Mapping[str, tuple[str, str]] = {
    "calls": ("model_calls_total", "Metered calls of models by this process that ended."),
    "failed": ("model_calls_failed_total", "Of these: failed, timed out or were cancelled."),
    "estimated": (
        "model_calls_estimated_total",
        "Of these: charged without the provider's own count.",
    ),
    "unbilled": ("model_calls_unbilled_total", "Calls that ran unbilled for want of a price."),
    "anomalies": ("model_calls_anomalous_total", "Calls whose reported usage is impossible."),
    "spooled": ("model_calls_spooled_total", "Calls whose charge went to the spool."),
    "unsettled": (
        "model_calls_unsettled_total",
        "Calls that could be neither charged nor spooled at their end.",
    ),
    "settled_late": ("model_calls_settled_late_total", "Of the unsettled: settled afterwards."),
}

CLIENT = tuple(_client())


def _of_redis() -> Iterator[Metric]:
    gauge, shard = Kind.GAUGE, ("shard",)
    yield Metric("outbox_entries", gauge, "Entries in the outbox, persisted ones included.", shard)
    yield Metric(
        "outbox_pending", gauge, "Entries that wait to be persisted: the cursor's lag.", shard
    )
    yield Metric(
        "outbox_lag_seconds",
        gauge,
        "Age of the oldest entry that is not persisted, 0 when none waits.",
        shard,
    )
    yield Metric(
        "issued_entries_total",
        Kind.COUNTER,
        "Entries of this epoch: its rate is what the drain has to keep up with.",
        shard,
    )
    yield Metric("redis_memory_bytes", gauge, "Memory that Redis uses.")
    yield Metric("redis_memory_limit_bytes", gauge, "Its `maxmemory`, 0: none.")
    yield Metric(
        "redis_late_syncs_total",
        Kind.COUNTER,
        "Syncs of its append-only file that were late since it started: a power cut then loses"
        " more than a second.",
    )


def _of_postgresql() -> Iterator[Metric]:
    gauge, shard, duty = Kind.GAUGE, ("shard",), ("duty",)
    yield Metric(
        "persisted_entries_total",
        Kind.COUNTER,
        "Entries of this epoch that the ledger has: its rate is the drain rate.",
        shard,
    )
    yield Metric("shard_epoch", gauge, "Counts up with each recovery of Redis.", shard)
    yield Metric("shard_stopped", gauge, "1: the persister must not go on by itself.", shard)
    yield Metric("frozen_quotas", gauge, "Quotas that are frozen.")
    yield Metric("quarantined_entries", gauge, "Entries in quarantine that nobody has resolved.")
    yield Metric(
        "open_promises",
        gauge,
        "What the ledger promised and Redis was not seen to have: `grant`, `refund`, `transfer`,"
        " `repair`.",
        ("kind",),
    )
    yield Metric(
        "oldest_promise_seconds", gauge, "Age of the oldest of them, 0 when there is none."
    )
    yield Metric("duty_age_seconds", gauge, "Time since the duty ended last.", duty)
    yield Metric("duty_late", gauge, "1: it should have been done by now.", duty)
    yield Metric("duty_failed", gauge, "1: it failed the last time, or found a fault.", duty)
    yield Metric(
        "drifting_quotas",
        gauge,
        "Quotas that differed between Redis and the ledger at the last reconciliation; nothing"
        " before the first one.",
    )
    yield Metric(
        "not_compared_quotas",
        gauge,
        "Quotas of which that reconciliation compared version, chain and sums alone, because their"
        " entries could not be persisted meanwhile.",
    )
    yield Metric("alerts_open", gauge, "Alerts that are open.", ("severity",))
    yield Metric("alert_messages_waiting", gauge, "Messages about alerts that are to be told.")
    yield Metric(
        "alert_dead_letters", gauge, "Messages about alerts that were given up: nobody knows."
    )


def _deployment() -> Iterator[Metric]:
    yield Metric(
        "up",
        Kind.GAUGE,
        "1: this part of the look was answered in time. Without it, its numbers are missing.",
        ("part",),
    )
    yield Metric("look_seconds", Kind.GAUGE, "How long this part of the look took.", ("part",))
    yield from _of_redis()
    yield from _of_postgresql()
    yield Metric(
        "alert_attempts_total",
        Kind.COUNTER,
        "Attempts of this worker to tell of an alert: `delivered`, `failed` (tried again), `dead`"
        " (the last one).",
        ("outcome",),
    )
    machine = "of this machine's spool"
    yield Metric("spool_waiting", Kind.GAUGE, f"Operations {machine} that wait for Redis.")
    yield Metric("spool_refused", Kind.GAUGE, f"Operations {machine} that can never be replayed.")
    yield Metric("spool_oldest_seconds", Kind.GAUGE, f"Age of the oldest {machine} that waits.")
    chosen = "of a quota that `QUOTA_ENGINE_METRICS_QUOTAS` names"
    for name, text in (
        ("quota_balance", f"Balance {chosen}, in units of its type."),
        ("quota_held", f"Held {chosen}."),
        ("quota_spendable", f"Spendable {chosen}; `+Inf`: unlimited."),
    ):
        yield Metric(name, Kind.GAUGE, text, ("account", "quota_type"))


#: What the worker's endpoint exports. Those of Redis and PostgreSQL are of the whole deployment.
DEPLOYMENT = tuple(_deployment())
