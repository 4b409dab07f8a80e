# Written by tools/unasync.py from quota_engine/_async/giving_back.py. Edit that file instead.
"""What follows when an order is given back: what is left of its grants is voided."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from quota_engine import flows
from quota_engine._sync.transport import Transport
from quota_engine.backing import SaleStore
from quota_engine.commands import VoidGrant
from quota_engine.commands.arguments import details_text
from quota_engine.errors import IdempotencyConflictError
from quota_engine.packages import (
    PAID,
    REFUNDED,
    Purchase,
    RefundedLine,
    RefundedOrder,
    issue_of,
)
from quota_engine.settings import Settings
from quota_engine.waiting import in_place


class GivingBack:
    """
    Gives orders back. It is recorded first, and every step may be done again, by anybody.

    So what a caller has left undone is finished by the schedule.
    """

    def __init__(self, transport: Transport, store: SaleStore, settings: Settings) -> None:
        self._transport = transport
        self._store = store
        self._settings = settings

    def give_back(
        self, order_id: str, actor: str | None = None, reason: str | None = None
    ) -> RefundedOrder:
        """Void what is left of an order's grants; raise ``PurchaseRefusedError`` if never paid."""
        order, whose, why = in_place(self._store.begin_refund, order_id, actor, reason)
        lines = []
        for line in order.lines:
            if order.state == PAID:  # a grant that is still promised comes first
                self.make(line)
            lines.append(self._voided(line, whose, why))
        closed = in_place(self._store.close_order, order_id, state=REFUNDED)
        return RefundedOrder(
            order_id=order_id,
            account=order.account,
            lines=tuple(lines),
            replayed=closed.replayed,
        )

    def make(self, line: Purchase) -> None:
        """Issue a line's grant unless it was; one that moved with its account has other terms."""
        issue = replace(issue_of(line), grants_max=self._settings.grants_max)
        with suppress(IdempotencyConflictError):
            self._transport.drive(flows.issued(issue))

    def _voided(self, line: Purchase, actor: str | None, reason: str | None) -> RefundedLine:
        told = {"reference": line.order_id, "actor": actor, "reason": reason}
        details = details_text(told)
        quota = issue_of(line).quota
        command = VoidGrant(quota=quota, grant_id=line.grant_id, details=details)
        voided = self._transport.drive(flows.voided(command))
        self._transport.drive(flows.booked(quota))
        expired = in_place(self._store.expired_units, quota, line.grant_id)
        return RefundedLine(
            line=line.line,
            package=line.package,
            grant_id=line.grant_id,
            voided=voided,
            expired=expired,
            used=line.units - voided - expired,
        )
