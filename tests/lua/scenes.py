"""What tests of scripts start from: a shard, one quota, and its commands in few words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from quota_engine.commands import (
    Action,
    CancelOperation,
    CaptureHold,
    CatchUp,
    Command,
    Debit,
    DebitUsed,
    ExtendHold,
    FreezeQuota,
    GrantTerms,
    HydrateQuota,
    IssueGrant,
    PlaceHold,
    ReadLimits,
    RecordRepair,
    RecordUsage,
    Refund,
    RefundPart,
    ReleaseHold,
    SetLimit,
    SetOverdraftLimit,
    Snapshot,
    Transfer,
    TransferIn,
    TransferOut,
    TransferQuota,
    VoidGrant,
)
from quota_engine.instants import NEVER_MS
from quota_engine.keys import QuotaName
from quota_engine.limits import Limit, checked_limit
from tests.shards import EPOCH, NOON_MS, Raw, Shard

Test = TypeVar("Test", bound=Callable[..., Any])

#: An account with everything in it that could be taken for a separator.
NAME = QuotaName("组/{qe:99}|a b", "text_token")

#: A second account of the same shard.
OTHER = QuotaName("组/{qe:99}|a b/c", "text_token")

#: What moves units from one to the other, and what arrives of it.
TRANSFER = Transfer(transfer_id="new", source=NAME, target=OTHER, amount=5)
BACK = Transfer(transfer_id="new", source=OTHER, target=NAME, amount=5)

#: A valid command of every script that changes a quota, on the quota of ``Scene.funded``.
WRITING: dict[str, Command[Any]] = {
    "place_hold": PlaceHold(quota=NAME, hold_id="new", amount=5, ttl_ms=1000),
    "extend_hold": ExtendHold(quota=NAME, hold_id="h", operation_id="new", amount=20, ttl_ms=9000),
    "capture_hold": CaptureHold(quota=NAME, hold_id="h", operation_id="h:capture", amount=5),
    "release_hold": ReleaseHold(quota=NAME, hold_id="h"),
    "debit": Debit(quota=NAME, operation_id="new", amount=5),
    "debit_used": DebitUsed(quota=NAME, operation_id="new", amount=5),
    "issue_grant": IssueGrant(
        quota=NAME, grant_id="new", terms=GrantTerms(amount=5, source="purchase")
    ),
    "void_grant": VoidGrant(quota=NAME, grant_id="g"),
    "set_overdraft_limit": SetOverdraftLimit(quota=NAME, operation_id="new", overdraft_limit=100),
    "set_limit": SetLimit(
        quota=NAME,
        operation_id="new",
        action=Action.SET,
        limit=Limit(of="units", per="minute", window="sliding", amount=100),
    ),
    "record_usage": RecordUsage(quota=NAME, operation_id="new", details='{"usage":{}}'),
    "record_repair": RecordRepair(quota=NAME, operation_id="new", cause="held", details="{}"),
    "cancel_operation": CancelOperation(quota=NAME, operation_id="new", is_absent=True),
    "refund": Refund(
        quota=NAME,
        refund_id="new",
        charge_id="d",
        amount=5,
        parts=(RefundPart("g", 5, 50, NOON_MS, NEVER_MS, NOON_MS),),
    ),
    "transfer_out": TransferOut(quota=NAME, transfer=TRANSFER),
    "transfer_in": TransferIn(quota=NAME, transfer=BACK, terms=f"5 50 {NEVER_MS}"),
    "transfer_quota": TransferQuota(quota=NAME, transfer=TRANSFER),
    "catch_up": CatchUp(quota=NAME),
}
#: Those that a frozen quota refuses.
NEED_SOUND_LOG = (
    "place_hold",
    "debit",
    "issue_grant",
    "void_grant",
    "set_overdraft_limit",
    "set_limit",
    "refund",
    "transfer_out",
    "transfer_in",
    "transfer_quota",
)
#: Those that carry an operation id.
REPEATABLE = tuple(script for script in WRITING if script != "catch_up")


def meets(script: str, *rows: str) -> Callable[[Test], Test]:
    """Say which rows of a script's header a test meets; that it does is looked at."""

    def mark(test: Test) -> Test:
        met = {(script, row) for row in rows} | getattr(test, "rows", set())
        test.rows = met  # type: ignore[attr-defined]
        return test

    return mark


class Scene(Shard):
    """A shard with one loaded quota."""

    def load(self) -> Scene:
        """Load an empty quota."""
        for name in (NAME, OTHER):
            empty = Snapshot(quota=name, epoch=EPOCH)
            assert self.call(HydrateQuota(snapshot=empty, may_create=True)) == ["LOADED"]
        return self

    def funded(self, amount: int = 100) -> Scene:
        """Load a quota with the grant ``g`` of ``amount`` units and the hold ``h`` of 10."""
        self.load()
        self.issue("g", amount)
        self.place("h", 10)
        return self

    def run(self, script: str, **context: Any) -> Raw:
        """Call the usual command of a script."""
        return self.call(WRITING[script], **context)

    def issue(self, grant_id: str, amount: int, **terms: Any) -> Raw:
        terms = {"source": "purchase", **terms}
        limits = {"grants_max": terms.pop("grants_max")} if "grants_max" in terms else {}
        made = GrantTerms(amount=amount, **terms)
        return self.call(IssueGrant(quota=NAME, grant_id=grant_id, terms=made, **limits))

    def void(self, grant_id: str) -> Raw:
        return self.call(VoidGrant(quota=NAME, grant_id=grant_id))

    def place(self, hold_id: str, amount: int, ttl_ms: int = 60_000) -> Raw:
        return self.call(PlaceHold(quota=NAME, hold_id=hold_id, amount=amount, ttl_ms=ttl_ms))

    def extend(self, hold_id: str, amount: int = 0, ttl_ms: int = 0, again: str = "") -> Raw:
        command = ExtendHold(
            quota=NAME,
            hold_id=hold_id,
            operation_id=again or f"{hold_id}:to:{amount}",
            amount=amount,
            ttl_ms=ttl_ms,
        )
        return self.call(command)

    def capture(self, hold_id: str, amount: int, *, part: str = "", known: bool = False) -> Raw:
        command = CaptureHold(
            quota=NAME,
            hold_id=hold_id,
            operation_id=part or f"{hold_id}:capture",
            amount=amount,
            is_final=not part,
            is_known=known,
        )
        return self.call(command)

    def release(self, hold_id: str) -> Raw:
        return self.call(ReleaseHold(quota=NAME, hold_id=hold_id))

    def debit(self, operation_id: str, amount: int, *, used: bool = False) -> Raw:
        kind = DebitUsed if used else Debit
        return self.call(kind(quota=NAME, operation_id=operation_id, amount=amount))

    def refund(self, refund_id: str, amount: int, *parts: RefundPart, grace_ms: int = 0) -> Raw:
        command = Refund(
            quota=NAME,
            refund_id=refund_id,
            charge_id="d",
            amount=amount,
            parts=parts,
            grace_ms=grace_ms,
        )
        return self.call(command)

    def limit(self, limit: int | None, operation_id: str = "limit") -> Raw:
        command = SetOverdraftLimit(quota=NAME, operation_id=operation_id, overdraft_limit=limit)
        return self.call(command)

    def set_limit(
        self,
        amount: int,
        per: str | None,
        *,
        of: str = "units",
        window: str | None = None,
        time_zone: str = "UTC",
        action: Action = Action.SET,
        quota: QuotaName = NAME,
        **more: Any,
    ) -> Raw:
        """Change a limit; every change has an id of its own."""
        limit = checked_limit(amount, of=of, per=per, window=window, time_zone=time_zone)
        command = SetLimit(
            quota=quota,
            operation_id=f"limit{self.client.xlen(self.keys.outbox)}",
            action=action,
            limit=replace(limit, **more),
            at_ms=self.now_ms or 0,
        )
        return self.call(command)

    def limits(self, quota: QuotaName = NAME) -> list[tuple[str, int, int]]:
        """Key, cap and what was let through of every limit."""
        command = ReadLimits(quota=quota)
        told = command.parse(["LIMITS", *self.call(command)[1:]]).standings
        return [(f"{one.of}/{one.per}", one.cap, one.used) for one in told]

    def cancel(self, operation_id: str, *, absent: bool = True) -> Raw:
        command = CancelOperation(quota=NAME, operation_id=operation_id, is_absent=absent)
        return self.call(command)

    def freeze(self, reason: str = "in doubt") -> Raw:
        return self.call(FreezeQuota(quota=NAME, reason=reason))

    def pass_time(self, milliseconds: int) -> None:
        assert self.now_ms is not None
        self.now_ms += milliseconds

    @property
    def stored(self) -> dict[str, str]:
        """The quota's hash."""
        return self.hash_of(self.keys.quota(str(NAME)))

    @property
    def sums(self) -> tuple[int, int, int]:
        """Balance, held and debt."""
        stored = {
            name: int(self.stored[name]) for name in ("remaining", "covered", "held", "debt")
        }
        balance = stored["remaining"] + stored["covered"] - stored["debt"]
        return balance, stored["held"], stored["debt"]

    @property
    def log(self) -> list[tuple[str, str, int]]:
        """Kind, operation id and delta of every entry."""
        return [(entry.kind, entry.operation_id, entry.delta) for entry in self.entries()]
