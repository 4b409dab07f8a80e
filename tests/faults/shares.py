"""
What a call asks of each of its quotas: of further types, and of the accounts above.

``spread`` makes of each call one more for each further quota, under the id that it has there, so
that ``history.check`` asks of that quota's log what it asks of the caller's own. ``Sums`` adds up
what was charged. It must not know the engine's code.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from tests.faults.history import SUFFIX, Call, Key, extension_id

#: Account and quota type.
Quota = tuple[str, str]

#: What a call of each kind is called in a further quota, by its hold's or its own id there.
IDS = {
    "debit": "{id}",
    "place_hold": "{hold}",
    "capture_part": "{id}",
    "capture_hold": "{hold}:capture",
    "release_hold": "{hold}:release",
}
CHARGES = frozenset({"quota.debited", "hold.captured"})


def suffix_of(account: str) -> str:
    """Return what follows an account's ids in the quotas of others."""
    return "@" + blake2b(account.encode(), digest_size=8).hexdigest()


def above(account: str) -> tuple[str, ...]:
    """Return the accounts above one, the nearest first."""
    parts = account.split("/")
    return tuple("/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))


def spread(calls: Iterable[Call], acting: Collection[Quota]) -> Iterator[Call]:
    """Yield each call, and its shares. ``acting``: the quotas that limit who is below."""
    for call in calls:
        yield call
        yield from shares_of(call, acting)


def shares_of(call: Call, acting: Collection[Quota]) -> Iterator[Call]:
    """Yield what a call asks of its further quotas, each as a call of its own."""
    if call.verb not in IDS and call.verb != "extend_hold":
        return
    for name, amount in call.more.items():
        yield _share(call, (call.account, name), amount, "")
    others = above(call.account) if call.scopes is None else call.scopes
    amounts = {call.quota_type: call.amount, **call.more}
    for account in others:
        for name, amount in amounts.items():
            if (account, name) in acting:
                yield _share(call, (account, name), amount, suffix_of(call.account))


def _share(call: Call, quota: Quota, amount: int, suffix: str) -> Call:
    hold_id = f"{call.hold_id}{suffix}" if call.hold_id else ""
    told = next((one for one in call.told if (one.account, one.quota_type) == quota), None)
    if call.verb == "extend_hold":
        operation_id = extension_id(hold_id, amount)
    else:
        operation_id = IDS[call.verb].format(id=f"{call.operation_id}{suffix}", hold=hold_id)
    return replace(
        call,
        account=quota[0],
        quota_type=quota[1],
        operation_id=operation_id,
        hold_id=hold_id,
        amount=told.amount if told is not None else amount,
        version=None if told is None else told.version,
        balance=None if told is None else told.balance,
        shortfall=None if told is None else told.shortfall,
        more={},
        told=(),
        whole=call,
    )


def apart(calls: Iterable[Call]) -> set[Key]:
    """Return the calls that chose their scopes, one for each of their quota types."""
    chosen = (call for call in calls if call.scopes is not None and call.whole is None)
    return {
        (call.account, name, call.operation_id)
        for call in chosen
        for name in (call.quota_type, *call.more)
    }


@dataclass(slots=True)
class Sums:
    """
    What each account's quotas were charged by itself, and by each account below.

    ``apart``: calls that chose their scopes. They count for nobody.
    """

    apart: Collection[Key] = ()
    own: dict[Quota, int] = field(default_factory=dict)
    by: dict[Quota, dict[str, int]] = field(default_factory=dict)

    def add(self, row: Any, caller: str) -> None:
        """Count a row of the ledger; ``caller``: whose call, empty for the account's own."""
        quota = (row.account, row.quota_type)
        own_id = re.sub(SUFFIX, "", row.operation_id)
        call = (caller or row.account, row.quota_type, own_id)
        if row.kind not in CHARGES or call in self.apart:
            return
        if caller:
            of_quota = self.by.setdefault(quota, {})
            of_quota[caller] = of_quota.get(caller, 0) + row.amount
        else:
            self.own[quota] = self.own.get(quota, 0) + row.amount

    def wrong(self, acting: Collection[Quota]) -> Iterator[str]:
        """Say where an account was not charged what those below it were."""
        for account, name in sorted(acting):
            charged = self.by.get((account, name), {})
            below = {
                child: amount
                for (child, of_type), amount in self.own.items()
                if of_type == name and account in above(child)
            }
            differing = {
                child: (below.get(child, 0), charged.get(child, 0))
                for child in sorted(charged.keys() | below.keys())
                if below.get(child, 0) != charged.get(child, 0)
            }
            if differing:
                yield f"{account} was not charged what those below it were, in {name}: {differing}"
