"""
Which quotas a call acts on: its own, of one or several types, and those of the accounts above.

An account is a path: a call on ``acme/team-7/user-42`` acts on the quotas of ``acme/team-7`` and
``acme`` too, where they have one. ``scopes`` names other accounts of the same root instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from quota_engine.amounts import checked_amount
from quota_engine.arguments import checked_quota
from quota_engine.commands import Share
from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import checked_account
from quota_engine.keys import QuotaName, parents_of, root_of
from quota_engine.settings import Settings

#: Quotas that one call may act on.
QUOTAS_MAX = 32

#: A quota type, or several with the amount of each.
TypeArgument: TypeAlias = str | Mapping[str, int]
#: Units of the one type, or of each of several.
AmountArgument: TypeAlias = int | Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call asks: of its first quota, and of further ones."""

    quota: QuotaName
    amount: int
    shares: tuple[Share, ...] = ()


def asked_of(
    account: object,
    quota_type: TypeArgument,
    amount: int | None,
    scopes: Iterable[str] | None,
    settings: Settings,
) -> Asked:
    """Return what a hold or debit asks; raise ``InvalidArgumentError`` for what none can mean."""
    if not isinstance(quota_type, Mapping):
        first = Share(checked_quota(account, quota_type, settings), checked_amount(amount))
        more: list[Share] = []
    elif amount is None and quota_type:
        first, *more = (
            Share(checked_quota(account, name, settings), checked_amount(units))
            for name, units in quota_type.items()
        )
    else:
        raise InvalidArgumentError(
            "give a quota type and an amount, or one mapping from quota types to amounts"
        )
    above = accounts_beside(first.quota.account, scopes)
    return Asked(first.quota, first.amount, _shares(first, more, above))


def used_of(
    quota: QuotaName, shares: Sequence[Share], amount: AmountArgument, *, zero_allowed: bool
) -> Asked:
    """Return what was used of a hold: an amount for each quota type that it holds."""
    own = (share.quota.quota_type for share in shares if share.quota.account == quota.account)
    types = (quota.quota_type, *own)
    if isinstance(amount, Mapping):
        amounts = amount
    elif len(types) == 1:
        amounts = {quota.quota_type: amount}
    else:
        raise InvalidArgumentError(f"this hold is of {_words(types)}: give an amount for each")
    if set(amounts) != set(types):
        raise InvalidArgumentError(
            f"this hold is of {_words(types)}, the amounts are of {_words(amounts) or 'nothing'}"
        )
    units = {name: checked_amount(amounts[name], zero_allowed=zero_allowed) for name in types}
    return Asked(
        quota,
        units[quota.quota_type],
        tuple(Share(share.quota, units[share.quota.quota_type]) for share in shares),
    )


def quotas_of(
    account: object,
    quota_type: str | Iterable[str],
    scopes: Iterable[str] | None,
    settings: Settings,
) -> Asked:
    """Return the quotas of a hold that is known by its id; all amounts are 0."""
    names = (quota_type,) if isinstance(quota_type, str) else tuple(quota_type)
    if not names:
        raise InvalidArgumentError("a hold is of one quota type at least")
    first, *more = (Share(checked_quota(account, name, settings)) for name in names)
    above = accounts_beside(first.quota.account, scopes)
    return Asked(first.quota, 0, _shares(first, more, above))


def _shares(first: Share, more: Sequence[Share], above: Sequence[str]) -> tuple[Share, ...]:
    if not above and not more:
        return ()
    own = (first, *more)
    if len(own) * (1 + len(above)) > QUOTAS_MAX:
        raise InvalidArgumentError(
            f"a call may act on {QUOTAS_MAX} quotas at most, not on"
            f" {len(own) * (1 + len(above))}: {len(own)} quota types of {1 + len(above)} accounts"
        )
    parents = (
        Share(QuotaName(account, share.quota.quota_type), share.amount)
        for account in above
        for share in own
    )
    return (*more, *parents)


def accounts_beside(own: str, scopes: Iterable[str] | None) -> tuple[str, ...]:
    """Return which other accounts a call acts on: ``scopes``, or without them those above."""
    if scopes is None:
        return tuple(parents_of(checked_account(own)))
    if isinstance(scopes, str):
        raise InvalidArgumentError("scopes must be several accounts, not one text")
    accounts = tuple(dict.fromkeys(checked_account(account) for account in scopes))
    for account in accounts:
        if root_of(account) != root_of(own):
            raise InvalidArgumentError(
                f"{account} and {own} have different roots: one call cannot act on both"
            )
    return tuple(account for account in accounts if account != own)


def _words(names: Iterable[str]) -> str:
    return " and ".join(names)
