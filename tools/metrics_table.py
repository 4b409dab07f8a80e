"""
Write the tables of metrics in ``docs/operations.md`` from ``quota_engine/metrics/described.py``.

    python -m tools.metrics_table           rewrite them
    python -m tools.metrics_table --check   only say whether they are those that would be written
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from quota_engine.metrics.described import CLIENT, DEPLOYMENT, PREFIX, Metric

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operations.md"
TABLES = {"worker": DEPLOYMENT, "engine": CLIENT}
BEGIN = "<!-- metrics of the {name}: written by `python -m tools.metrics_table` -->"
END = "<!-- /metrics of the {name} -->"


def table(metrics: Sequence[Metric]) -> Iterator[str]:
    """Yield a table's lines: one per metric."""
    yield f"| `{PREFIX}…` | Kind | Labels | Meaning |"
    yield "|---|---|---|---|"
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.text} |"


def with_tables(text: str) -> str:
    """Return the page's ``text`` with the tables of now between their markers."""
    for name, metrics in TABLES.items():
        before, begin, rest = text.partition(BEGIN.format(name=name))
        _, end, after = rest.partition(END.format(name=name))
        if not begin or not end:
            raise SystemExit(f"{PAGE.name} lacks the markers of the {name}'s metrics")
        text = "\n".join([before + begin, "", *table(metrics), "", end + after])
    return text


def main() -> int:
    """Rewrite the tables, or with ``--check`` return 1 when they are others."""
    parser = argparse.ArgumentParser(description="Write the tables of metrics.")
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    is_check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    wanted = with_tables(text)
    if is_check and text != wanted:
        print("the metrics of docs/operations.md are not those of the code:", end=" ")
        print("run python -m tools.metrics_table")
        return 1
    if text != wanted:
        PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
