"""
One call on several quotas: what it asks of those beside its first, and what it did to them.

A call on ``acme/team-7/user-42`` acts on the quotas of ``acme/team-7`` and ``acme`` too, and on
several quota types at once, in one script: all or nothing. See ``lua/lib/shares.lua``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from quota_engine.commands.arguments import details_text, fingerprint, writing_keys
from quota_engine.commands.base import Command
from quota_engine.commands.replies import PayersWantedError
from quota_engine.commands.snapshots import Operation
from quota_engine.errors import EngineFault
from quota_engine.keys import QuotaName, ShardKeys, parents_of
from quota_engine.payers import BY, payer_in

T = TypeVar("T")

#: Lines of one answer: fingerprint, version ... movements.
ANSWER_LINES = 10
#: Which of them tells flags.
FLAGS_LINE = 7


@dataclass(frozen=True, slots=True)
class Share:
    """What a call asks of one quota of its shard beside the first. ``amount`` in its units."""

    quota: QuotaName
    amount: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeChange:
    """
    What a call did to one quota beside its first. ``balance`` and ``version``: right after it.

    ``late``: the hold was not open there (any more) when it was captured.
    """

    account: str
    quota_type: str
    amount: int
    shortfall: int
    balance: int
    held: int
    version: int
    late: bool = False
    #: The account that pays in its place; None: none does.
    paid_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadowed:
    """
    A quota in the shadow that would have refused what it let through.

    ``reason``: ``insufficient``, it had too little; or ``limited``, by one of its limits.
    """

    account: str
    quota_type: str
    reason: str


class SharedCommand(Command[T]):
    """A command that may act on further quotas beside its first, all or nothing."""

    __slots__ = ()

    #: What is asked of them: of other types of the same account, then of other accounts.
    shares: tuple[Share, ...]
    #: Quotas that may pay where the account's own cannot. Who does is decided by the script.
    payers: tuple[QuotaName, ...]

    @property
    def others(self) -> tuple[QuotaName, ...]:
        return (*(share.quota for share in self.shares), *self.payers)

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        more = share_keys(keys, self.shares)
        if self.payers:
            more += share_keys(keys, tuple(map(Share, self.payers)))
        return (*writing_keys(keys, self.quota), *more)


def with_payers(command: Command[T], wanted: PayersWantedError) -> Command[T]:
    """Return a command with quotas that may have to pay; raise if it was sent with them."""
    known = command.payers if isinstance(command, SharedCommand) else None
    if known is None or set(wanted.quotas) <= set(known):
        raise EngineFault(str(wanted)) from wanted
    again: Any = command
    payers = tuple(dict.fromkeys((*known, *wanted.quotas)))
    return cast("Command[T]", replace(again, payers=payers))


def suffix_of(first: QuotaName, quota: QuotaName) -> str:
    """Return what follows a call's ids in another quota: empty in one of its own account."""
    return "" if quota.account == first.account else suffix_beside(first)


def scopes_told(first: QuotaName, shares: Iterable[Share]) -> list[str] | None:
    """Return the accounts of a call that are not above its own: who settles it must know them."""
    usual = {first.account, *parents_of(first.account)}
    accounts = dict.fromkeys(share.quota.account for share in shares)
    return [account for account in accounts if account not in usual] or None


def suffix_beside(first: QuotaName) -> str:
    """Return what follows a call's ids in the quotas of other accounts."""
    return f"@{fingerprint(first.account)}"


def share_keys(keys: ShardKeys, shares: Iterable[Share]) -> tuple[str, ...]:
    """Return the keys of further quotas, five each, as the scripts take them from KEYS[9] on."""
    found: list[str] = []
    for share in shares:
        name = str(share.quota)
        found += (
            *(keys.quota(name), keys.holds(name), keys.changes(name)),
            *(keys.ops0(name), keys.ops1(name)),
        )
    return tuple(found)


def shares_text(
    first: QuotaName, shares: Sequence[Share], payers: Sequence[QuotaName] = ()
) -> str:
    """
    Return the ``others`` argument: JSON for their entries, then a line for each quota.

    Of a call of several quota types the entries tell the first of them: its record is kept there.
    """
    if not (shares or payers):
        return ""
    told: dict[str, object] = {"account": first.account, "scopes": scopes_told(first, shares)}
    if any(share.quota.account == first.account for share in shares):
        told["quota_type"] = first.quota_type
    lines = [details_text(told)]
    lines += (
        f"{share.amount} {suffix_of(first, share.quota) or '-'} {share.quota}" for share in shares
    )
    lines += (f"0 !{suffix_of(first, quota)} {quota}" for quota in payers)
    return "\n".join(lines) + "\n"


def shares_print(shares: Sequence[Share]) -> tuple[str, ...]:
    """Return what of the further quotas belongs to an operation's fingerprint."""
    return tuple(f"{share.quota}={share.amount}" for share in shares)


def split_answers(lines: Sequence[str]) -> tuple[Sequence[str], tuple[ScopeChange, ...]]:
    """Return the first quota's answer, and what happened to the others that changed."""
    others = range(ANSWER_LINES, len(lines), ANSWER_LINES + 1)
    return lines[:ANSWER_LINES], tuple(
        _change(lines[place], lines[place + 1 : place + 1 + ANSWER_LINES]) for place in others
    )


def shadowed_in(first: QuotaName, lines: Sequence[str]) -> tuple[Shadowed, ...]:
    """Return which quotas of an answer would have refused, by the flags of their entries."""
    names = [str(first), *lines[ANSWER_LINES :: ANSWER_LINES + 1]]
    flags = lines[FLAGS_LINE :: ANSWER_LINES + 1]
    if not any("shadow" in words for words in flags):
        return ()
    return shadowed_of(
        word
        for name, words in zip(names, flags, strict=True)
        if "shadow" in words.split()
        for word in (name, words.rpartition(" ")[2])
    )


def shadowed_of(words: Iterable[str]) -> tuple[Shadowed, ...]:
    """Return the quotas that a reply names, each with its reason behind it."""
    told = iter(words)
    return tuple(
        Shadowed(account=quota.account, quota_type=quota.quota_type, reason=reason)
        for quota, reason in ((QuotaName.parse(name), next(told)) for name in told)
        if not reason.startswith(BY)
    )


def payer_told(first: QuotaName, words: Sequence[str]) -> str | None:
    """Return who would pay in place of the first quota, of what a dry call is told."""
    said = zip(words[::2], words[1::2], strict=True)
    return next((payer_in(reason) for name, reason in said if name == str(first)), None)


def _change(name: str, lines: Sequence[str]) -> ScopeChange:
    quota, answer = QuotaName.parse(name), Operation.parse("", lines)
    return ScopeChange(
        account=quota.account,
        quota_type=quota.quota_type,
        amount=answer.amount,
        shortfall=answer.shortfall,
        balance=answer.balance,
        held=answer.held,
        version=answer.version,
        late="late" in answer.flags.split(),
        paid_by=payer_in(answer.flags),
    )
