"""A charge given back: what is asked, and what the script is told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from quota_engine.chain import EXPIRED, VOIDED
from quota_engine.commands.arguments import (
    details_text,
    fingerprint,
    writing_argv,
    writing_keys,
)
from quota_engine.commands.base import Argument, Command, Context, Reply
from quota_engine.commands.charges import ChargeEntry
from quota_engine.commands.quotas import Allocation
from quota_engine.commands.shares import (
    ANSWER_LINES,
    Share,
    share_keys,
    suffix_beside,
    suffix_of,
)
from quota_engine.commands.snapshots import Operation
from quota_engine.errors import EngineFault, OperationNotFoundError
from quota_engine.events import COUNTED, UNRETURNED, unreturned_in
from quota_engine.keys import QuotaName, ShardKeys
from quota_engine.payers import BY, payer_word

#: So a charge's id names, in the quota of who paid, whose call it was.
CALLER = re.compile(r"@[0-9a-f]{16}(?=$|:capture$|:release$)")
#: What the id of a hold's end ends with, behind the hold's own.
ENDS = (":capture", ":release")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refunded:
    """
    What a refund gave back, in units of the quota type.

    ``allocations`` says to which grants; the rest of ``amount`` paid debt, except ``forfeited``,
    whose grants have ended, ``regranted``, which became grants of its own, and ``unreturned``,
    which this quota had not collected, or has given back before.
    """

    refund_id: str
    operation_id: str
    account: str
    quota_type: str
    amount: int
    forfeited: int
    regranted: int
    unreturned: int
    balance: int
    version: int
    allocations: tuple[Allocation, ...]
    replayed: bool = False
    #: What it gave back in the accounts above, each to its own grants.
    scopes: tuple[Refunded, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """
    A call that is settled anew: what it used in all, and what its own quota was charged for it.

    Each of its quotas gives back what it has collected above ``units``; the own quota and those
    that paid in its place together.
    """

    quota: QuotaName
    units: int
    charges: tuple[ChargeEntry, ...]

    @property
    def purse(self) -> tuple[QuotaName, ...]:
        """The own quota, and those that paid in its place."""
        return tuple(dict.fromkeys((self.quota, *map(self.payer_of, self.charges))))

    def payer_of(self, charge: ChargeEntry) -> QuotaName:
        """Return the quota that paid for a charge."""
        return QuotaName(charge.paid_by or self.quota.account, self.quota.quota_type)

    def ids_in(self, quota: QuotaName) -> tuple[str, ...]:
        """Return the ids of its charges in one of its quotas."""
        return tuple(charge_id_in(quota, self.quota, charge) for charge in self.charges)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRequest:
    """What a caller wants back of a charge. ``amount`` None: all that is left of it."""

    quota: QuotaName
    refund_id: str
    operation_id: str
    amount: int | None = None
    #: How long a grant lives that is made for what ended grants had paid; 0: that is forfeited.
    grace_ms: int = 0
    details: str = ""
    #: Of another account, which the call may have charged too.
    is_share: bool = False
    #: The call that is settled anew by it; None: it is a gift.
    settled: Settled | None = None


def requests_of(
    request: RefundRequest, charge: ChargeEntry, accounts: Iterable[str]
) -> tuple[RefundRequest, ...]:
    """
    Return what a request means for the quotas of a call. ``accounts``: others that it charged.

    A correction stands in the logs of the caller and of who paid in its place, a gift of what
    another account paid in that one's alone.
    """
    call = request.settled
    if call is not None:
        homes = [quota.account for quota in call.purse]
        first = request
    else:
        homes = [charge.paid_by or request.quota.account]
        payer = QuotaName(homes[0], request.quota.quota_type)
        first = replace(
            request, quota=payer, operation_id=charge_id_in(payer, request.quota, charge)
        )
    newest = {charge.paid_by: charge for charge in ((charge,) if call is None else call.charges)}
    shares = (*homes[1:], *(account for account in accounts if account not in homes))
    return (
        first,
        *(
            replace(
                request,
                quota=quota,
                refund_id=request.refund_id + suffix_of(request.quota, quota),
                operation_id=charge_id_in(quota, request.quota, newest.get(account, charge)),
                details=_told_elsewhere(request),
                is_share=True,
            )
            for account in shares
            for quota in [QuotaName(account, request.quota.quota_type)]
        ),
    )


def charge_id_in(quota: QuotaName, first: QuotaName, charge: ChargeEntry) -> str:
    """Return the id of a call's charge in another quota. See lua/lib/shares.lua."""
    tail = next((end for end in ENDS if charge.operation_id == f"{charge.subject}{end}"), "")
    return f"{charge.operation_id.removesuffix(tail)}{suffix_of(first, quota)}{tail}"


def ids_elsewhere(quota: QuotaName, refund_id: str, charge_id: str) -> tuple[str, ...]:
    """
    Return which ids the other refunds of a call may have, in quotas of other accounts.

    The charge's id names the caller, if ``quota`` paid for another one, or is that caller's own.
    """
    caller = CALLER.search(charge_id)
    suffixes = (suffix_beside(quota), *([caller[0]] if caller else ()))
    return tuple(refund_id + suffix for suffix in suffixes)


def _told_elsewhere(request: RefundRequest) -> str:
    """Return the details of a request in the quota of another account: it has no usage record."""
    told: dict[str, Any] = json.loads(request.details) if request.details else {}
    told.pop("usage", None)
    return details_text({**told, "account": request.quota.account})


class PaidBy(Protocol):
    """A grant that paid, as the log or the ledger has it."""

    grant_id: str
    state: str
    priority: int
    starts_at_ms: int
    expires_at_ms: int
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class RefundPart:
    """Units that go back to one grant, with its terms. ``expires_at_ms`` 0: it has ended."""

    grant_id: str
    units: int
    priority: int
    starts_at_ms: int
    expires_at_ms: int
    created_at_ms: int

    @classmethod
    def counted(cls, paid_by: str, units: int) -> RefundPart:
        """Return units that another account paid: none come back, the entry's flags say so."""
        return cls(f"{COUNTED} {BY}{payer_word(paid_by)}", units, 0, 0, 0, 0)

    @classmethod
    def unreturned(cls, units: int) -> RefundPart:
        """Return units that the quota has not collected: none come back, the entry says so."""
        return cls(f"{UNRETURNED} {units}", units, 0, 0, 0, 0)

    @property
    def moves(self) -> bool:
        """Whether its units come back to a grant: what says why they do not is no grant's id."""
        return " " not in self.grant_id

    @classmethod
    def of(cls, grant: PaidBy, units: int) -> RefundPart:
        """Return ``units`` of a grant as the log left it."""
        return cls(
            grant_id=grant.grant_id,
            units=units,
            priority=grant.priority,
            starts_at_ms=grant.starts_at_ms,
            expires_at_ms=0 if grant.state in {EXPIRED, VOIDED} else grant.expires_at_ms,
            created_at_ms=grant.created_at_ms,
        )

    def words(self) -> tuple[str, ...]:
        """Return it as the script and the ledger keep it."""
        numbers = (self.units, self.priority, self.starts_at_ms, self.expires_at_ms)
        return (self.grant_id, *map(str, numbers), str(self.created_at_ms))


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund(Command[Refunded]):
    """
    Give back a charge, as it was promised in the ledger. See ``lua/refund.lua``.

    ``beside``: what is given back of the same call in further quotas, all or nothing.
    """

    script: ClassVar[str] = "refund"
    is_sent_again: ClassVar[bool] = True

    quota: QuotaName
    refund_id: str
    charge_id: str
    amount: int
    #: First what does not come back, then in the order in which they are given: last taken first.
    parts: tuple[RefundPart, ...]
    grace_ms: int = 0
    details: str = ""
    beside: tuple[Refund, ...] = ()

    @property
    def others(self) -> tuple[QuotaName, ...]:
        return tuple(one.quota for one in self.beside)

    @property
    def fingerprint(self) -> str:
        """The hash of what is asked; which grants it goes to follows from that."""
        return fingerprint("refund", self.charge_id, self.amount, self.grace_ms)

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return (*writing_keys(keys, self.quota), *share_keys(keys, map(Share, self.others)))

    def argv(self, context: Context) -> Sequence[Argument]:
        beside = (line for one in self.beside for line in (one.quota, *one._asked("\t")))
        lines = "".join(f"{line}\n" for line in beside)
        return (*writing_argv(context, self.quota), *self._asked("\n"), lines)

    def _asked(self, end: str) -> tuple[Argument, ...]:
        """Return what the script is told; ``end``: what follows each word of the parts."""
        parts = "".join(f"{word}{end}" for part in self.parts for word in part.words())
        grant_details = details_text({"source": "refund", "reference": self.charge_id})
        asked = (self.refund_id, self.fingerprint, self.amount, self.charge_id, parts)
        return (*asked, self.grace_ms, grant_details, self.details)

    def parse(self, reply: Reply) -> Refunded:
        match reply:
            case ["REFUNDED" | "REPLAYED" as outcome, *lines]:
                answer, further = Operation.parse(self.refund_id, lines[:ANSWER_LINES]), []
                for place in range(ANSWER_LINES, len(lines), ANSWER_LINES + 1):
                    [one] = [one for one in self.beside if str(one.quota) == lines[place]]
                    told = lines[place + 1 : place + 1 + ANSWER_LINES]
                    further.append(one.refunded(Operation.parse(one.refund_id, told)))
                made = self.refunded(answer, replayed=outcome == "REPLAYED")
                return replace(made, scopes=tuple(further))
        raise EngineFault(f"refund answered {reply!r}")

    def refunded(self, answer: Operation, *, replayed: bool = False) -> Refunded:
        """Return the result that ``answer``, of Redis or of the ledger, stands for."""
        forfeited, regranted = map(int, answer.terms.split())
        unreturned = unreturned_in(answer.flags, answer.amount)
        return Refunded(
            refund_id=self.refund_id,
            operation_id=self.charge_id,
            account=self.quota.account,
            quota_type=self.quota.quota_type,
            amount=answer.amount,
            forfeited=forfeited - unreturned,
            regranted=regranted,
            unreturned=unreturned,
            balance=answer.balance + regranted,
            version=answer.version,
            allocations=tuple(
                Allocation(move.grant_id, move.remaining)
                for move in answer.movements
                if move.remaining
            ),
            replayed=replayed,
        )

    def unknown(self) -> Refunded:
        raise OperationNotFoundError(f"{self.quota} has no charge {self.charge_id}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRefund:
    """A refund as the ledger promised it. ``applied``: the answer of its entry, if it has one."""

    command: Refund
    is_new: bool
    applied: Operation | None
