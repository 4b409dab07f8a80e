"""
What clients were told, compared with what the ledger says.

Each operation that a client asks for is one ``Call``, and what it asks of a further quota, such as
that of an account above, is one more (``shares.spread``). ``check`` then asks of a drained
deployment: replaying the ledger in the order of its versions gives the model's every balance; each
answered call is there once, with the answer that its client saw; each refused one is absent; one
whose outcome stayed unknown is there once or not at all; a call that was answered before another
of the same quota began comes before it; and a call is in all of its quotas or in none. The model
(``plain_model``) must not know the engine's code.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import unquote

from tests.faults import plain_model

#: unknown: never answered. done: answered. refused: answered with a refusal, so without effect.
#: cancelled: its client made sure that it never happens.
Outcome = Literal["unknown", "done", "refused", "cancelled"]

#: Kinds of entries that no client asks for.
ENGINES_OWN = frozenset({"grant.started", "grant.expired", "hold.expired", "quota.repaired"})
#: So end a call's ids in the quotas of other accounts.
SUFFIX = "@[0-9a-f]{16}"
#: So end the ids of grants that a refund makes of what has no grant to go back to.
REGRANTED = (":rest", ":grace")
#: In the ids of what settles a call anew: judged in ``corrections``.
CORRECTION = ":correction:([0-9]+)"
ENDS_OF_HOLDS = frozenset({"capture_part", "capture_hold", "release_hold"})
#: Of these a quota has no entry where the hold is over; what was used is charged late.
NEED_A_HOLD = frozenset({"extend_hold", "release_hold"})
#: What makes sure that an operation never happens. It changes no sum.
CANCELLED = "operation.cancelled"


@dataclass(frozen=True, slots=True)
class Told:
    """What a client was told of a further quota."""

    account: str
    quota_type: str
    amount: int
    version: int
    balance: int
    shortfall: int
    #: As of a call.
    paid_by: str | None = None


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
    quota_type: str = "text_token"
    #: Further quota types that it asks for, with the amount of each.
    more: dict[str, int] = field(default_factory=dict)
    #: The accounts that it acts on instead of those above; None: those above.
    scopes: tuple[str, ...] | None = None
    #: What it was told of its further quotas.
    told: tuple[Told, ...] = ()
    #: Which account it was told has paid; empty: its own quota; None: it was not told.
    paid_by: str | None = None
    #: Of a refund, the charge that it gives back. Its amount 0: whatever is left of that. Of a
    #: correction, the charge that it settles anew, to its amount in all.
    charge_id: str = ""
    #: Of a correction, the entries of the account that it was told it wrote.
    ids: tuple[str, ...] = ()
    #: The call whose share of a further quota this is; None: it is a client's call itself.
    whole: Call | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.verb} {self.operation_id} of {self.amount} on {self.account}"

    @property
    def key(self) -> Key:
        return self.account, self.quota_type, self.operation_id


#: Account, quota type, and the id by which a call and its entry are one.
Key = tuple[str, str, str]


def extension_id(hold_id: str, amount: int) -> str:
    """Return the id of a hold's growth to ``amount``: its entry has one that no caller knows."""
    return f"{hold_id}:extend:{amount}"


def payer_in(flags: str) -> str:
    """Return the account that an entry says has paid in its quota's place; empty: none has."""
    words = (word for word in flags.split() if word.startswith("by:"))
    return unquote(next(words, "").removeprefix("by:"))


def key_of(row: Any) -> Key:
    """Return what a row, or an entry, and its call have in common."""
    if row.kind == "hold.extended":
        return row.account, row.quota_type, extension_id(row.subject, row.amount)
    return row.account, row.quota_type, row.operation_id


def _is_engines_own(row: Any) -> bool:
    is_regranted = row.kind == "grant.issued" and row.operation_id.endswith(REGRANTED)
    is_given_back = row.kind == "grant.voided" and ":void:" in row.operation_id
    is_renewed = row.kind == "limit.set" and row.operation_id.startswith("limit:renew:")
    is_correction = re.search(CORRECTION, row.operation_id) is not None
    is_kind = row.kind in ENGINES_OWN
    return is_regranted or is_given_back or is_renewed or is_correction or is_kind


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
    #: Of calls on several quotas: in how many of them each is, and in how many not.
    whereabouts: dict[int, tuple[Call, int, int]] = field(default_factory=dict)

    @property
    def torn(self) -> list[Call]:
        """Calls that are in some of their quotas, and not in others."""
        return [call for call, there, absent in self.whereabouts.values() if there and absent]

    def locate(self, call: Call, *, is_there: bool) -> None:
        """Note whether a call is in one of its quotas."""
        whole = call.whole or call
        _, there, absent = self.whereabouts.get(id(whole), (whole, 0, 0))
        self.whereabouts[id(whole)] = (whole, there + is_there, absent + (not is_there))

    def add(self, other: Verdict) -> None:
        """Count another verdict in."""
        for key, (call, there, absent) in other.whereabouts.items():
            _, before, missing = self.whereabouts.get(key, (call, 0, 0))
            self.whereabouts[key] = (call, before + there, missing + absent)
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
    elsewhere: Collection[Key] = (),
) -> Verdict:
    """
    Compare calls with the ledger's rows (``ledger_entries``): all that are of these quotas.

    ``elsewhere``: what is kept in the quarantine instead, and counts as there.
    """
    verdict = Verdict()
    rows: dict[Key, list[Any]] = {}
    never = {key_of(row) for row in entries if row.kind == CANCELLED}
    entries = [row for row in entries if row.kind != CANCELLED]
    for row in entries:
        rows.setdefault(key_of(row), []).append(row)
    by_key = {call.key: call for call in calls}
    placed = {_hold_key(row) for row in entries if row.kind == "hold.placed"}
    expired = {_hold_key(row) for row in entries if row.kind == "hold.expired"}
    for key, call in by_key.items():
        hold = (call.account, call.quota_type, call.hold_id)
        is_end = call.outcome == "refused" and call.verb in ENDS_OF_HOLDS
        if is_end and hold in placed:
            verdict.wrong.append(f"{call}: the hold is there and this was refused: {call.error}")
        if key in never and (call.outcome == "done" or key in rows):
            verdict.wrong.append(f"{call} was cancelled, and is {call.outcome}")
        is_forgotten = call.outcome == "cancelled" and key not in never and call.whole is None
        if is_forgotten and (may_lose is None or not may_lose.has(call)):
            verdict.wrong.append(f"{call} was cancelled, and that is lost")
        found = rows.pop(key, [])
        if call.whole and not found and call.verb in NEED_A_HOLD and hold in expired:
            continue  # the hold was over in this quota, by a clock that is ahead
        if call.whole is None:
            _count(verdict, call)
        if call.verb != "refund":  # above it gives back what is left there, if anything is
            verdict.locate(call, is_there=bool(found) or key in elsewhere)
        verdict.wrong.extend(_wrong_about(verdict, call, found, may_lose, elsewhere))
    for (account, _, operation_id), found in rows.items():
        if strange := [row.kind for row in found if not _is_engines_own(row)]:
            verdict.wrong.append(f"nobody asked for {strange} {operation_id} on {account}")
    # what was lost and sent again came later than its answer, perhaps as the version it was told
    moved = {id(call) for call in verdict.restored}
    if may_lose is not None:
        moved |= {id(call.whole or call) for call in by_key.values() if may_lose.has(call)}
    verdict.wrong.extend(_wrong_order(by_key, entries, moved))
    verdict.wrong.extend(_wrong_amounts(by_key, entries))
    verdict.wrong.extend(plain_model.wrong_replay(entries))
    verdict.wrong.extend(plain_model.wrong_refunds(entries))
    return verdict


def _hold_key(row: Any) -> Key:
    return row.account, row.quota_type, row.subject


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
    elsewhere: Collection[Key],
) -> Iterator[str]:
    """Say what one call's rows have that they must not, or lack; note what was lost."""
    if len(found) > 1:
        yield f"{call} is there {len(found)} times"
    elif call.outcome == "unknown":
        verdict.unknown_applied += len(found) if call.whole is None else 0
    elif call.outcome in {"refused", "cancelled"}:
        # each attempt to extend is an operation of its own: an earlier one may have been applied
        if found and not (call.verb == "extend_hold" and call.attempts > 1):
            yield f"{call} was {call.outcome} ({call.error}) and is there"
    elif not found:
        if call.is_idle or call.key in elsewhere:
            return
        if call.whole is None:
            verdict.lost.append(call)
        if may_lose is None or not may_lose.has(call):
            yield f"{call} was answered at {call.ended:.3f} and is lost"
    else:
        verdict.kept += call.whole is None
        if differing := _differing(call, found[0]):
            if call.whole is None:
                verdict.restored.append(call)
            if may_lose is None or not may_lose.has(call):
                yield f"{call}: {differing}"


def _differing(call: Call, row: Any) -> str:
    is_told = call.whole is None or call.version is not None or call.verb != "release_hold"
    told = {
        "amount": call.amount if is_told else None,
        "version": call.version,
        "balance_after": call.balance,
        "shortfall": call.shortfall,
    }
    differing = [
        f"{name} was told as {value}, the ledger says {getattr(row, name)}"
        for name, value in told.items()
        if value is not None and value != getattr(row, name)
    ]
    if call.paid_by is not None and call.paid_by != payer_in(row.flags):
        differing.append(f"{call.paid_by!r} was told to pay, the ledger says {row.flags!r}")
    return "; ".join(differing)


def _wrong_order(
    calls: Mapping[Key, Call], entries: Sequence[Any], passed_over: Collection[int]
) -> Iterator[str]:
    """Say which call came after one that began only when it had been answered."""
    instants: dict[tuple[str, str], list[tuple[float, int, int, Call]]] = {}
    for row in entries:
        call = calls.get(key_of(row))
        if call is None or id(call.whole or call) in passed_over:
            continue
        of_quota = instants.setdefault((row.account, row.quota_type), [])
        of_quota.append((call.started, 1, row.version, call))
        if call.outcome == "done":
            of_quota.append((call.ended, 0, row.version, call))
    for of_quota in instants.values():
        last, before = 0, None
        for _, is_start, version, call in sorted(of_quota, key=lambda one: one[:3]):
            if not is_start:
                last, before = max((last, before), (version, call), key=lambda one: one[0])
            elif version <= last and call is not before:
                yield f"{call} (version {version}) began after {before} ({last}) was answered"


def _wrong_amounts(calls: Mapping[Key, Call], entries: Iterable[Any]) -> Iterator[str]:
    """Say which call is there with another amount than it asked for."""
    for row in entries:
        call = calls.get(key_of(row))
        is_told = call is not None and (call.verb != "refund" or call.amount > 0)
        is_chosen = is_told and row.kind not in {"hold.released", "grant.voided"}
        if call is not None and row.amount != call.amount and is_chosen:
            yield f"{call} is there with {row.amount}"
