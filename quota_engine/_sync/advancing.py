# Written by tools/unasync.py from quota_engine/_async/advancing.py. Edit that file instead.
"""What follows from changes of subscriptions: grants are voided, and made as promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from quota_engine import flows
from quota_engine._sync.transport import Transport
from quota_engine.backing import SubscriptionStore
from quota_engine.commands import IssueGrant, VoidGrant
from quota_engine.errors import InvalidArgumentError, OperationCancelledError
from quota_engine.settings import Settings
from quota_engine.waiting import in_place


class Advancing:
    """
    Brings subscriptions to where their records say that they are.

    Every step may be done again, by anybody: who made a change and died leaves the rest to the
    schedule.
    """

    def __init__(self, transport: Transport, store: SubscriptionStore, settings: Settings) -> None:
        self._transport = transport
        self._store = store
        self._settings = settings

    def finish(self, subscription_id: str, now: datetime | None) -> bool:
        """Void what is to be voided, then promise and make what takes its place."""
        voids = in_place(self._store.voids_of, subscription_id)
        for void in voids:
            units = self._voided(void)
            rest = in_place(self._store.note_voided, subscription_id, void.grant_id, units, now)
            self.make(rest)
        if voids:
            done = in_place(self._store.renew, subscription_id, now)
            self.make(done.promised)
        return bool(voids)

    def make(self, promised: Sequence[IssueGrant]) -> None:
        """Make grants that were promised just now, by the caller."""
        for command in promised:
            self._transport.drive(flows.settled(self._limited(command)))

    def make_open(self, subscription_id: str) -> None:
        """Make what was promised by somebody else, who may have died before it was made."""
        for command in in_place(self._store.open_promises, subscription_id):
            try:
                self._transport.drive(flows.issued(self._limited(command)))
            except (InvalidArgumentError, OperationCancelledError):
                continue  # its period is over, or somebody has called it off

    def _voided(self, void: VoidGrant) -> int:
        """
        Void a grant; return how much was left of it, also if it had ended with that before.

        One that is only promised is made before.
        """
        open_ = in_place(self._store.promise_of, void.quota, void.grant_id)
        if open_ is not None:
            try:
                self._transport.drive(flows.issued(self._limited(open_)))
            except (InvalidArgumentError, OperationCancelledError):
                return open_.terms.amount  # it can never be made
        if units := self._transport.drive(flows.voided(void)):
            return units
        self._transport.drive(flows.booked(void.quota))
        return in_place(self._store.expired_units, void.quota, void.grant_id)

    def _limited(self, command: IssueGrant) -> IssueGrant:
        return replace(command, grants_max=self._settings.grants_max)
