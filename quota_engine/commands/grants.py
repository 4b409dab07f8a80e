"""Quota put in, and taken back: grants issued and voided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from quota_engine.commands.arguments import fingerprint, writing_argv, writing_keys
from quota_engine.commands.base import Argument, Command, Context, Reply
from quota_engine.commands.replies import barred, error_from
from quota_engine.commands.snapshots import Operation
from quota_engine.errors import EngineFault
from quota_engine.instants import NEVER_MS, from_ms, from_ms_or_none
from quota_engine.keys import QuotaName, ShardKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedGrant:
    """A grant as it was issued, with its terms. ``expires_at`` None: never."""

    grant_id: str
    account: str
    quota_type: str
    amount: int
    source: str
    reference: str | None
    description: str | None
    priority: int
    starts_at: datetime
    expires_at: datetime | None
    created_at: datetime
    #: The quota's balance and version after it.
    balance: int
    version: int
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidedGrant:
    """A grant whose remainder was cancelled: ``amount`` units."""

    grant_id: str
    account: str
    quota_type: str
    amount: int
    balance: int
    version: int
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantTerms:
    """What a grant is worth and when, as its issuer says it."""

    amount: int
    source: str
    reference: str | None = None
    description: str | None = None
    priority: int = 50
    #: 0: at once.
    starts_at_ms: int = 0
    expires_at_ms: int = NEVER_MS

    @property
    def fingerprint(self) -> str:
        """The hash of all terms: another term, another grant."""
        return fingerprint(
            "issue_grant",
            self.amount,
            self.source,
            self.reference,
            self.description,
            self.priority,
            self.starts_at_ms,
            self.expires_at_ms,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueGrant(Command[IssuedGrant]):
    """Put quota in. See ``lua/issue_grant.lua``."""

    script: ClassVar[str] = "issue_grant"
    is_sent_again: ClassVar[bool] = True

    quota: QuotaName
    grant_id: str
    terms: GrantTerms
    grants_max: int = 5_000
    details: str = ""

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return writing_keys(keys, self.quota)

    def argv(self, context: Context) -> Sequence[Argument]:
        terms = self.terms
        instants = (terms.starts_at_ms, terms.expires_at_ms)
        rest = (self.grant_id, terms.fingerprint, terms.amount, terms.priority, *instants)
        limits = (self.grants_max, self.details, context.outbox_max)
        return (*writing_argv(context, self.quota), *rest, *limits)

    def parse(self, reply: Reply) -> IssuedGrant:
        match reply:
            case ["ISSUED" | "REPLAYED" as outcome, *lines]:
                answer = Operation.parse(self.grant_id, lines)
                return self.issued(answer, replayed=outcome == "REPLAYED")
            case ["BARRED", *told]:
                raise barred(told)
        raise EngineFault(f"issue_grant answered {reply!r}")

    @property
    def may_create(self) -> bool:
        return True

    def issued(self, answer: Operation, *, replayed: bool) -> IssuedGrant:
        """Return the result that ``answer``, of Redis or of the ledger, stands for."""
        priority, starts_at_ms, expires_at_ms, created_at_ms = map(int, answer.terms.split())
        return IssuedGrant(
            grant_id=self.grant_id,
            account=self.quota.account,
            quota_type=self.quota.quota_type,
            amount=answer.amount,
            source=self.terms.source,
            reference=self.terms.reference,
            description=self.terms.description,
            priority=priority,
            starts_at=from_ms(starts_at_ms),
            expires_at=from_ms_or_none(expires_at_ms),
            created_at=from_ms(created_at_ms),
            balance=answer.balance,
            version=answer.version,
            replayed=replayed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidGrant(Command[VoidedGrant]):
    """Cancel what remains of a grant. See ``lua/void_grant.lua``."""

    script: ClassVar[str] = "void_grant"
    is_sent_again: ClassVar[bool] = True

    quota: QuotaName
    grant_id: str
    details: str = ""

    @property
    def operation_id(self) -> str:
        """A grant is voided once: the operation takes its id from the grant."""
        return f"{self.grant_id}:void"

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return writing_keys(keys, self.quota)

    def argv(self, context: Context) -> Sequence[Argument]:
        print_ = fingerprint("void_grant", self.grant_id, self.details)
        rest = (self.operation_id, print_, self.grant_id, self.details)
        return writing_argv(context, self.quota) + rest

    def parse(self, reply: Reply) -> VoidedGrant:
        match reply:
            case ["VOIDED" | "REPLAYED" as outcome, *lines]:
                answer = Operation.parse(self.operation_id, lines)
                return VoidedGrant(
                    grant_id=self.grant_id,
                    account=self.quota.account,
                    quota_type=self.quota.quota_type,
                    amount=answer.amount,
                    balance=answer.balance,
                    version=answer.version,
                    replayed=outcome == "REPLAYED",
                )
        raise EngineFault(f"void_grant answered {reply!r}")

    def unknown(self) -> VoidedGrant:
        raise error_from(f"GRANT_NOT_FOUND {self.grant_id}")
