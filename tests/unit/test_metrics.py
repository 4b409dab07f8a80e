"""
What one process counts, and how it is written down for Prometheus.

Goal: no call is counted twice or under another name, and what is exported is what was counted.
Method: calls' outcomes as values; the text is read by prometheus-client's own parser.
"""

from __future__ import annotations

import threading

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from quota_engine import errors
from quota_engine.commands import Debited
from quota_engine.metrics.collector import BOUNDS, REASONS, Metrics, reason_of
from quota_engine.metrics.described import CLIENT, PREFIX, Kind, Metric, Sample
from quota_engine.metrics.model_calls import COUNTERS
from quota_engine.metrics.prometheus import EngineCollector, SampleCollector, exposed

OPERATION = "debit"


class Engine:
    """As much of an engine as is exported."""

    def __init__(self) -> None:
        self.metrics = Metrics()


def debited(**told: object) -> Debited:
    return Debited(
        **{
            "account": "user:42",
            "quota_type": "text_token",
            "operation_id": "op-1",
            "amount": 5,
            "shortfall": 0,
            "balance": 5,
            "version": 2,
            "allocations": (),
            "replayed": False,
            **told,
        }
    )


def read(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every number of an exposition, by name and labels; none may come twice."""
    found = [
        ((sample.name, frozenset(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return PREFIX + name, frozenset(labels.items())


def every_error() -> list[type[errors.QuotaError]]:
    found, waiting = [], [errors.QuotaError]
    while waiting:
        kind = waiting.pop()
        found.append(kind)
        waiting += kind.__subclasses__()
    return found


def test_every_error_has_a_reason_and_only_what_is_unknown_counts_as_failed() -> None:
    failed = {errors.EngineUnavailableError, errors.EngineFault}
    for kind in every_error():
        outcome, reason = reason_of(kind.__new__(kind))
        assert reason
        assert (outcome == "failed") == any(issubclass(kind, base) for base in failed), kind
    assert set(REASONS) <= set(every_error())


def test_a_replayed_charge_counts_no_shortfall_again() -> None:
    metrics = Metrics()
    metrics.done(OPERATION, 0.001, debited(shortfall=3))
    metrics.done(OPERATION, 0.001, debited(shortfall=3, replayed=True))
    metrics.failed(
        OPERATION, 0.001, errors.QuotaInsufficientError("a", "b", required=2, available=1)
    )
    values = {(each.name, *each.labels.values()): each.value for each in metrics.samples()}
    assert values["shortfall_units_total", "text_token"] == 3
    assert metrics.calls(OPERATION) == 1
    assert metrics.calls(OPERATION, "admitted", "replayed") == 1
    assert metrics.calls(OPERATION, "refused", "insufficient") == 1


def test_durations_are_told_as_prometheus_adds_them_up() -> None:
    engine = Engine()
    for seconds in (BOUNDS[0], BOUNDS[0] + 1e-9, 0.3, 99.0):
        engine.metrics.done(OPERATION, seconds, debited())
    found = read(exposed(EngineCollector(engine)))
    heights = [
        found[key("call_seconds_bucket", operation=OPERATION, le=str(bound))] for bound in BOUNDS
    ]
    assert heights[0] == 1
    assert heights[1] == 2
    assert heights[-1] == 3
    assert found[key("call_seconds_bucket", operation=OPERATION, le="+Inf")] == 4
    assert found[key("call_seconds_count", operation=OPERATION)] == 4
    assert found[key("call_seconds_sum", operation=OPERATION)] == pytest.approx(99.3002)


def test_engines_of_one_process_are_added_up_and_its_model_calls_told_once() -> None:
    one, other = Engine(), Engine()
    one.metrics.done(OPERATION, 0.001, debited())
    other.metrics.done(OPERATION, 0.001, debited())
    COUNTERS.add("unbilled")
    found = read(exposed(EngineCollector(one, other)))
    admitted = key("calls_total", operation=OPERATION, outcome="admitted", reason="new")
    assert found[admitted] == 2
    assert found[key("model_calls_unbilled_total")] == COUNTERS["unbilled"]


def test_a_registry_refuses_a_second_collector_of_the_same_process() -> None:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(EngineCollector(Engine()))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(EngineCollector(Engine()))


def test_a_label_is_escaped() -> None:
    odd = 'a"b\\c\nd|é'
    metric = Metric("odd", Kind.GAUGE, "A gauge.", ("quota",))
    text = exposed(SampleCollector((metric,), [Sample("odd", 1.5, {"quota": odd})]))
    assert read(text) == {key("odd", quota=odd): 1.5}


def test_threads_lose_no_count() -> None:
    metrics = Metrics()

    def call() -> None:
        for _ in range(5_000):
            metrics.done(OPERATION, 0.001, debited())

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.calls(OPERATION) == 20_000
    (timings,) = metrics.timings()
    assert sum(timings.counts) == 20_000


def test_names_say_their_unit_and_whether_they_only_grow() -> None:
    for metric in CLIENT:
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert metric.text.endswith("."), metric.name
    assert len({metric.name for metric in CLIENT}) == len(CLIENT)
