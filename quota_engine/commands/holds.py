"""The life of a hold: placed, extended, then captured or released."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from quota_engine.commands.arguments import fingerprint, writing_argv
from quota_engine.commands.base import Argument, Context, Reply
from quota_engine.commands.quotas import Allocation, allocations_of
from quota_engine.commands.replies import barred, denial, error_from, exceeding
from quota_engine.commands.shares import (
    ScopeChange,
    Shadowed,
    Share,
    SharedCommand,
    payer_told,
    shadowed_in,
    shadowed_of,
    shares_print,
    shares_text,
    split_answers,
)
from quota_engine.commands.snapshots import Operation
from quota_engine.errors import EngineFault, QuotaInsufficientError
from quota_engine.instants import from_ms
from quota_engine.keys import QuotaName
from quota_engine.payers import payer_in, payer_word


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedHold:
    """An open hold. ``amount`` in units of the quota type."""

    hold_id: str
    account: str
    quota_type: str
    amount: int
    expires_at: datetime
    #: None: not known, Redis was away.
    balance: int | None
    version: int
    replayed: bool = False
    #: Redis was away: admitted by the offline allowance of this machine. ``version`` is 0.
    offline: bool = False
    #: It would have been placed; nothing was, so there is nothing to capture.
    dry_run: bool = False
    #: What it asks of further quotas: of other types, of the accounts above.
    shares: tuple[Share, ...] = ()
    #: What it did to those of them that limit it.
    scopes: tuple[ScopeChange, ...] = ()
    #: Which of all these quotas would have refused it, but are in the shadow.
    shadowed: tuple[Shadowed, ...] = ()
    #: The account that pays in place of its own quota, which is short; None: its own pays.
    paid_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedHold:
    """A hold after it grew or was renewed. ``amount`` is its total."""

    hold_id: str
    account: str
    quota_type: str
    amount: int
    expires_at: datetime
    #: Admitted while Redis was away, as ``PlacedHold.offline``.
    offline: bool = False
    #: As ``PlacedHold.shares``, with the totals now.
    shares: tuple[Share, ...] = ()
    #: Which quotas would have refused the growth, but are in the shadow. A repeat does not tell.
    shadowed: tuple[Shadowed, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedHold:
    """
    What a hold was charged.

    ``amount`` is what was used, ``shortfall`` the part of it that could not be collected.
    ``late``: the hold was no longer open. ``operation_id`` names the charge in the ledger.
    """

    hold_id: str
    account: str
    quota_type: str
    operation_id: str
    amount: int
    shortfall: int
    late: bool
    #: None: not known, the charge waits in the spool.
    balance: int | None
    version: int
    allocations: tuple[Allocation, ...]
    replayed: bool = False
    #: Redis was away: the charge waits in the spool of this machine. ``version`` is 0.
    spooled: bool = False
    #: What it did to further quotas.
    scopes: tuple[ScopeChange, ...] = ()
    #: The account that paid in place of its own quota; None: its own did.
    paid_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedHold:
    """A hold given back. ``amount`` is 0 when it had been closed before and nothing changed."""

    hold_id: str
    account: str
    quota_type: str
    amount: int
    replayed: bool = False
    #: Redis was away: the release waits in the spool of this machine; ``amount`` is 0 as yet.
    spooled: bool = False
    #: What it did to further quotas.
    scopes: tuple[ScopeChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceHold(SharedCommand[PlacedHold]):
    """Set quota aside. See ``lua/place_hold.lua``."""

    script: ClassVar[str] = "place_hold"
    is_sent_again: ClassVar[bool] = True
    is_admission: ClassVar[bool] = True

    quota: QuotaName
    hold_id: str
    amount: int
    ttl_ms: int
    details: str = ""
    shares: tuple[Share, ...] = ()
    payers: tuple[QuotaName, ...] = ()
    #: Only say whether it would be admitted.
    is_dry: bool = False

    def argv(self, context: Context) -> Sequence[Argument]:
        asked = (self.amount, *shares_print(self.shares), self.ttl_ms, self.details)
        rest = (self.hold_id, fingerprint("place_hold", *asked), self.amount, self.ttl_ms)
        others = shares_text(self.quota, self.shares, self.payers)
        return (
            *writing_argv(context, self.quota),
            *(*rest, self.details, context.outbox_max, others, int(self.is_dry)),
            context.unenforced,
        )

    def parse(self, reply: Reply) -> PlacedHold:
        match reply:
            case ["ADMITTED", expires_at_ms, balance, version, *told]:
                return PlacedHold(
                    hold_id=self.hold_id,
                    account=self.quota.account,
                    quota_type=self.quota.quota_type,
                    amount=self.amount,
                    expires_at=from_ms(int(expires_at_ms)),
                    balance=int(balance),
                    version=int(version),
                    dry_run=True,
                    shares=self.shares,
                    shadowed=shadowed_of(told),
                    paid_by=payer_told(self.quota, told),
                )
            case ["PLACED" | "REPLAYED" as outcome, *lines]:
                own, scopes = split_answers(lines)
                answer = Operation.parse(self.hold_id, own)
                return PlacedHold(
                    hold_id=self.hold_id,
                    account=self.quota.account,
                    quota_type=self.quota.quota_type,
                    amount=answer.amount,
                    expires_at=from_ms(int(answer.terms)),
                    balance=answer.balance,
                    version=answer.version,
                    replayed=outcome == "REPLAYED",
                    shares=self.shares,
                    scopes=scopes,
                    shadowed=shadowed_in(self.quota, lines),
                    paid_by=payer_in(answer.flags),
                )
            case ["DENIED", *told]:
                raise denial(told)
            case ["BARRED", *told]:
                raise barred(told)
            case ["EXCEEDED", *told]:
                raise exceeding(told)
        raise EngineFault(f"place_hold answered {reply!r}")

    def unknown(self) -> PlacedHold:
        raise self.denied(0)

    def denied(self, available: int) -> QuotaInsufficientError:
        """Return the refusal of this hold."""
        account, quota_type = self.quota.account, self.quota.quota_type
        return QuotaInsufficientError(
            account, quota_type, required=self.amount, available=available
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendHold(SharedCommand[ExtendedHold]):
    """Let a hold grow or live longer. See ``lua/extend_hold.lua``."""

    script: ClassVar[str] = "extend_hold"
    is_sent_again: ClassVar[bool] = True

    quota: QuotaName
    hold_id: str
    operation_id: str
    amount: int = 0
    ttl_ms: int = 0
    shares: tuple[Share, ...] = ()
    payers: tuple[QuotaName, ...] = ()

    def argv(self, context: Context) -> Sequence[Argument]:
        asked = (self.hold_id, self.amount, *shares_print(self.shares), self.ttl_ms)
        rest = (self.operation_id, fingerprint("extend_hold", *asked), self.amount, self.ttl_ms)
        others = shares_text(self.quota, self.shares, self.payers)
        return (
            *writing_argv(context, self.quota),
            *(self.hold_id, *rest, context.outbox_max, others, context.unenforced),
        )

    def parse(self, reply: Reply) -> ExtendedHold:
        match reply:
            case ["EXTENDED", amount, expires_at_ms, *told]:
                return ExtendedHold(
                    hold_id=self.hold_id,
                    account=self.quota.account,
                    quota_type=self.quota.quota_type,
                    amount=int(amount),
                    expires_at=from_ms(int(expires_at_ms)),
                    shares=self.shares,
                    shadowed=shadowed_of(told),
                )
            case ["DENIED", *told]:
                raise denial(told)
            case ["BARRED", *told]:
                raise barred(told)
            case ["EXCEEDED", *told]:
                raise exceeding(told)
        raise EngineFault(f"extend_hold answered {reply!r}")

    def unknown(self) -> ExtendedHold:
        raise error_from(f"HOLD_NOT_FOUND {self.hold_id}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureHold(SharedCommand[CapturedHold]):
    """Charge what was used of a hold. See ``lua/capture_hold.lua``."""

    script: ClassVar[str] = "capture_hold"
    is_sent_again: ClassVar[bool] = True

    quota: QuotaName
    hold_id: str
    operation_id: str
    amount: int
    is_final: bool = True
    #: The ledger has told that the hold was placed once: charge it although Redis forgot it.
    is_known: bool = False
    details: str = ""
    shares: tuple[Share, ...] = ()
    payers: tuple[QuotaName, ...] = ()
    #: The fingerprint of the capture that this one makes again, as a debit has it.
    fingerprint_before: str = ""
    #: The account that has paid already; None: who pays for the hold, or can.
    paid_by: str | None = None

    @property
    def fingerprint(self) -> str:
        """The hash of what makes this capture this capture."""
        if self.fingerprint_before:
            return self.fingerprint_before
        used = (self.amount, *shares_print(self.shares))
        return fingerprint("capture_hold", self.hold_id, *used, self.is_final, self.details)

    def argv(self, context: Context) -> Sequence[Argument]:
        flags = (int(self.is_final), int(self.is_known))
        rest = (self.hold_id, self.operation_id, self.fingerprint, self.amount, *flags)
        others = shares_text(self.quota, self.shares, self.payers)
        told = (self.details, others, payer_word(self.paid_by or ""))
        return (*writing_argv(context, self.quota), *rest, *told)

    def parse(self, reply: Reply) -> CapturedHold:
        match reply:
            case ["CAPTURED" | "REPLAYED" as outcome, *lines]:
                own, scopes = split_answers(lines)
                answer = Operation.parse(self.operation_id, own)
                return self.captured(answer, replayed=outcome == "REPLAYED", scopes=scopes)
        raise EngineFault(f"capture_hold answered {reply!r}")

    @property
    def may_create(self) -> bool:
        """What was used must be recorded, even where the ledger has lost the account."""
        return self.is_known

    def unknown(self) -> CapturedHold:
        raise error_from(f"HOLD_NOT_FOUND {self.hold_id}")

    def captured(
        self, answer: Operation, *, replayed: bool, scopes: tuple[ScopeChange, ...] = ()
    ) -> CapturedHold:
        """Return the result that ``answer``, of Redis or of the ledger, stands for."""
        return CapturedHold(
            hold_id=self.hold_id,
            account=self.quota.account,
            quota_type=self.quota.quota_type,
            operation_id=self.operation_id,
            amount=answer.amount,
            shortfall=answer.shortfall,
            late="late" in answer.flags.split(),
            balance=answer.balance,
            version=answer.version,
            allocations=allocations_of(answer.movements),
            replayed=replayed,
            scopes=scopes,
            paid_by=payer_in(answer.flags),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseHold(SharedCommand[ReleasedHold]):
    """Give a hold back unused. See ``lua/release_hold.lua``."""

    script: ClassVar[str] = "release_hold"
    is_sent_again: ClassVar[bool] = True

    quota: QuotaName
    hold_id: str
    details: str = ""
    shares: tuple[Share, ...] = ()
    payers: tuple[QuotaName, ...] = ()

    @property
    def operation_id(self) -> str:
        """A hold is released once: the operation takes its id from the hold."""
        return f"{self.hold_id}:release"

    @property
    def fingerprint(self) -> str:
        """The hash of what makes this release this release."""
        return fingerprint("release_hold", self.hold_id, *shares_print(self.shares))

    def argv(self, context: Context) -> Sequence[Argument]:
        rest = (self.hold_id, self.fingerprint, self.details)
        others = shares_text(self.quota, self.shares, self.payers)
        return (*writing_argv(context, self.quota), *rest, others)

    def parse(self, reply: Reply) -> ReleasedHold:
        match reply:
            case ["RELEASED" | "REPLAYED" as outcome, *lines]:
                own, scopes = split_answers(lines)
                answer = Operation.parse(self.operation_id, own)
                is_replayed = outcome == "REPLAYED"
                return self.released(answer.amount, replayed=is_replayed, scopes=scopes)
            case ["CLOSED"]:
                return self.released(0, replayed=False)
        raise EngineFault(f"release_hold answered {reply!r}")

    def unknown(self) -> ReleasedHold:
        raise error_from(f"HOLD_NOT_FOUND {self.hold_id}")

    def released(
        self, amount: int, *, replayed: bool, scopes: tuple[ScopeChange, ...] = ()
    ) -> ReleasedHold:
        """Return the result of giving ``amount`` units back."""
        return ReleasedHold(
            hold_id=self.hold_id,
            account=self.quota.account,
            quota_type=self.quota.quota_type,
            amount=amount,
            replayed=replayed,
            scopes=scopes,
        )
