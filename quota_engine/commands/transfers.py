"""Quota moved between accounts: what is asked, what the scripts are told, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from quota_engine.amounts import AMOUNT_MAX
from quota_engine.commands.arguments import (
    details_text,
    fingerprint,
    writing_argv,
    writing_keys,
)
from quota_engine.commands.base import Argument, Command, Context, Reply
from quota_engine.commands.replies import barred
from quota_engine.commands.shares import Share, share_keys
from quota_engine.commands.snapshots import Operation
from quota_engine.errors import EngineFault, QuotaInsufficientError
from quota_engine.events import arriving_parts
from quota_engine.instants import from_ms_or_none
from quota_engine.keys import QuotaName, ShardKeys

#: Grants as which the units of one transfer may arrive.
PARTS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferredPart:
    """Units that arrived as one grant, with the terms they had. ``expires_at`` None: never."""

    amount: int
    priority: int
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """
    Units of one quota type that left one account and arrived at another.

    ``balance`` and ``version``: of the quota they left, right after it. ``replayed``: the units
    had left before, by the same transfer id.
    """

    transfer_id: str
    from_account: str
    to_account: str
    quota_type: str
    amount: int
    parts: tuple[TransferredPart, ...]
    balance: int
    version: int
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A transfer as its caller wants it. ``reference`` and ``actor``: both entries keep them."""

    transfer_id: str
    source: QuotaName
    target: QuotaName
    amount: int
    reference: str | None = None
    actor: str | None = None

    @property
    def fingerprint(self) -> str:
        """The hash of what is asked."""
        return fingerprint("transfer", self.target.account, self.amount)

    @property
    def arrival_id(self) -> str:
        """The operation by which the units arrive; two accounts may use one transfer id."""
        return f"{self.transfer_id}:in:{fingerprint('from', self.source)}"

    @property
    def return_id(self) -> str:
        """The operation by which they come back."""
        return f"{self.transfer_id}:back"

    @property
    def sent_details(self) -> str:
        """JSON kept with the entry of what leaves."""
        told = {"to": self.target.account, "reference": self.reference, "actor": self.actor}
        return details_text(told)

    def arrival_details(self, account: str) -> str:
        """Return the JSON kept with what arrives, from ``account``."""
        told = {"source": "transfer", "reference": self.reference, "actor": self.actor}
        return details_text({**told, "from": account})

    def transferred(self, answer: Operation, *, replayed: bool) -> Transferred:
        """Return the result that the answer to its leaving stands for."""
        return Transferred(
            transfer_id=self.transfer_id,
            from_account=self.source.account,
            to_account=self.target.account,
            quota_type=self.source.quota_type,
            amount=answer.amount,
            parts=tuple(
                TransferredPart(
                    amount=units, priority=priority, expires_at=from_ms_or_none(expires_at_ms)
                )
                for units, priority, expires_at_ms in arriving_parts(answer.terms) or ()
            ),
            balance=answer.balance,
            version=answer.version,
            replayed=replayed,
        )


@dataclass(frozen=True, slots=True)
class Sent:
    """What left a quota: the answer, which tells on what terms it is to arrive."""

    answer: Operation
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOut(Command[Sent]):
    """Let units leave for another shard. See ``lua/transfer_out.lua``."""

    script: ClassVar[str] = "transfer_out"
    is_sent_again: ClassVar[bool] = True

    quota: QuotaName
    transfer: Transfer
    parts_max: int = PARTS_MAX

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return writing_keys(keys, self.quota)

    def argv(self, context: Context) -> Sequence[Argument]:
        asked = self.transfer
        what = (asked.transfer_id, asked.fingerprint, asked.amount, self.parts_max)
        return (*writing_argv(context, self.quota), *what, asked.sent_details, context.outbox_max)

    def parse(self, reply: Reply) -> Sent:
        return _sent(self.transfer, "SENT", reply)

    def unknown(self) -> Sent:
        return _sent(self.transfer, "SENT", ["DENIED", "0"])


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferQuota(Command[Sent]):
    """Move units between two quotas of one shard. See ``lua/transfer_quota.lua``."""

    script: ClassVar[str] = "transfer_quota"
    is_sent_again: ClassVar[bool] = True

    quota: QuotaName
    transfer: Transfer
    parts_max: int = PARTS_MAX
    grants_max: int = 5_000

    @property
    def others(self) -> tuple[QuotaName, ...]:
        """The units arrive in a quota that may have to be made."""
        return (self.transfer.target,)

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        there = (Share(self.transfer.target),)
        return (*writing_keys(keys, self.quota), *share_keys(keys, there))

    def argv(self, context: Context) -> Sequence[Argument]:
        asked = self.transfer
        arrival = (arrival_print(asked, asked.source), asked.arrival_details(self.quota.account))
        return (
            *writing_argv(context, self.quota),
            *(asked.transfer_id, asked.fingerprint, asked.amount, self.parts_max),
            *(asked.sent_details, context.outbox_max, str(asked.target), asked.arrival_id),
            *(self.grants_max, " ".join(arrival)),
        )

    def parse(self, reply: Reply) -> Sent:
        return _sent(self.transfer, "TRANSFERRED", reply)

    def unknown(self) -> Sent:
        return _sent(self.transfer, "TRANSFERRED", ["DENIED", "0"])


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferIn(Command[Operation]):
    """Let units arrive that have left, or come back. See ``lua/transfer_in.lua``."""

    script: ClassVar[str] = "transfer_in"
    is_sent_again: ClassVar[bool] = True

    quota: QuotaName
    transfer: Transfer
    #: The parts, as the entry of what left tells them.
    terms: str
    is_back: bool = False
    grants_max: int = 5_000

    @property
    def arrival_id(self) -> str:
        """The operation id."""
        return self.transfer.return_id if self.is_back else self.transfer.arrival_id

    @property
    def may_create(self) -> bool:
        return True

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return writing_keys(keys, self.quota)

    def argv(self, context: Context) -> Sequence[Argument]:
        asked = self.transfer
        where = asked.target if self.is_back else asked.source
        print_, details = arrival_print(asked, where), asked.arrival_details(where.account)
        what = (self.arrival_id, print_, asked.amount, self.terms)
        # what comes back was there before
        most = AMOUNT_MAX if self.is_back else self.grants_max
        rest = (most, asked.transfer_id, details, int(self.is_back))
        return (*writing_argv(context, self.quota), *what, *rest)

    def parse(self, reply: Reply) -> Operation:
        match reply:
            case ["ARRIVED" | "REPLAYED", *lines]:
                return Operation.parse(self.arrival_id, lines)
            case ["BARRED", *told]:
                raise barred(told)
        raise EngineFault(f"transfer_in answered {reply!r}")


def transfer_of(source: QuotaName, transfer_id: str, amount: int, details: str) -> Transfer:
    """Return the transfer that the entry of what left tells: its id, amount and details."""
    told = json.loads(details)
    return Transfer(
        transfer_id=transfer_id,
        source=source,
        target=QuotaName(str(told["to"]), source.quota_type),
        amount=amount,
        reference=told.get("reference"),
        actor=told.get("actor"),
    )


def arrival_print(transfer: Transfer, where: QuotaName) -> str:
    """Return the hash of what arrives, and from where."""
    return fingerprint("transfer_in", transfer.transfer_id, where, transfer.amount)


def _sent(transfer: Transfer, outcome: str, reply: Reply) -> Sent:
    match reply:
        case [("REPLAYED" | "SENT" | "TRANSFERRED") as said, *lines] if said in (
            outcome,
            "REPLAYED",
        ):
            return Sent(Operation.parse(transfer.transfer_id, lines), said == "REPLAYED")
        case ["DENIED", available]:
            raise QuotaInsufficientError(
                transfer.source.account,
                transfer.source.quota_type,
                required=transfer.amount,
                available=int(available),
            )
        case ["BARRED", *told]:
            raise barred(told)
    raise EngineFault(f"a transfer answered {reply!r}")
