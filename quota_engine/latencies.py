"""
Latencies as counts in fixed buckets: they add up, whatever days or models are put together. Pure.

Bucket n holds whole milliseconds from ``EDGES[n - 1]`` to below ``EDGES[n]``; bucket 0 what is
below 1 ms. To 10 ms each is a bucket of its own, then each is a tenth wide: a percentile, told as
its bucket's middle, is at most 5 % off. What took an hour or more is told as an hour.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Beyond this, how long it took no longer matters.
LONGEST_MS = 3_600_000
EXACT_TO_MS = 10


def _edges() -> tuple[int, ...]:
    edges = list(range(1, EXACT_TO_MS + 1))
    while edges[-1] < LONGEST_MS:
        edges.append(min(max(edges[-1] * 11 // 10, edges[-1] + 1), LONGEST_MS))
    return tuple(edges)


EDGES = _edges()


def percentile_ms(counts: Mapping[int, int], percent: int) -> float | None:
    """
    Return the latency in milliseconds that ``percent`` of the calls did not exceed.

    ``counts``: calls by bucket. None without calls. The nearest rank's bucket, told as its middle.
    """
    total = sum(counts.values())
    if total <= 0:
        return None
    rank = max((total * percent + 99) // 100, 1)
    for bucket in sorted(counts):
        rank -= counts[bucket]
        if rank <= 0:
            return _middle_ms(bucket)
    return _middle_ms(max(counts))


def _middle_ms(bucket: int) -> float:
    if bucket <= 0:
        return 0.0
    if bucket >= len(EDGES):
        return float(LONGEST_MS)
    return (EDGES[bucket - 1] + EDGES[bucket] - 1) / 2
