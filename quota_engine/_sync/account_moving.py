# Written by tools/unasync.py from quota_engine/_async/account_moving.py. Edit that file instead.
"""The steps of a move of an account, in their order: each may be the last before a crash."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from quota_engine import flows
from quota_engine._sync.transport import Transport
from quota_engine.account_moves import AccountMove, Moving
from quota_engine.backing import Backing, MoveStore
from quota_engine.commands import (
    Action,
    Flow,
    PersistTail,
    ReadBalance,
    SetLimit,
    SetOverdraftLimit,
    Transfer,
    Transferred,
)
from quota_engine.commands.arguments import details_text
from quota_engine.commands.transfers import PARTS_MAX
from quota_engine.errors import (
    EngineUnavailableError,
    IdempotencyConflictError,
    InvalidArgumentError,
    QuotaInsufficientError,
)
from quota_engine.ids import new_id
from quota_engine.instants import from_ms
from quota_engine.keys import QuotaName, shard_of
from quota_engine.policies import field_of
from quota_engine.settings import Settings
from quota_engine.transferring import transferred
from quota_engine.waiting import in_place


class AccountMover:
    """Moves accounts that were told to move, as far as that goes now. Safe beside another one."""

    def __init__(self, transport: Transport, backing: Backing, settings: Settings) -> None:
        self._transport = transport
        self._backing = backing
        self._settings = settings

    def advance(self, move: AccountMove) -> AccountMove:
        """
        Bring what is still at the old place, and return the move as it is then.

        The old account is closed in Redis and all that it was given is in the ledger before
        anything is planned: so nothing is put in behind the plan's back.
        """
        drive, store, id_ = self._transport.drive, self._store, move.operation_id
        drive(flows.told(move.account))
        drive(persisted(move.account))
        for account in in_place(store.plan, id_, self._now()):
            drive(flows.told(account))
        quotas = in_place(store.quotas_of, id_)
        for moving in quotas:
            self._limit(moving, id_)
        for grant in in_place(store.unvoided, id_):
            drive(flows.voided(grant))
            in_place(store.note_voided, id_, grant.quota, grant.grant_id)
        drive(persisted(move.account))
        for promise in in_place(store.hand_over, id_, self._now()):
            with suppress(InvalidArgumentError):  # it has ended meanwhile
                drive(flows.issued(replace(promise, grants_max=self._settings.grants_max)))
        for moving in quotas:
            self.follow(moving.source, moving.target, move)
        drive(persisted(move.account))
        return in_place(store.finish, id_)

    def follow(self, source: QuotaName, target: QuotaName, move: AccountMove) -> int:
        """Transfer what is free in an old quota, and return how many units that was."""
        units = 0
        while True:
            balance = self._transport.drive(flows.settled(ReadBalance(quota=source)))
            arriving = sum(grant.remaining for grant in balance.grants[:PARTS_MAX])
            amount = min(balance.available, arriving)
            if amount <= 0:
                return units
            transfer = Transfer(
                transfer_id=new_id("transfer", self._transport.now_ms()),
                source=source,
                target=target,
                amount=amount,
                reference=move.operation_id,
                actor=move.operator,
            )
            try:
                self._transport.drive(self._transferred(transfer))
            except QuotaInsufficientError:  # somebody else brings it
                return units
            units += amount

    def _limit(self, moving: Moving, operation_id: str) -> None:
        """Give the new quota the overdraft limit and the limits of the old one."""
        now_ms = self._transport.now_ms()
        told = details_text({"reference": operation_id})
        commands: list[SetOverdraftLimit | SetLimit] = [
            SetLimit(
                quota=moving.target,
                operation_id=f"{operation_id}:{limit.key}",
                action=Action.SET,
                limit=replace(limit, since_ms=0, marks=()),
                at_ms=time.time_ns() // 1_000_000 if now_ms is None else now_ms,
                details=told,
            )
            for limit in moving.limits
        ]
        if moving.overdraft_limit != 0:
            commands.append(
                SetOverdraftLimit(
                    quota=moving.target,
                    operation_id=f"{operation_id}:limit",
                    overdraft_limit=moving.overdraft_limit,
                    details=told,
                )
            )
        for command in commands:
            with suppress(IdempotencyConflictError):  # it was set, and the old one changed since
                self._transport.drive(flows.settled(command))

    def _transferred(self, transfer: Transfer) -> Flow[Transferred]:
        opened, _ = self._transport.opening()
        if opened is None:
            raise EngineUnavailableError("the engine is closed")
        shards = {
            shard_of(quota.account, opened.shards) for quota in (transfer.source, transfer.target)
        }
        return transferred(
            transfer, is_one_shard=len(shards) == 1, grants_max=self._settings.grants_max
        )

    def _now(self) -> datetime | None:
        now_ms = self._transport.now_ms()
        return None if now_ms is None else from_ms(now_ms)

    @property
    def _store(self) -> MoveStore:
        return self._backing.move_store


def persisted(account: str) -> Flow[None]:
    """Have the ledger know all that has happened to an account's shard by now."""
    yield PersistTail(field_of(account))
