"""
Metrics as Prometheus' own client knows them. Needs the extra ``quota-engine[metrics]``.

    from prometheus_client import REGISTRY
    from quota_engine.metrics.prometheus import EngineCollector

    REGISTRY.register(EngineCollector(engine))
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Protocol

from quota_engine.metrics.collector import Metrics
from quota_engine.metrics.described import CLIENT, PREFIX, Kind, Metric, Sample, Timings
from quota_engine.metrics.model_calls import COUNTERS

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.core import Metric as Family
    from prometheus_client.registry import Collector
except ImportError as missing:
    raise ImportError("metrics need the extra: pip install 'quota-engine[metrics]'") from missing

Labels = tuple[str, ...]


class HasMetrics(Protocol):
    """An engine of either flavour."""

    @property
    def metrics(self) -> Metrics: ...


class EngineCollector(Collector):
    """
    What this process's engines decided, read when the registry is asked.

    Give all engines of the process to one collector: equal numbers are added up.
    """

    def __init__(self, *engines: HasMetrics) -> None:
        self._engines = engines

    def describe(self) -> Iterator[Family]:
        """Yield what will be collected, so that a registry can refuse a second collector."""
        return families(CLIENT, (), ())

    def collect(self) -> Iterator[Family]:
        """Yield every metric of the client, also those that are still empty."""
        counted = [engine.metrics for engine in self._engines]
        samples = [sample for one in counted for sample in one.samples()]
        samples += COUNTERS.samples()
        timings = [timing for one in counted for timing in one.timings()]
        return families(CLIENT, samples, timings)


class SampleCollector(Collector):
    """Samples that were read already."""

    def __init__(self, metrics: Sequence[Metric], samples: Sequence[Sample]) -> None:
        self._metrics = metrics
        self._samples = samples

    def collect(self) -> Iterator[Family]:
        """Yield them by metric."""
        return families(self._metrics, self._samples, ())


def exposed(collector: Collector) -> bytes:
    """Return what a collector has in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


def families(
    metrics: Sequence[Metric], samples: Iterable[Sample], timings: Iterable[Timings]
) -> Iterator[Family]:
    """Yield each metric with its numbers; those with the same labels are added up."""
    values: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
    for sample in samples:
        values[sample.name][tuple(sample.labels.values())] += sample.value
    durations: dict[str, dict[Labels, list[Timings]]] = defaultdict(lambda: defaultdict(list))
    for timing in timings:
        durations[timing.name][tuple(timing.labels.values())].append(timing)
    for metric in metrics:
        name = PREFIX + metric.name
        if metric.kind is Kind.HISTOGRAM:
            yield _histogram(name, metric, durations[metric.name])
            continue
        kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
        family = kind(name, metric.text, labels=metric.labels)
        for labels, value in values[metric.name].items():
            family.add_metric(labels, value)
        yield family


def _histogram(name: str, metric: Metric, found: dict[Labels, list[Timings]]) -> Family:
    family = HistogramMetricFamily(name, metric.text, labels=metric.labels)
    for labels, timings in found.items():
        columns = zip(*(timing.counts for timing in timings), strict=True)
        bounds = [*map(str, timings[0].bounds), "+Inf"]
        heights = accumulate(sum(column) for column in columns)
        buckets = list(zip(bounds, map(float, heights), strict=True))
        family.add_metric(labels, buckets, sum(timing.seconds for timing in timings))
    return family
