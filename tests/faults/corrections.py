"""
What corrections must come to: a call that was settled anew is charged what was said of it last.

A correction is entries of its own, ``<operation id>:correction:<n>``, as many as it needs, so it
is no call of ``history.check``. It must not know the engine's code.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.history import CORRECTION, SUFFIX, Call, Key, MayLose, payer_in
from tests.faults.plain_model import unreturned_in
from tests.faults.shares import CHARGES, suffix_of

REFUNDED = "quota.refunded"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept of an entry. ``number``: of the correction that it is of, None: of none."""

    account: str
    operation_id: str
    number: int | None
    is_refund: bool
    amount: int
    shortfall: int
    flags: str

    @property
    def collected(self) -> int:
        """What it took of its quota; negative: what it gave back there."""
        if self.is_refund:
            return unreturned_in(self.flags, self.amount) - self.amount
        return 0 if "counted" in self.flags else self.amount - self.shortfall

    @property
    def change(self) -> int:
        """By how much the call is charged more; a gift does not say that it used less."""
        if self.is_refund:
            return 0 if self.number is None else -self.amount
        return self.amount


def _entry(row: Any) -> Entry:
    found = re.search(CORRECTION, row.operation_id)
    return Entry(
        *(row.account, row.operation_id, int(found[1]) if found else None),
        *(row.kind == REFUNDED, row.amount, row.shortfall, row.flags),
    )


@dataclass(slots=True)
class Corrections:
    """Collects the entries of calls that were settled anew, and compares them with the calls."""

    asked: dict[Key, list[Call]] = field(default_factory=dict)
    _callers: dict[str, str] = field(default_factory=dict)
    _found: dict[Key, list[Entry]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, calls: Iterable[Call]) -> Corrections:
        """Return what is to be looked for: of all calls, those that settle another anew."""
        asked: dict[Key, list[Call]] = defaultdict(list)
        for call in calls:
            if call.verb == "correct_usage":
                asked[call.account, call.quota_type, call.charge_id].append(call)
        callers = {suffix_of(account): account for account, *_ in asked}
        return cls(dict(asked), callers)

    def add(self, row: Any) -> None:
        """Keep a row of the ledger if it is of a call that was settled anew."""
        id_ = row.subject if row.kind == REFUNDED else row.operation_id
        is_correction = re.search(CORRECTION, row.operation_id) is not None
        if row.kind not in CHARGES and row.kind != REFUNDED and not is_correction:
            return
        suffix = re.search(SUFFIX, id_)
        caller = self._callers.get(suffix[0], suffix[0]) if suffix else row.account
        key = (caller, row.quota_type, re.sub(f"{CORRECTION}|{SUFFIX}", "", id_))
        if is_correction or key in self.asked:
            self._found[key].append(_entry(row))

    def wrong(self, may_lose: MayLose | None = None) -> Iterator[str]:
        """Say which call is not charged what it should be."""
        for key, entries in self._found.items():
            if key not in self.asked:
                ids = [one.operation_id for one in entries]
                yield f"nobody asked to settle {key} anew: {ids}"
        for key, calls in self.asked.items():
            if may_lose is None or not any(may_lose.has(call) for call in calls):
                yield from _wrong_about(key, calls, self._found.get(key, ()))


def _wrong_about(key: Key, calls: Sequence[Call], entries: Sequence[Entry]) -> Iterator[str]:
    own = [one for one in entries if one.account == key[0]]
    charges = [one for one in own if not one.is_refund]
    first = next((one for one in charges if one.number is None), None)
    if first is None:
        if any(call.outcome == "done" for call in calls):
            yield f"{key} was settled anew, and has no charge"
        return
    corrections = {one.number: one for one in own if one.number is not None}
    if sorted(corrections) != list(range(1, len(corrections) + 1)):
        yield f"the corrections of {key} are {sorted(corrections)}"
    ids = {one.operation_id for one in own}
    for call in calls:
        if missing := set(call.ids) - ids:
            yield f"{call} was told that it wrote {sorted(missing)}, and is lost"
    yield from _wrong_elsewhere(key, corrections, entries)
    charged = sum(one.change for one in own)
    targets = _last_said(calls)
    if targets is None:
        return
    if charged not in targets:
        yield f"{key} is charged {charged} by {len(own)} entries; said was {sorted(targets)}"
    if all(call.outcome == "done" for call in calls):
        yield from _wrong_sums(key, entries)


def _wrong_sums(key: Key, entries: Sequence[Entry]) -> Iterator[str]:
    """Say which quota has given back another part of what it collected than what was not used."""
    if any(one.is_refund and one.number is None for one in entries):
        return  # a gift comes out of what could be given back
    own = [one for one in entries if one.account == key[0]]
    home = {key[0]} | {payer for one in own if (payer := payer_in(one.flags))}
    others = {one.account for one in entries} - home
    for accounts in (home, *({account} for account in others)):
        there = [one for one in entries if one.account in accounts]
        charged = collected = least = 0
        for number in sorted({one.number or 0 for one in there}):
            step = [one for one in there if (one.number or 0) == number]
            charged += step[0].change
            collected += sum(one.collected for one in step)
            least += sum(one.collected for one in step if not one.is_refund)
            if step[0].is_refund:
                least = min(least, charged)
        if collected != least:
            yield f"{sorted(accounts)} collected {collected} of {key}, and should have {least}"


def _wrong_elsewhere(
    key: Key, corrections: dict[int | None, Entry], entries: Sequence[Entry]
) -> Iterator[str]:
    """Say which correction has not done the same wherever the call was charged."""
    made, charged = defaultdict[str, set[int | None]](set), set[str]()
    for one in entries:
        if one.account == key[0]:
            continue
        if one.number is None:
            charged |= set() if one.is_refund else {one.account}
            continue
        made[one.account].add(one.number)
        own = corrections.get(one.number)
        if own is None or own.change != one.change:
            yield f"{own} of {key} is {one} in another quota"
    for account in charged:
        if missing := set(corrections) - made[account]:
            numbers = sorted(missing, key=str)
            yield f"{account} was charged for {key}, but not corrected by {numbers}"


def _last_said(calls: Sequence[Call]) -> set[int] | None:
    """Return what a call may be charged in the end; None: whatever, one may have half happened."""
    done = [call for call in calls if call.outcome == "done"]
    last = max((call.started for call in done), default=0.0)
    if not done or any(call.outcome != "done" and not 0 < call.ended < last for call in calls):
        return None
    return {call.amount for call in done if call.ended > last}
