"""
What a call asks of each of its quotas: of further types, of the accounts above, of who pays.

``spread`` makes of each call one more for each further quota, under the id that it has there, so
that ``history.check`` asks of that quota's log what it asks of the caller's own. Who paid is told
by the caller's own entry. ``Sums`` adds up what was charged. It must not know the engine's code.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from tests.faults.history import CORRECTION, SUFFIX, Call, Key, extension_id, key_of, payer_in

#: Account and quota type.
Quota = tuple[str, str]

#: What a call of each kind is called in a further quota, by its hold's or its own id there.
IDS = {
    "debit": "{id}",
    "debit_used": "{id}",
    "refund": "{id}",
    "place_hold": "{hold}",
    "capture_part": "{id}",
    "capture_hold": "{hold}:capture",
    "release_hold": "{hold}:release",
}
CHARGES = frozenset({"quota.debited", "hold.captured"})
#: No call was paid by another account than its own.
NOBODY: Mapping[Key, str] = {}


def suffix_of(account: str) -> str:
    """Return what follows an account's ids in the quotas of others."""
    return "@" + blake2b(account.encode(), digest_size=8).hexdigest()


def above(account: str) -> tuple[str, ...]:
    """Return the accounts above one, the nearest first."""
    parts = account.split("/")
    return tuple("/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))


def payers_in(rows: Iterable[Any]) -> dict[Key, str]:
    """
    Return who paid for which call in place of the caller's own quota, by its entry there.

    Empty: nobody did, whatever its client was told. What was lost and is done again may find
    another who can pay.
    """
    return {key_of(row): payer_in(row.flags) for row in rows}


def spread(
    calls: Iterable[Call], acting: Collection[Quota], payers: Mapping[Key, str] = NOBODY
) -> Iterator[Call]:
    """
    Yield each call, and its shares. ``acting``: the quotas that limit who is below.

    A refund is yielded as one of the quota that paid for the charge, a correction not at all: it
    has entries, as many as it needs (``corrections``).
    """
    for call in calls:
        if call.verb == "refund":
            yield from _refunds_of(call, acting, payers)
        elif call.verb != "correct_usage":
            yield call
            yield from shares_of(call, acting, payers)


def _refunds_of(
    call: Call, acting: Collection[Quota], payers: Mapping[Key, str]
) -> Iterator[Call]:
    """Yield what a refund gives back: to who paid, and above the caller what is left there."""
    home = payers.get((call.account, call.quota_type, call.charge_id)) or call.account
    yield replace(call, account=home)
    for account in above(call.account):
        if (account, call.quota_type) in acting and account != home:
            share = _share(call, (account, call.quota_type), 0, suffix_of(call.account))
            is_open = call.outcome == "done" and share.version is None
            yield replace(share, outcome="unknown") if is_open else share


def shares_of(call: Call, acting: Collection[Quota], payers: Mapping[Key, str]) -> Iterator[Call]:
    """Yield what a call asks of its further quotas, each as a call of its own."""
    if call.verb not in IDS and call.verb != "extend_hold":
        return
    beside = {
        name: _share(call, (call.account, name), amount, "") for name, amount in call.more.items()
    }
    yield from beside.values()
    others = above(call.account) if call.scopes is None else call.scopes
    suffix = suffix_of(call.account)
    for name, own in {call.quota_type: call, **beside}.items():
        asked = {(account, name) for account in others} & set(acting)
        # the end of an unused hold does not say who paid; its beginning does
        named = call.hold_id if call.verb == "release_hold" else own.operation_id
        if payer := payers.get((call.account, name, named), own.paid_by):
            asked.add((payer, name))
        amount = call.amount if own is call else call.more[name]
        yield from (_share(call, quota, amount, suffix) for quota in sorted(asked))


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
        paid_by=None if told is None else told.paid_by,
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
        own_id = re.sub(f"{CORRECTION}|{SUFFIX}", "", row.operation_id)
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
