"""
What clients were told, compared with what the ledger says.

Each operation that a client asks for is one ``Call``. ``check`` then asks of a drained deployment:
replaying the ledger in the order of its versions gives the model's every balance; each answered
call is there once, with the answer that its client saw; each refused one is absent; one whose
outcome stayed unknown is there once or not at all; and a call that was answered before another of
the same quota began comes before it. The model here is ten lines of its own: it must not know the
engine's code.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

#: unknown: never answered. done: answered. refused: answered with a refusal, so without effect.
#: cancelled: its client made sure that it never happens.
Outcome = Literal["unknown", "done", "refused", "cancelled"]

#: Kinds of entries that no client asks for.
ENGINES_OWN = frozenset({"grant.started", "grant.expired", "hold.expired", "quota.repaired"})
#: So end the ids of grants that a refund makes of what has no grant to go back to.
REGRANTED = (":rest", ":grace")
ENDS_OF_HOLDS = frozenset({"capture_part", "capture_hold", "release_hold"})
#: What makes sure that an operation never happens. It changes no sum.
CANCELLED = "operation.cancelled"


@dataclass(slots=True)
class Call:
    """
    One operation of one client: what it asked for, and what it was told in the end.

    Instants are of ``time.monotonic``: ``started`` before the first attempt, ``ended`` after the
    answer. ``version``, ``balance`` and ``shortfall`` are the answer's, None where it tells none.
    """

    verb: str
    account: str
    operation_id: str
    amount: int = 0
    hold_id: str = ""
    started: float = 0.0
    ended: float = 0.0
    outcome: Outcome = "unknown"
    version: int | None = None
    balance: int | None = None
    shortfall: int | None = None
    #: The answer said that there was nothing to do, as for a hold that was closed before.
    is_idle: bool = False
    attempts: int = 0
    error: str = ""
    #: When an attempt last ended without an answer.
    failed: float = 0.0

    def __str__(self) -> str:
        return f"{self.verb} {self.operation_id} of {self.amount} on {self.account}"


#: An account, and the id by which a call and its entry are one.
Key = tuple[str, str]


def extension_id(hold_id: str, amount: int) -> str:
    """Return the id of a hold's growth to ``amount``: its entry has one that no caller knows."""
    return f"{hold_id}:extend:{amount}"


def _key(row: Any) -> Key:
    if row.kind == "hold.extended":
        return row.account, extension_id(row.subject, row.amount)
    return row.account, row.operation_id


def _is_engines_own(row: Any) -> bool:
    is_regranted = row.kind == "grant.issued" and row.operation_id.endswith(REGRANTED)
    is_given_back = row.kind == "grant.voided" and ":void:" in row.operation_id
    return is_regranted or is_given_back or row.kind in ENGINES_OWN


@dataclass(frozen=True, slots=True)
class Window:
    """
    Which answered calls a fault may have lost: those that were under way in this time.

    ``World.drain`` returns an instant such that all that was answered before it is persisted.
    """

    since: float
    until: float

    def has(self, call: Call) -> bool:
        return self.since <= call.ended and call.started <= self.until


class MayLose(Protocol):
    """Says of an answered call whether a fault may have lost it: one window, or several."""

    def has(self, call: Call) -> bool: ...


@dataclass(slots=True)
class Verdict:
    """What a check found. ``wrong``: sentences, none where all is well."""

    done: int = 0
    refused: int = 0
    cancelled: int = 0
    unknown: int = 0
    #: Answered calls that are there: each is one entry of the ledger.
    kept: int = 0
    unknown_applied: int = 0
    #: Answered calls that are gone; all of them in the window, or ``wrong`` says so.
    lost: list[Call] = field(default_factory=list)
    #: Answered calls of the window that came back with another version or balance.
    restored: list[Call] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Verdict) -> None:
        """Count another verdict in."""
        for name in ("done", "refused", "cancelled", "unknown", "kept", "unknown_applied"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("lost", "restored", "wrong"):
            getattr(self, name).extend(getattr(other, name))

    @property
    def denied_and_after(self) -> list[Call]:
        """Of the lost ones, the holds that found no quota any more, and what released these."""
        holds = {call.hold_id for call in self.lost if call.verb == "place_hold"}
        verbs = {"place_hold", "release_hold"}
        return [call for call in self.lost if call.verb in verbs and call.hold_id in holds]

    def __str__(self) -> str:
        return (
            f"{self.done} done, {self.refused} refused, {self.cancelled} cancelled,"
            f" {self.unknown} unknown"
            f" ({self.unknown_applied} applied), {len(self.lost)} lost,"
            f" {len(self.restored)} restored"
        )


def check(
    calls: Iterable[Call],
    entries: Sequence[Any],
    *,
    may_lose: MayLose | None = None,
    elsewhere: Collection[str] = (),
) -> Verdict:
    """
    Compare calls with the ledger's rows (``ledger_entries``) of their quota type.

    ``elsewhere``: operation ids that are kept in the quarantine instead, and count as there.
    """
    verdict = Verdict()
    rows: dict[Key, list[Any]] = {}
    never = {(row.account, row.operation_id) for row in entries if row.kind == CANCELLED}
    entries = [row for row in entries if row.kind != CANCELLED]
    for row in entries:
        rows.setdefault(_key(row), []).append(row)
    by_key = {(call.account, call.operation_id): call for call in calls}
    placed = {(row.account, row.subject) for row in entries if row.kind == "hold.placed"}
    for key, call in by_key.items():
        is_end = call.outcome == "refused" and call.verb in ENDS_OF_HOLDS
        if is_end and (call.account, call.hold_id) in placed:
            verdict.wrong.append(f"{call}: the hold is there and this was refused: {call.error}")
        if key in never and (call.outcome == "done" or key in rows):
            verdict.wrong.append(f"{call} was cancelled, and is {call.outcome}")
        is_forgotten = call.outcome == "cancelled" and key not in never
        if is_forgotten and (may_lose is None or not may_lose.has(call)):
            verdict.wrong.append(f"{call} was cancelled, and that is lost")
        _count(verdict, call)
        found = rows.pop(key, [])
        verdict.wrong.extend(_wrong_about(verdict, call, found, may_lose, elsewhere))
    for (account, operation_id), found in rows.items():
        strange = [row.kind for row in found if not _is_engines_own(row)]
        if strange:
            verdict.wrong.append(f"nobody asked for {strange} {operation_id} on {account}")
    # what was lost and sent again came later than its answer, perhaps as the version it was told
    moved = {id(call) for call in verdict.restored}
    if may_lose is not None:
        moved |= {id(call) for call in by_key.values() if may_lose.has(call)}
    verdict.wrong.extend(_wrong_order(by_key, entries, moved))
    verdict.wrong.extend(_wrong_replay(by_key, entries))
    verdict.wrong.extend(_wrong_refunds(entries))
    return verdict


def _count(verdict: Verdict, call: Call) -> None:
    match call.outcome:
        case "done":
            verdict.done += 1
        case "refused":
            verdict.refused += 1
        case "cancelled":
            verdict.cancelled += 1
        case _:
            verdict.unknown += 1


def _wrong_about(
    verdict: Verdict,
    call: Call,
    found: Sequence[Any],
    may_lose: MayLose | None,
    elsewhere: Collection[str],
) -> Iterator[str]:
    """Say what one call's rows have that they must not, or lack; note what was lost."""
    if len(found) > 1:
        yield f"{call} is there {len(found)} times"
    elif call.outcome == "unknown":
        verdict.unknown_applied += len(found)
    elif call.outcome in {"refused", "cancelled"}:
        if found:
            yield f"{call} was {call.outcome} ({call.error}) and is there"
    elif not found:
        if call.is_idle or call.operation_id in elsewhere:
            return
        verdict.lost.append(call)
        if may_lose is None or not may_lose.has(call):
            yield f"{call} was answered at {call.ended:.3f} and is lost"
    else:
        verdict.kept += 1
        if differing := _differing(call, found[0]):
            verdict.restored.append(call)
            if may_lose is None or not may_lose.has(call):
                yield f"{call}: {differing}"


def _differing(call: Call, row: Any) -> str:
    told = {
        "amount": call.amount,
        "version": call.version,
        "balance_after": call.balance,
        "shortfall": call.shortfall,
    }
    return "; ".join(
        f"{name} was told as {value}, the ledger says {getattr(row, name)}"
        for name, value in told.items()
        if value is not None and value != getattr(row, name)
    )


def _wrong_order(
    calls: Mapping[Key, Call], entries: Sequence[Any], passed_over: Collection[int]
) -> Iterator[str]:
    """Say which call came after one that began only when it had been answered."""
    instants: dict[str, list[tuple[float, int, int, Call]]] = {}
    for row in entries:
        call = calls.get(_key(row))
        if call is None or id(call) in passed_over:
            continue
        of_account = instants.setdefault(row.account, [])
        of_account.append((call.started, 1, row.version, call))
        if call.outcome == "done":
            of_account.append((call.ended, 0, row.version, call))
    for of_account in instants.values():
        last, before = 0, None
        for _, is_start, version, call in sorted(of_account, key=lambda one: one[:3]):
            if not is_start:
                last, before = max((last, before), (version, call), key=lambda one: one[0])
            elif version <= last and call is not before:
                yield f"{call} (version {version}) began after {before} ({last}) was answered"


@dataclass(slots=True)
class _Model:
    """A quota without overdraft: what is free, and what each open hold has."""

    free: int = 0
    holds: dict[str, int] = field(default_factory=dict)

    @property
    def held(self) -> int:
        return sum(self.holds.values())

    def apply(self, row: Any) -> int:
        """Move over a row, and return the shortfall that it should have."""
        amount, hold = row.amount, row.subject
        match row.kind:
            case "grant.issued":
                self.free += row.amount if row.delta else 0
            case "quota.debited":
                paid = min(amount, max(self.free, 0)) if "used" in row.flags.split() else amount
                self.free -= paid
                return int(amount - paid)
            case "hold.placed":
                self.holds[hold] = amount
                self.free -= amount
            case "hold.extended":
                self.free -= amount - self.holds.get(hold, 0)
                self.holds[hold] = amount
            case "hold.captured":
                of_hold = self.holds.pop(hold, 0)
                if "part" in row.flags.split():
                    kept = of_hold - min(amount, of_hold)
                    self.holds[hold] = kept
                else:
                    kept = 0
                    self.free += max(of_hold - amount, 0)
                beyond = max(amount - of_hold, 0)
                paid = min(beyond, max(self.free, 0))
                self.free -= paid
                return int(beyond - paid)
            case "hold.released" | "hold.expired":
                self.free += self.holds.pop(hold, 0)
            case _:  # a refund, a grant that begins or ends: its own row says by how much
                self.free += row.delta
        return 0


def _wrong_replay(calls: Mapping[Key, Call], entries: Sequence[Any]) -> Iterator[str]:
    """Say where the ledger, replayed by version, is not what the model makes of the calls."""
    models: dict[str, _Model] = {}
    for row in sorted(entries, key=lambda row: (row.account, row.version)):
        call = calls.get(_key(row))
        is_chosen = row.kind not in {"hold.released", "grant.voided"}
        if call is not None and row.amount != call.amount and is_chosen:
            yield f"{call} is there with {row.amount}"
        model = models.setdefault(row.account, _Model())
        shortfall = model.apply(row)
        # what a hold gives back to a grant that has ended is told before the hold's end
        if model.free < 0 and row.kind not in {"grant.voided", "grant.expired"}:
            yield f"{row.account} version {row.version}: {row.operation_id} was not covered"
        expected = (model.free + model.held, model.held, shortfall)
        if expected != (row.balance_after, row.held_after, row.shortfall):
            yield (
                f"{row.account} version {row.version}: balance, held and shortfall are"
                f" {(row.balance_after, row.held_after, row.shortfall)}, the model has {expected}"
            )
            model.free = row.balance_after - row.held_after


def _wrong_refunds(entries: Iterable[Any]) -> Iterator[str]:
    """Say which charge was given back above what it took."""
    taken: dict[Key, int] = {}
    returned: dict[Key, int] = {}
    for row in entries:
        if row.kind == "quota.refunded":
            charge = (row.account, row.subject)
            returned[charge] = returned.get(charge, 0) + row.amount
        else:
            taken[row.account, row.operation_id] = row.amount - row.shortfall
    for charge, amount in returned.items():
        if amount > taken.get(charge, 0):
            yield f"{charge} took {taken.get(charge, 0)}, {amount} were given back"
