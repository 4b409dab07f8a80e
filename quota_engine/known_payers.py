"""
Which payers one client knows to be paying, so that it sends their quotas along at once.

The script decides who pays: a payer that is none any more is ignored, one that is missing is asked
for, which costs one round trip.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar, cast

from quota_engine.commands import Command, SharedCommand
from quota_engine.keys import QuotaName

T = TypeVar("T")

#: So many quotas at most are remembered; then it begins anew.
QUOTAS_MAX = 10_000


class KnownPayers:
    """Payers by the quota that they were last seen to pay for. Kept until that pays itself."""

    def __init__(self) -> None:
        self._known: dict[QuotaName, tuple[QuotaName, ...]] = {}

    def send_along(self, command: Command[T]) -> Command[T]:
        """Return a command with the payers that are known of its quota, unless it has some."""
        if not self._known or not isinstance(command, SharedCommand) or command.payers:
            return command
        payers = self._known.get(command.quota)
        again: Any = command
        return command if payers is None else cast("Command[T]", replace(again, payers=payers))

    def note(self, command: Command[Any], result: Any) -> None:
        """Keep who was sent along when one of them paid; forget them when none did."""
        if not isinstance(command, SharedCommand) or not command.payers:
            return
        if getattr(result, "paid_by", None) is None:
            if command.is_admission:
                self._known.pop(command.quota, None)
            return
        if len(self._known) >= QUOTAS_MAX:
            self._known.clear()
        self._known[command.quota] = command.payers
