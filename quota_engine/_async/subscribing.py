"""Subscriptions, as the engine's callers see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from quota_engine._async.advancing import AsyncAdvancing
from quota_engine._async.calling import AsyncCalling
from quota_engine._async.planning import AsyncPlans
from quota_engine._async.transport import AsyncTransport
from quota_engine.arguments import checked_text
from quota_engine.backing import Backing
from quota_engine.errors import SubscriptionNotFoundError
from quota_engine.ids import checked_account, new_id
from quota_engine.instants import from_ms, to_ms
from quota_engine.periods import checked_time_zone
from quota_engine.plans import checked_plan_name
from quota_engine.settings import Settings
from quota_engine.subscribing import Begin, Done, Subscription, SubscriptionChange, Wanted
from quota_engine.subscription_actions import CANCEL, CHANGE, PAUSE, RESUME
from quota_engine.subscriptions import (
    NOW,
    checked_subscription_id,
    checked_when,
)
from quota_engine.waiting import in_thread

#: Subscriptions of one listing.
LISTED_MAX = 1_000


class AsyncSubscribing(AsyncCalling):
    """
    Plans, and who has which.

    Each of these calls is recorded in PostgreSQL first, with the grants that follow from it. After
    ``EngineUnavailableError`` or ``QuotaFrozenError`` it may be recorded: then the workers do the
    rest, and the same call with the same id is safe.
    """

    def __init__(self, transport: AsyncTransport, backing: Backing, settings: Settings) -> None:
        super().__init__(transport, backing, settings)
        self._subscriptions = backing.plan_store
        self._advancing = AsyncAdvancing(transport, backing.plan_store, settings)
        self.plans = AsyncPlans(backing, settings)

    async def subscribe(
        self,
        account: str,
        plan: str,
        *,
        starts_at: datetime | None = None,
        time_zone: str = "UTC",
        subscription_id: str | None = None,
        actor: str | None = None,
        reference: str | None = None,
    ) -> Subscription:
        """
        Give an account a plan, from ``starts_at`` (now) on, and its first period's grants.

        ``starts_at`` in ``time_zone`` is the anchor of all periods; one in the past gives what is
        running now. Idempotent by ``subscription_id``; other arguments by it raise
        ``IdempotencyConflictError``. An unknown plan raises ``PlanNotFoundError``, one that is not
        offered ``SubscriptionRefusedError``.
        """
        zone = checked_time_zone(time_zone)
        begin = Begin(
            subscription_id=self._subscription_id(subscription_id),
            account=checked_account(account),
            plan=checked_plan_name(plan),
            starts_at=None if starts_at is None else from_ms(to_ms(starts_at, name="starts_at")),
            time_zone=str(zone),
        )
        wanted = self._wanted(begin.subscription_id, actor, reference)
        await self._transport.connect()
        done = await in_thread(self._subscriptions.subscribe, begin, wanted, self._instant())
        return await self._followed(done)

    async def change_subscription(
        self,
        subscription: Subscription | str,
        plan: str,
        *,
        when: str = NOW,
        operation_id: str | None = None,
        actor: str | None = None,
        reference: str | None = None,
    ) -> Subscription:
        """
        Give a subscription another plan, ``now`` or at ``period_end``.

        At once, what the running period has used counts against what the new plan gives; open
        holds keep what they have. A plan of other periods begins a new one with the change.
        Idempotent by ``operation_id``. Raises ``SubscriptionRefusedError`` for a subscription that
        has ended, will end, or is paused.
        """
        checked = checked_plan_name(plan)
        wanted = self._wanted(operation_id, actor, reference)
        change = replace(wanted, verb=CHANGE, when=checked_when(when), plan=checked)
        return await self._act(subscription, change)

    async def cancel_subscription(
        self,
        subscription: Subscription | str,
        *,
        when: str = "period_end",
        operation_id: str | None = None,
        actor: str | None = None,
        reference: str | None = None,
    ) -> Subscription:
        """
        End a subscription at ``period_end``, or ``now``, which voids what is left of the period.

        What was rolled over and what was given for good stays. Until its end, ``resume`` takes the
        cancellation back. Idempotent by ``operation_id``.
        """
        wanted = self._wanted(operation_id, actor, reference)
        return await self._act(subscription, replace(wanted, verb=CANCEL, when=checked_when(when)))

    async def pause_subscription(
        self,
        subscription: Subscription | str,
        *,
        operation_id: str | None = None,
        actor: str | None = None,
        reference: str | None = None,
    ) -> Subscription:
        """Renew a subscription no more until it is resumed; the running period runs out."""
        wanted = self._wanted(operation_id, actor, reference)
        return await self._act(subscription, replace(wanted, verb=PAUSE))

    async def resume_subscription(
        self,
        subscription: Subscription | str,
        *,
        operation_id: str | None = None,
        actor: str | None = None,
        reference: str | None = None,
    ) -> Subscription:
        """
        Let a paused subscription go on, or take back a cancellation that has not come.

        While the period in which it was paused still runs, it goes on as if nothing had been;
        later, a new period begins now, and is the new anchor.
        """
        wanted = self._wanted(operation_id, actor, reference)
        return await self._act(subscription, replace(wanted, verb=RESUME))

    async def find_subscription(self, subscription_id: str) -> Subscription:
        """Return a subscription; raise ``SubscriptionNotFoundError`` where there is none."""
        id_ = checked_subscription_id(subscription_id)
        found = await in_thread(self._subscriptions.find_subscription, id_, self._instant())
        if found is None:
            raise SubscriptionNotFoundError(
                f"there is no subscription {id_}; `quota-engine subscriptions list`"
            )
        return found

    async def subscriptions(
        self, account: str | None = None, *, limit: int = LISTED_MAX
    ) -> Sequence[Subscription]:
        """Return an account's subscriptions, or everybody's, oldest first."""
        whose = None if account is None else checked_account(account)
        return await in_thread(
            self._subscriptions.list_subscriptions, whose, self._instant(), limit
        )

    async def subscription_history(self, subscription_id: str) -> Sequence[SubscriptionChange]:
        """Return what was done to a subscription, when and by whom, oldest first."""
        id_ = checked_subscription_id(subscription_id)
        return await in_thread(self._subscriptions.subscription_history, id_)

    async def _act(self, subscription: Subscription | str, wanted: Wanted) -> Subscription:
        given = (
            subscription.subscription_id
            if isinstance(subscription, Subscription)
            else subscription
        )
        id_ = checked_subscription_id(given)
        await self._transport.connect()
        await self._advancing.finish(id_, self._instant())  # what somebody else has left undone
        done = await in_thread(self._subscriptions.act, id_, wanted, self._instant())
        return await self._followed(done)

    async def _followed(self, done: Done) -> Subscription:
        """Do what follows from an operation."""
        id_ = done.subscription.subscription_id
        now = self._instant()
        if done.subscription.replayed:  # who did it first may have died at any step
            await self._advancing.make_open(id_)
            renewed = await in_thread(self._subscriptions.renew, id_, now)
            await self._advancing.make(renewed.promised)
        else:
            await self._advancing.make(done.promised)
        await self._advancing.finish(id_, now)
        return done.subscription

    def _subscription_id(self, given: str | None) -> str:
        if given is None:
            return new_id("sub", self._transport.now_ms())
        return checked_subscription_id(given)

    def _wanted(
        self, operation_id: str | None, actor: str | None, reference: str | None
    ) -> Wanted:
        return Wanted(
            operation_id=self._id(operation_id, "op"),
            actor=checked_text(actor, name="actor"),
            reference=checked_text(reference, name="reference"),
        )

    def _instant(self) -> datetime | None:
        now_ms = self._transport.now_ms()
        return None if now_ms is None else from_ms(now_ms)
