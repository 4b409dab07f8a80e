"""
A quota without overdraft in a few lines: what each entry of its log must come to.

It must not know the engine's code, nor what clients asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class _Quota:
    """A quota without overdraft: what is free, and what each open hold has."""

    free: int = 0
    holds: dict[str, int] = field(default_factory=dict)

    @property
    def held(self) -> int:
        return sum(self.holds.values())

    def apply(self, row: Any) -> int:
        """Move over a row, and return the shortfall that it should have."""
        if "counted" in row.flags.split():
            return 0
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


def wrong_replay(entries: Sequence[Any]) -> Iterator[str]:
    """Say where the ledger, replayed by version, is not what the model makes of it."""
    quotas: dict[tuple[str, str], _Quota] = {}
    for row in sorted(entries, key=lambda row: (row.account, row.quota_type, row.version)):
        model = quotas.setdefault((row.account, row.quota_type), _Quota())
        if is_needless(row, model.free):
            yield f"{row.account} version {row.version}: {row.flags}, and {model.free} were free"
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


def is_needless(row: Any, free: int) -> bool:
    """Whether another account paid for a call that the own quota could have paid whole."""
    if ":correction:" in row.operation_id:  # is paid by who paid for the call
        return False
    is_new = row.kind in {"quota.debited", "hold.placed"} or "late" in row.flags.split()
    return is_new and " by:" in row.flags and row.amount <= max(free, 0)


def call_in(operation_id: str) -> str:
    """Return the call that a charge is of, and what its ids end with in another account."""
    found = re.fullmatch(
        r"(.*?)(:correction:\d+)?(@[0-9a-f]{16})?(:capture|:release)?", operation_id, re.DOTALL
    )
    assert found is not None
    base, correction, suffix, end = found.groups(default="")
    return (base if correction else base + end) + suffix


def unreturned_in(flags: str, amount: int) -> int:
    """Return what of a refund's amount did not come back in its quota."""
    if "counted" in flags.split():
        return amount
    found = re.search(r"\bunreturned (\d+)", flags)
    return int(found[1]) if found else 0


def wrong_refunds(entries: Iterable[Any]) -> Iterator[str]:
    """Say which call was given back above what it took."""
    taken: dict[tuple[str, ...], int] = {}
    returned: dict[tuple[str, ...], int] = {}
    for row in entries:
        is_counted = "counted" in row.flags.split()
        if row.kind == "quota.refunded":
            charge = (row.account, row.quota_type, call_in(row.subject))
            units = row.amount - unreturned_in(row.flags, row.amount)
            returned[charge] = returned.get(charge, 0) + units
        else:
            paid = 0 if is_counted else row.amount - row.shortfall
            charge = (row.account, row.quota_type, call_in(row.operation_id))
            taken[charge] = taken.get(charge, 0) + paid
    for charge, amount in returned.items():
        if amount > taken.get(charge, 0):
            yield f"{charge} took {taken.get(charge, 0)}, {amount} were given back"
