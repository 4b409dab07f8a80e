# Written by tools/unasync.py from quota_engine/_async/moving.py. Edit that file instead.
"""The call that moves quota from one account to another."""

from __future__ import annotations

from quota_engine._sync.calling import Calling
from quota_engine.amounts import checked_amount
from quota_engine.arguments import checked_text
from quota_engine.commands import Transfer, Transferred
from quota_engine.errors import EngineUnavailableError, InvalidArgumentError
from quota_engine.keys import shard_of
from quota_engine.transferring import transferred

#: Ids of what arrives are made of a transfer's, so it is shorter than others.
TRANSFER_ID_LENGTH_MAX = 96


class Moving(Calling):
    """Transfers."""

    def transfer(
        self,
        from_account: str,
        to_account: str,
        quota_type: str,
        amount: int,
        transfer_id: str | None = None,
        *,
        reference: str | None = None,
        actor: str | None = None,
    ) -> Transferred:
        """
        Move units from one account to another; they keep the priority and the end they have.

        They are taken from grants in burn-down order: never what is held, nor what only an
        overdraft limit admits: else ``QuotaInsufficientError``. What arrives pays debt first. All
        or nothing where both accounts are in one shard; else the units leave first, and after an
        ``EngineUnavailableError`` the workers bring them, or a repeat does. Idempotent by
        ``transfer_id``, however late. ``TransferRefusedError``: the other account could not take
        them, and they are back. Reads the ledger first.
        """
        transfer = Transfer(
            transfer_id=self._id(transfer_id, "transfer"),
            source=self._quota(from_account, quota_type),
            target=self._quota(to_account, quota_type),
            amount=checked_amount(amount),
            reference=checked_text(reference, name="reference"),
            actor=checked_text(actor, name="actor"),
        )
        if len(transfer.transfer_id) > TRANSFER_ID_LENGTH_MAX:
            raise InvalidArgumentError(
                f"transfer id must have at most {TRANSFER_ID_LENGTH_MAX} characters, not"
                f" {len(transfer.transfer_id)}"
            )
        if transfer.source == transfer.target:
            raise InvalidArgumentError(f"{from_account} cannot transfer quota to itself")
        self._transport.connect()
        opened, _ = self._transport.opening()
        if opened is None:
            raise EngineUnavailableError("the engine is closed")
        homes = {
            shard_of(quota.account, opened.shards) for quota in (transfer.source, transfer.target)
        }
        flow = transferred(
            transfer, is_one_shard=len(homes) == 1, grants_max=self._settings.grants_max
        )
        return self._transport.drive(flow, "transfer")
