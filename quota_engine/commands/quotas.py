"""What is done to a quota as a whole: debited, read, limited, caught up with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from quota_engine.commands.arguments import fingerprint, writing_argv, writing_keys
from quota_engine.commands.base import Argument, Command, Context, Reply
from quota_engine.commands.replies import barred, denial, exceeding
from quota_engine.commands.shares import (
    ScopeChange,
    Shadowed,
    Share,
    SharedCommand,
    shadowed_in,
    shares_print,
    shares_text,
    split_answers,
)
from quota_engine.commands.snapshots import GrantState, Operation
from quota_engine.errors import EngineFault, QuotaInsufficientError
from quota_engine.events import UNLIMITED, Movement
from quota_engine.instants import NEVER_MS, from_ms, from_ms_or_none
from quota_engine.keys import QuotaName, ShardKeys
from quota_engine.payers import payer_in, payer_word

_STATES = {"p": "pending", "l": "live", "e": "expired", "v": "voided"}


@dataclass(frozen=True, slots=True)
class Allocation:
    """Units of a charge that one grant paid."""

    grant_id: str
    amount: int


def allocations_of(movements: Iterable[Movement]) -> tuple[Allocation, ...]:
    """Return which grants paid how much, from what an entry moved."""
    return tuple(Allocation(move.grant_id, move.consumed) for move in movements if move.consumed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Debited:
    """What a debit took: ``amount`` was used, ``shortfall`` of it could not be collected."""

    operation_id: str
    account: str
    quota_type: str
    amount: int
    shortfall: int
    #: None: not known, the debit waits in the spool.
    balance: int | None
    version: int
    allocations: tuple[Allocation, ...]
    replayed: bool = False
    #: Redis was away: the debit waits in the spool of this machine. ``version`` is 0.
    spooled: bool = False
    #: What it did to further quotas: of other types, of the accounts above.
    scopes: tuple[ScopeChange, ...] = ()
    #: Which of all these quotas would have refused it, but are in the shadow.
    shadowed: tuple[Shadowed, ...] = ()
    #: The account that paid in place of its own quota, which is short; None: its own did.
    paid_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A grant of a quota now. ``remaining`` in units; what holds reserve of it is apart."""

    grant_id: str
    remaining: int
    reserved: int
    priority: int
    starts_at: datetime
    #: None: never.
    expires_at: datetime | None
    created_at: datetime
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """
    What an account has of one quota type at one instant, in units.

    ``spendable`` is None when the overdraft limit is unlimited. ``grants`` are the live ones with
    something remaining, in burn-down order; ``pending_grants`` start later.
    """

    account: str
    quota_type: str
    balance: int = 0
    held: int = 0
    debt: int = 0
    #: None: unlimited.
    overdraft_limit: int | None = 0
    #: Why the quota is frozen; empty when it is not.
    frozen: str = ""
    version: int = 0
    #: Whether it has ever had a grant.
    is_granted: bool = False
    #: Whether it has limits.
    is_limited: bool = False
    #: When it was read, by the clock that decides; None: nobody knows the quota.
    at: datetime | None = field(default=None, compare=False)
    grants: tuple[Grant, ...] = ()
    pending_grants: tuple[Grant, ...] = ()

    @property
    def available(self) -> int:
        """Balance - held."""
        return self.balance - self.held

    @property
    def spendable(self) -> int | None:
        """Available + overdraft limit: the one number a gate compares with."""
        if self.overdraft_limit is None:
            return None
        return self.available + self.overdraft_limit

    @property
    def limits_others(self) -> bool:
        """Whether calls on the accounts below are admitted by this quota, too."""
        return self.gates or self.is_limited

    @property
    def gates(self) -> bool:
        """Whether it must have what calls take; else it only counts."""
        return self.is_granted or self.overdraft_limit != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OverdraftLimit:
    """How far below zero a quota may go now. None: unlimited."""

    account: str
    quota_type: str
    overdraft_limit: int | None
    version: int


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """How many due changes were applied, and whether more are due."""

    applied: int
    is_more_due: bool
    next_change_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Debit(SharedCommand[Debited]):
    """Take units at once. See ``lua/debit.lua``."""

    script: ClassVar[str] = "debit"
    is_sent_again: ClassVar[bool] = True
    is_admission: ClassVar[bool] = True
    already_used: ClassVar[bool] = False

    quota: QuotaName
    operation_id: str
    amount: int
    details: str = ""
    shares: tuple[Share, ...] = ()
    payers: tuple[QuotaName, ...] = ()

    @property
    def fingerprint(self) -> str:
        """The hash of what makes this debit this debit."""
        taken = (self.amount, *shares_print(self.shares))
        return fingerprint("debit", *taken, self.already_used, self.details)

    def argv(self, context: Context) -> Sequence[Argument]:
        rest = (self.operation_id, self.fingerprint, self.amount, self.details)
        others = shares_text(self.quota, self.shares, self.payers)
        more = (context.outbox_max, others, context.unenforced)
        return (*writing_argv(context, self.quota), *rest, *more)

    def parse(self, reply: Reply) -> Debited:
        match reply:
            case ["DEBITED" | "REPLAYED" as outcome, *lines]:
                own, scopes = split_answers(lines)
                answer = Operation.parse(self.operation_id, own)
                return Debited(
                    operation_id=self.operation_id,
                    account=self.quota.account,
                    quota_type=self.quota.quota_type,
                    amount=answer.amount,
                    shortfall=answer.shortfall,
                    balance=answer.balance,
                    version=answer.version,
                    allocations=allocations_of(answer.movements),
                    replayed=outcome == "REPLAYED",
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
        raise EngineFault(f"{self.script} answered {reply!r}")

    def unknown(self) -> Debited:
        raise self.denied(0)

    def denied(self, available: int) -> QuotaInsufficientError:
        """Return the refusal of this debit."""
        account, quota_type = self.quota.account, self.quota.quota_type
        return QuotaInsufficientError(
            account, quota_type, required=self.amount, available=available
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DebitUsed(Debit):
    """Take units for a call that has happened. See ``lua/debit_used.lua``."""

    script: ClassVar[str] = "debit_used"
    is_admission: ClassVar[bool] = False
    already_used: ClassVar[bool] = True

    #: The fingerprint of the debit that this one makes again, so that its caller's retry is
    #: answered and not refused; empty: its own.
    fingerprint_before: str = ""
    #: The account that pays whatever the own quota has; where it is none of ``payers``, it has
    #: paid already. None: who can.
    paid_by: str | None = None

    def argv(self, context: Context) -> Sequence[Argument]:
        print_ = self.fingerprint_before or self.fingerprint
        rest = (self.operation_id, print_, self.amount, self.details)
        others = shares_text(self.quota, self.shares, self.payers)
        return (*writing_argv(context, self.quota), *rest, others, payer_word(self.paid_by or ""))

    @property
    def may_create(self) -> bool:
        """What was used must be recorded, whoever used it."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class SetOverdraftLimit(Command[OverdraftLimit]):
    """Say how far below zero a quota may go. See ``lua/set_overdraft_limit.lua``."""

    script: ClassVar[str] = "set_overdraft_limit"
    is_sent_again: ClassVar[bool] = True

    quota: QuotaName
    operation_id: str
    #: None: unlimited.
    overdraft_limit: int | None
    details: str = ""

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return writing_keys(keys, self.quota)

    def argv(self, context: Context) -> Sequence[Argument]:
        limit = UNLIMITED if self.overdraft_limit is None else str(self.overdraft_limit)
        print_ = fingerprint("set_overdraft_limit", limit, self.details)
        rest = (self.operation_id, print_, limit, self.details)
        return (*writing_argv(context, self.quota), *rest, context.outbox_max)

    def parse(self, reply: Reply) -> OverdraftLimit:
        match reply:
            case ["LIMITED" | "REPLAYED", *lines]:
                answer = Operation.parse(self.operation_id, lines)
                return OverdraftLimit(
                    account=self.quota.account,
                    quota_type=self.quota.quota_type,
                    overdraft_limit=None if answer.terms == UNLIMITED else int(answer.terms),
                    version=answer.version,
                )
        raise EngineFault(f"set_overdraft_limit answered {reply!r}")

    @property
    def may_create(self) -> bool:
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class CatchUp(Command[CaughtUp]):
    """Apply what is due. See ``lua/catch_up.lua``."""

    script: ClassVar[str] = "catch_up"

    quota: QuotaName
    due_max: int = 500

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return writing_keys(keys, self.quota)

    def argv(self, context: Context) -> Sequence[Argument]:
        return (*writing_argv(context, self.quota)[:-1], self.due_max)

    def parse(self, reply: Reply) -> CaughtUp:
        match reply:
            case ["CAUGHT_UP", applied, more, next_change_at_ms]:
                return CaughtUp(int(applied), more == "1", int(next_change_at_ms))
        raise EngineFault(f"catch_up answered {reply!r}")

    def unknown(self) -> CaughtUp:
        return CaughtUp(0, False, NEVER_MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBalance(Command[Balance]):
    """Say what a quota has now. See ``lua/read_balance.lua``."""

    script: ClassVar[str] = "read_balance"

    quota: QuotaName
    with_grants: bool = True
    due_max: int = 500

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        name = str(self.quota)
        return (keys.versions, keys.quota(name), keys.holds(name), keys.changes(name))

    def argv(self, context: Context) -> Sequence[Argument]:
        rest = (context.now, self.due_max, int(self.with_grants))
        return (context.epoch, str(self.quota), *rest)

    def parse(self, reply: Reply) -> Balance:
        match reply:
            case ["BALANCE", version, balance, held, debt, limit, _, frozen, *more]:
                _, now_ms, granted, limited, *rest = more
                states = [
                    parse_grant(grant_id, record)
                    for grant_id, record in zip(rest[::2], rest[1::2], strict=True)
                ]
                live = (state for state in states if state.state == "live" and state.remaining)
                return Balance(
                    account=self.quota.account,
                    quota_type=self.quota.quota_type,
                    balance=int(balance),
                    held=int(held),
                    debt=int(debt),
                    overdraft_limit=None if limit == UNLIMITED else int(limit),
                    frozen=frozen,
                    version=int(version),
                    is_granted=granted == "1",
                    is_limited=limited == "1",
                    at=from_ms(int(now_ms)),
                    grants=tuple(map(_grant, sorted(live, key=burn_down_order))),
                    pending_grants=tuple(
                        _grant(state)
                        for state in sorted(states, key=lambda state: state.starts_at_ms)
                        if state.state == "pending"
                    ),
                )
        raise EngineFault(f"read_balance answered {reply!r}")

    def unknown(self) -> Balance:
        return Balance(account=self.quota.account, quota_type=self.quota.quota_type)


def burn_down_order(state: GrantState) -> tuple[int, int, int, bytes]:
    """Return the key by which grants pay: priority, then end, then age, then id."""
    grant_id = state.grant_id.encode()
    return (state.priority, state.expires_at_ms, state.created_at_ms, grant_id)


def parse_grant(grant_id: str, record: str) -> GrantState:
    """Return the grant that a record of ``lua/lib/grants.lua`` describes."""
    remaining, reserved, state, _, priority, starts, expires, created = record.split(" ")
    return GrantState(
        grant_id,
        int(remaining),
        int(reserved),
        int(priority),
        int(starts),
        int(expires),
        int(created),
        _STATES[state],
    )


def _grant(state: GrantState) -> Grant:
    return Grant(
        grant_id=state.grant_id,
        remaining=state.remaining,
        reserved=state.reserved,
        priority=state.priority,
        starts_at=from_ms(state.starts_at_ms),
        expires_at=from_ms_or_none(state.expires_at_ms),
        created_at=from_ms(state.created_at_ms),
        state=state.state,
    )
