"""Units that leave a quota for another account, and arrive from one: two rules of the walk."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from quota_engine.commands import Transfer, TransferIn, TransferOut
from quota_engine.events import NEVER_MS
from quota_engine.keys import QuotaName

ELSEWHERE = QuotaName("elsewhere", "text_token")
amounts = st.integers(1, 80)
due_maxes = st.sampled_from([1, 2, 32, 32, 32])


class Moving:
    """Two rules; the walk brings what they need."""

    name: QuotaName
    now_ms: int
    both: Any
    fresh: Any

    @rule(amount=amounts, parts_max=st.sampled_from([1, 2, 100]), due_max=due_maxes)
    def transfer_out(self, amount: int, parts_max: int, due_max: int) -> None:
        transfer = Transfer(
            transfer_id=self.fresh("t"), source=self.name, target=ELSEWHERE, amount=amount
        )
        self.both(TransferOut(quota=self.name, transfer=transfer, parts_max=parts_max), due_max)

    @rule(
        amount=st.integers(3, 80),
        ends_in=st.sampled_from([None, 2000, 0, -500]),
        priority=st.integers(-1, 1),
        grants_max=st.sampled_from([2, 5000, 5000]),
        due_max=due_maxes,
    )
    def transfer_in(
        self, amount: int, ends_in: int | None, priority: int, grants_max: int, due_max: int
    ) -> None:
        """Two parts; one of them may have ended on its way."""
        ends = NEVER_MS if ends_in is None else self.now_ms + ends_in
        terms = f"{amount - 2} {priority} {ends} 2 {-priority} {NEVER_MS}"
        transfer = Transfer(
            transfer_id=self.fresh("t"), source=ELSEWHERE, target=self.name, amount=amount
        )
        arrival = TransferIn(
            quota=self.name, transfer=transfer, terms=terms, grants_max=grants_max
        )
        self.both(arrival, due_max)
