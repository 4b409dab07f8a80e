"""What is said of accounts on a tree: which quotas refuse nothing, and who pays in their place."""

from __future__ import annotations

import random

from quota_engine.commands import (
    CaptureHold,
    Debit,
    DebitUsed,
    ExtendHold,
    PlaceHold,
    ReleaseHold,
)
from quota_engine.flows import set_account
from quota_engine.instants import from_ms
from quota_engine.keys import QuotaName, parents_of
from quota_engine.payers import payer_of, payer_word
from quota_engine.policies import (
    ALL_TYPES,
    ENFORCE,
    INHERIT,
    SET_ENFORCEMENT,
    SET_PAYERS,
    SHADOW,
    AccountPolicy,
    AccountStanding,
    WantedPolicy,
    applied,
    standing_of,
)
from quota_engine.quotas import Asking, Quota
from tests.shards import Shard

ACCOUNTS = ("根", "根/甲", "根/乙", "根/甲/1", "根/甲/2", "根/乙/1")
TYPES = ("text_token", "credit")
DUE_MAX = 32

Shared = PlaceHold | ExtendHold | CaptureHold | ReleaseHold | Debit


def is_used(command: Shared) -> bool:
    """Return whether nothing of a call is admitted, because it has happened."""
    return isinstance(command, DebitUsed | CaptureHold | ReleaseHold)


class Paying:
    """Policies of a tree of accounts, and what they mean for a call."""

    shard: Shard
    chance: random.Random
    now_ms: int
    quotas: dict[QuotaName, Quota]

    def __init__(self) -> None:
        self.policies: dict[str, AccountPolicy] = {}
        #: Who pays in place of which of the caller's own quotas, in the call that is looked at.
        self.payers: dict[QuotaName, QuotaName] = {}

    def is_counted(self, command: Shared, name: QuotaName, asked: dict[QuotaName, int]) -> bool:
        """Whether only the limits of a quota are asked."""
        raise NotImplementedError

    def say(self) -> None:
        """Say of an account whether its quotas, and those below it, refuse, or who pays then."""
        chance = self.chance
        account, kind = chance.choice(ACCOUNTS), chance.choice((*TYPES, ALL_TYPES))
        before = self.policies.get(account, AccountPolicy(account=account))
        payers = chance.sample(ACCOUNTS, chance.randint(0, 3))
        wanted = WantedPolicy(
            account=account,
            action=chance.choice([SET_ENFORCEMENT, SET_PAYERS]),
            operation_id="",
            enforcement=chance.choice([SHADOW, SHADOW, ENFORCE, INHERIT]),
            payers=tuple(payer for payer in payers if payer != account),
            quota_types=() if kind == ALL_TYPES else (kind,),
        )
        self.policies[account] = applied(before, wanted, from_ms(self.now_ms))
        assert self.shard.call(set_account(self.policies[account])) == ["SET"]

    def is_in_shadow(self, name: QuotaName) -> bool:
        """Whether a quota refuses nothing: by the nearest account that says something of it."""
        said = self.standing(name.account).enforcement
        return said.get(name.quota_type, said.get(ALL_TYPES)) == SHADOW

    def standing(self, account: str) -> AccountStanding:
        path = (account, *parents_of(account))
        return standing_of(account, [self.policies[one] for one in path if one in self.policies])

    def sent_along(self, command: Shared) -> tuple[QuotaName, ...]:
        """Who may have to pay: of each type all others, once anybody may."""
        own = (command.quota, *(share.quota for share in command.shares))
        names = [name for name in own if name.account == command.quota.account]
        if not any(policy.pays_after for policy in self.policies.values()):
            return ()
        return tuple(
            QuotaName(account, name.quota_type)
            for name in names
            for account in ACCOUNTS
            if account != name.account
        )

    def payers_in(
        self, command: Shared, asked: dict[QuotaName, int]
    ) -> dict[QuotaName, QuotaName]:
        """Return who pays in place of which of the caller's own quotas."""
        self.payers, found = {}, {}
        for own in [name for name in asked if name.account == command.quota.account]:
            model, hold_id = self.brought_up(own), getattr(command, "hold_id", "")
            hold = None if isinstance(command, PlaceHold) else model.holds.get(hold_id)
            if hold is not None and hold.paid_by:
                found[own] = QuotaName(payer_of(hold.paid_by), own.quota_type)
            is_late = isinstance(command, CaptureHold) and hold is None
            is_short = asked[own] > max(model.spendable, 0)
            if not is_short or not (is_late or isinstance(command, PlaceHold | Debit)):
                continue
            if not self.is_counted(command, own, asked):
                able = [
                    each for each in self.after(own) if self.can_pay(command, each, own, asked)
                ]
                if able:
                    found[own] = able[0]
        return found

    def after(self, own: QuotaName) -> list[QuotaName]:
        """Who may pay after a quota, in order."""
        said = self.standing(own.account).pays_after
        names = said.get(own.quota_type, said.get(ALL_TYPES, ()))
        return [QuotaName(name, own.quota_type) for name in names if name != own.account]

    def can_pay(
        self, command: Shared, payer: QuotaName, own: QuotaName, asked: dict[QuotaName, int]
    ) -> bool:
        model = self.brought_up(payer)
        if not self.gates(payer) or asked[own] > model.spendable:
            return False
        if payer in asked or is_used(command):
            return True
        asking = Asking(asked[own], calls=1, holds=int(isinstance(command, PlaceHold)))
        return model.refusing(self.now_ms, asking) is None

    def brought_up(self, name: QuotaName) -> Quota:
        model = self.quotas[name].copied()
        model.catch_up(self.now_ms, DUE_MAX)
        return model

    def gates(self, name: QuotaName) -> bool:
        """Whether a quota must have what a call takes."""
        model = self.quotas[name]
        return model.is_granted or model.overdraft_limit != 0

    def limits(self, own: QuotaName, name: QuotaName) -> bool:
        """Whether a quota beside the first counts."""
        return name.account == own.account or self.gates(name) or bool(self.quotas[name].limits)

    def paid_by(self, name: QuotaName) -> str:
        """Who pays in place of a quota in this call, percent-encoded."""
        return payer_word(self.payers[name].account) if name in self.payers else ""

    def refuses_nothing(self, command: Shared, name: QuotaName) -> bool:
        """Whether a quota of a call is in the shadow: one that joins it to pay refuses."""
        joins = name in self.payers.values() and name not in {
            share.quota for share in command.shares if self.limits(command.quota, share.quota)
        }
        return self.is_in_shadow(name) and (isinstance(command, ExtendHold) or not joins)
