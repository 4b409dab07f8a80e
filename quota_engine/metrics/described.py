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
        ("operation",),
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
