"""What a reconciliation's duty says when it ends, and how its number is read back."""

from __future__ import annotations

import re
from collections.abc import Sequence

from quota_engine.ledger.duties import DutyRun

COMPARED = "{checked} quotas compared, {differ} differ"
_DIFFER = re.compile(COMPARED.format(checked=r"\d+", differ=r"(\d+)"))


def drifting(runs: Sequence[DutyRun]) -> int | None:
    """Return how many quotas differed at the last reconciliation, None where none has ended."""
    for run in runs:
        if run.duty == "reconcile" and (found := _DIFFER.match(run.outcome)):
            return int(found[1])
    return None
