"""What changes no sum: records of usage and of repairs."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from quota_engine.commands import RecordRepair, RecordUsage
from quota_engine.keys import QuotaName

due_maxes = st.sampled_from([1, 2, 32, 32, 32])
details = st.sampled_from(["", '{"reference":"单 7"}'])


class Noting:
    """Two rules; the walk brings what they need."""

    name: QuotaName
    both: Any
    fresh: Any

    @rule(text=details, due_max=due_maxes)
    def record_usage(self, text: str, due_max: int) -> None:
        record = RecordUsage(quota=self.name, operation_id=self.fresh("u"), details=text)
        self.both(record, due_max)

    @rule(text=details, due_max=due_maxes)
    def record_repair(self, text: str, due_max: int) -> None:
        operation_id = self.fresh("m")
        repair = RecordRepair(
            quota=self.name, operation_id=operation_id, cause="held", details=text
        )
        self.both(repair, due_max)
