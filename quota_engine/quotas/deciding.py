"""What every operation on a quota begins with: is it a repeat, is it sound, what is due."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from quota_engine import events
from quota_engine.amounts import AMOUNT_MAX
from quota_engine.quotas.counting import Asking, Counting
from quota_engine.quotas.log import Answer, answered
from quota_engine.quotas.parts import Refused

P = ParamSpec("P")
Q = TypeVar("Q", bound="Deciding")

#: Changes that one operation applies on its way.
DUE_MAX = 32


def all_or_nothing(
    operation: Callable[Concatenate[Q, P], Answer],
) -> Callable[Concatenate[Q, P], Answer]:
    """Make an operation work on a copy of the quota, which counts only if it is not refused."""

    @functools.wraps(operation)
    def decided(quota: Q, /, *args: P.args, **kwargs: P.kwargs) -> Answer:
        draft = quota.copied()
        answer = operation(draft, *args, **kwargs)
        quota.__dict__.update(draft.__dict__)
        return answer

    return decided


class Deciding(Counting):
    """A quota that can say whether something may be done to it."""

    def _repeated(self, operation_id: str, fingerprint: str) -> Answer | None:
        """Return the first answer if the operation came before; refuse it with other arguments."""
        entry = self.operations.get(operation_id)
        if entry is None:
            return None
        if entry.kind == events.OPERATION_CANCELLED:
            raise Refused("OPERATION_CANCELLED")
        if entry.fingerprint != fingerprint:
            raise Refused("IDEMPOTENCY_CONFLICT")
        return answered("REPLAYED", entry)

    def _happened(self, *operation_ids: str) -> bool:
        """Return whether any of these is remembered to have happened."""
        found = (self.operations.get(operation_id) for operation_id in operation_ids)
        return any(entry and entry.kind != events.OPERATION_CANCELLED for entry in found)

    def _refuse_if_frozen(self) -> None:
        if self.frozen:
            raise Refused("QUOTA_FROZEN")

    def _bring_up(self, now_ms: int, due_max: int) -> None:
        if self._due_count(now_ms) > due_max:
            raise Refused("CATCH_UP")
        while self._due_count(now_ms):
            self._apply(self.changes()[0])

    def _admit(
        self,
        now_ms: int,
        asking: Asking,
        *,
        is_counted: bool = False,
        is_in_shadow: bool = False,
    ) -> str:
        """Refuse what is too much; in the shadow return why it would be, or nothing."""
        shadowed, more = "", asking.units - asking.kept
        if not is_counted and more > self.spendable:
            if not is_in_shadow or more > AMOUNT_MAX - self.held:
                raise Refused("DENIED", asking.kept + max(self.spendable, 0))
            shadowed = "insufficient"
        try:
            self._refuse_beyond_limits(now_ms, asking)
        except Refused as refused:
            if not is_in_shadow or refused.code != "EXCEEDED":
                raise
            shadowed = shadowed or "limited"
        return shadowed


def flags_of(*words: str, is_counted: bool, paid_by: str = "", shadowed: str = "") -> str:
    """Return the flags of an entry."""
    told = [*words, events.COUNTED if is_counted else "", f"by:{paid_by}" if paid_by else ""]
    told += [f"shadow {shadowed}" if shadowed else ""]
    return " ".join(word for word in told if word)
