"""
A tree of accounts on a real server, each quota beside its model: calls act on several, or on none.

The models know one quota each. What a call does to several is said here once more, simply: to each
what it would do alone, under the call's id with a suffix; and if one refuses, to none.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from quota_engine import kinds
from quota_engine.amounts import AMOUNT_MAX
from quota_engine.chain import QuotaLog
from quota_engine.commands import (
    Action,
    CaptureHold,
    Debit,
    DebitUsed,
    ExtendHold,
    GrantTerms,
    HydrateQuota,
    IssueGrant,
    PlaceHold,
    ReleaseHold,
    SetLimit,
    SetOverdraftLimit,
    Share,
)
from quota_engine.commands.arguments import details_text
from quota_engine.commands.shares import suffix_of
from quota_engine.events import NEVER_MS, next_chain
from quota_engine.keys import QuotaName, parents_of
from quota_engine.limits import checked_limit
from quota_engine.quotas import Asking, Quota
from tests.properties.beside import expected, fingerprint_of
from tests.properties.limiting import KINDS, check_counts
from tests.properties.paying import ACCOUNTS, DUE_MAX, TYPES, Paying, Shared, is_used
from tests.shards import NOON_MS, Raw, Shard, check_state, snapshot_of

LEAVES = ACCOUNTS[3:]


def told_elsewhere(command: Shared) -> str:
    """Return what is kept of a call with its entries in further quotas."""
    own = command.quota
    told = {"account": own.account}
    if any(share.quota.account == own.account for share in command.shares):
        told["quota_type"] = own.quota_type
    return details_text(told)


def part_of(command: Shared, quota: QuotaName, amount: int) -> Shared:
    """Return what a call does to one of its quotas, as a command of that quota alone."""
    suffix = suffix_of(command.quota, quota)
    changes: dict[str, Any] = {"quota": quota, "shares": ()}
    if quota != command.quota and not isinstance(command, ExtendHold):
        changes["details"] = told_elsewhere(command)
    if not isinstance(command, ReleaseHold):
        changes["amount"] = amount
    if not isinstance(command, Debit):
        changes["hold_id"] = command.hold_id + suffix
    if isinstance(command, CaptureHold) and quota != command.quota:
        changes["is_known"] = True  # it may have begun to count after the hold was placed
    if isinstance(command, CaptureHold) and command.is_final:
        changes["operation_id"] = f"{command.hold_id}{suffix}:capture"
    elif isinstance(command, CaptureHold | ExtendHold | Debit):
        changes["operation_id"] = command.operation_id + suffix
    return replace(command, **changes)


class Family(Paying):
    """Quotas of a tree of accounts and of two types, and their models."""

    def __init__(self, shard: Shard, seed: int) -> None:
        super().__init__()
        shard.open()
        self.shard = shard
        self.chance = random.Random(seed)
        self.now_ms = NOON_MS
        self.quotas = {
            name: Quota(str(name))
            for name in (QuotaName(account, kind) for account in ACCOUNTS for kind in TYPES)
        }
        self.numbers = 0
        self.calls: list[tuple[Shared, Raw]] = []
        #: The share of each quota, of every hold that may be open still.
        self.holds: list[PlaceHold] = []
        for quota in self.quotas.values():
            hydrate = HydrateQuota(snapshot=snapshot_of(quota), may_create=True)
            assert shard.call(hydrate) == ["LOADED"]

    def fresh(self, letter: str) -> str:
        self.numbers += 1
        return f"{letter}{self.numbers}"

    # -- what happens

    def act(self) -> None:
        """Do something."""
        chance, self.now_ms = self.chance, self.now_ms + self.chance.choice([0, 0, 1, 300, 1500])
        what = chance.randrange(19)
        if what < 3:
            self.grant()
        elif what == 3:
            self.limit()
        elif what < 7:
            self.place()
        elif what < 9:
            kind = chance.choice([Debit, Debit, DebitUsed])
            quota, amount, shares = self.asked()
            operation_id = self.fresh("d")
            self.call(kind(quota=quota, operation_id=operation_id, amount=amount, shares=shares))
        elif what == 9 and self.calls:
            self.again(*chance.choice(self.calls))
        elif what > 15:
            self.say()
        elif what > 13:
            self.set_limit()
        elif self.holds:
            self.go_on(chance.choice(self.holds))

    def grant(self) -> None:
        chance = self.chance
        terms = GrantTerms(
            amount=chance.randint(20, 160),
            source="purchase",
            priority=chance.randint(-1, 1),
            expires_at_ms=chance.choice([NEVER_MS, NEVER_MS, self.now_ms + 3000]),
        )
        name = chance.choice(list(self.quotas))
        self.alone(IssueGrant(quota=name, grant_id=self.fresh("g"), terms=terms))

    def limit(self) -> None:
        name, limit = self.chance.choice(list(self.quotas)), self.chance.choice([0, 0, 30, None])
        operation_id = self.fresh("o")
        self.alone(SetOverdraftLimit(quota=name, operation_id=operation_id, overdraft_limit=limit))

    def set_limit(self) -> None:
        """A limit of any quota: also of one that has nothing else, and only counts."""
        chance = self.chance
        kind = chance.choice([KINDS[0], KINDS[1], KINDS[3], KINDS[7], KINDS[9]])
        amount = chance.randint(10, 60) if kind.of == "units" else chance.randint(1, 3)
        command = SetLimit(
            quota=chance.choice(list(self.quotas)),
            operation_id=self.fresh("w"),
            action=chance.choice([Action.SET, Action.SET, Action.REMOVE]),
            limit=checked_limit(amount, **kind._asdict()),
            at_ms=self.now_ms,
        )
        self.alone(command)

    def alone(self, command: IssueGrant | SetOverdraftLimit | SetLimit) -> None:
        """Do something to one quota, on both sides."""
        wanted = expected(self.quotas[command.quota], command, self.now_ms, DUE_MAX)
        assert self.shard.call(command, now_ms=self.now_ms) == wanted

    def asked(self) -> tuple[QuotaName, int, tuple[Share, ...]]:
        """Return some call's quotas and amounts: of one or both types, of all accounts above."""
        chance = self.chance
        account = chance.choice(LEAVES)
        types = chance.choice([TYPES[:1], TYPES[1:], TYPES])
        amounts = {kind: chance.randint(1, 40) for kind in types}
        accounts = (account, *parents_of(account))
        first, *others = (
            Share(QuotaName(each, kind), amounts[kind]) for each in accounts for kind in types
        )
        return first.quota, first.amount, tuple(others)

    def place(self) -> None:
        quota, amount, shares = self.asked()
        ttl_ms = self.chance.choice([1000, 4000])
        command = PlaceHold(
            quota=quota, hold_id=self.fresh("h"), amount=amount, ttl_ms=ttl_ms, shares=shares
        )
        if self.call(command)[0] == "PLACED":
            self.holds.append(command)

    def go_on(self, hold: PlaceHold) -> None:
        """Extend, capture or release a hold that may be open or not."""
        chance, facts = self.chance, {"quota": hold.quota, "hold_id": hold.hold_id}
        amounts = {share.quota.quota_type: chance.randint(1, 50) for share in hold.shares}
        amounts.setdefault(hold.quota.quota_type, chance.randint(1, 50))
        used = [Share(share.quota, amounts[share.quota.quota_type]) for share in hold.shares]
        facts |= {"shares": tuple(used), "amount": amounts[hold.quota.quota_type]}
        what = chance.randrange(6)
        if what < 2:
            ttl_ms = chance.choice([0, 2000])
            self.call(ExtendHold(operation_id=self.fresh("e"), ttl_ms=ttl_ms, **facts))
        elif what == 2:
            self.call(CaptureHold(operation_id=self.fresh("p"), is_final=False, **facts))
        else:
            self.holds.remove(hold)
            if what < 5:
                self.call(CaptureHold(operation_id=f"{hold.hold_id}:capture", **facts))
            else:
                del facts["amount"]
                self.call(ReleaseHold(**facts))

    def again(self, command: Shared, answer: Raw) -> None:
        """The same call has its first answer and no effect; with other arguments it is refused."""
        own = command.quota
        told = ["REPLAYED", *answer[1:11]]
        above = {share.quota for share in command.shares}
        for place in range(11, len(answer), 11):  # of what limits no more nothing is told
            name = QuotaName.parse(answer[place])
            if name not in above or self.limits(own, name):
                told += answer[place : place + 11]
        assert self.shard.call(command, now_ms=self.now_ms) == told
        if not isinstance(command, ReleaseHold):
            other = replace(command, amount=command.amount + 1)
            assert self.shard.call(other, now_ms=self.now_ms) == ["IDEMPOTENCY_CONFLICT"]

    # -- on both sides

    def call(self, command: Shared) -> Raw:
        """Make a call of several quotas; compare its answer with what the models say."""
        command = replace(command, payers=self.sent_along(command))
        answer = self.shard.call(command, now_ms=self.now_ms)
        limiting = {share.quota: share.amount for share in command.shares}
        amounts = {} if isinstance(command, ReleaseHold) else {command.quota: command.amount}
        asked = {command.quota: 0, **amounts} | {
            name: amount for name, amount in limiting.items() if self.limits(command.quota, name)
        }
        self.payers = self.payers_in(command, asked)
        asked |= {payer: asked[own] for own, payer in self.payers.items() if payer not in asked}
        copies = {name: self.quotas[name].copied() for name in asked}
        wanted = self.together(command, asked, copies)
        assert answer == wanted, (command, answer, wanted)
        if wanted[0] not in {"DENIED", "EXCEEDED", "CLOSED"} and len(wanted) > 1:
            self.quotas |= copies
            if wanted[0] != "EXTENDED":
                self.calls.append((command, answer))
        return answer

    def is_counted(
        self,
        command: Shared,
        name: QuotaName,
        asked: dict[QuotaName, int],
    ) -> bool:
        """Whether only the limits of a quota are asked."""
        model = self.quotas[name]
        if name in self.payers:
            return True
        if isinstance(command, ExtendHold):
            hold = model.holds.get(command.hold_id + suffix_of(command.quota, name))
            return hold is not None and hold.is_counted
        if self.gates(name) or name.account != command.quota.account:
            return not self.gates(name)
        if isinstance(command, CaptureHold | DebitUsed):
            return bool(model.limits)
        others = (
            other
            for other in asked
            if other.account != name.account and other.quota_type == name.quota_type
        )
        return bool(model.limits) and any(map(self.gates, others))

    def together(
        self, command: Shared, asked: dict[QuotaName, int], copies: dict[QuotaName, Quota]
    ) -> Raw:
        """Return what a call is answered; do to the copies what it does if it is admitted."""
        print_ = fingerprint_of(command)
        lines: Raw = []
        outcomes: set[str] = set()
        for name, amount in asked.items():
            part = part_of(command, name, amount)
            told = "" if name == command.quota else told_elsewhere(command)
            facts = {
                "details": told,
                "is_counted": self.is_counted(command, name, asked),
                "is_in_shadow": self.refuses_nothing(command, name) and not is_used(command),
                "paid_by": self.paid_by(name),
            }
            found = expected(copies[name], part, self.now_ms, DUE_MAX, print_=print_, **facts)
            outcomes.add(found[0])
            if name == command.quota:
                if len(found) == 1:
                    return found  # the hold is not open, and the others are not asked
                lines += found
            elif found[0] in {"DENIED", "EXCEEDED"}:
                continue
            elif found[0] == "EXTENDED":
                lines += found[3:]
            elif len(found) > 3:
                lines += [str(name), *found[1:]]
            elif found[0] in {"CLOSED", "HOLD_NOT_FOUND", "HOLD_CLOSED"}:
                copies[name].catch_up(self.now_ms, DUE_MAX)  # it began to count later
            elif found[0] == "HOLD_SHRINKS":
                return found
        if "DENIED" in outcomes:
            return self.denial(command, asked)
        return self.excess(command, asked) if "EXCEEDED" in outcomes else lines

    def denial(self, command: Shared, asked: dict[QuotaName, int]) -> Raw:
        """Return the refusal: of each quota what was asked, and what it could have admitted."""
        reply: Raw = ["DENIED"]
        for name in asked:
            model, asking = self.asking(command, name, asked)
            if not (self.is_counted(command, name, asked) or self.refuses_nothing(command, name)):
                available = asking.kept + max(model.spendable, 0)
                reply += [str(name), str(asking.units or asking.kept), str(available)]
        for own in asked if isinstance(command, PlaceHold | Debit) else ():
            model, is_own = self.brought_up(own), own.account == command.quota.account
            if not is_own or own in self.payers or self.is_in_shadow(own):
                continue
            if asked[own] > max(model.spendable, 0) and not self.is_counted(command, own, asked):
                for payer in self.after(own):
                    if payer not in asked:
                        had = min(self.brought_up(payer).spendable, asked[own] - 1)
                        reply += [str(payer), str(asked[own]), str(max(had, 0))]
        return ["DENIED", reply[3]] if reply[1:-2] == [str(command.quota)] else reply

    def excess(self, command: Shared, asked: dict[QuotaName, int]) -> Raw:
        """Return the refusal by a limit: the one that refuses longest, then each quota."""
        worst, words, standings = -1, [], []
        for name in asked:
            if self.refuses_nothing(command, name):
                continue
            model, asking = self.asking(command, name, asked)
            refusing = model.refusing(self.now_ms, asking)
            if refusing is not None and refusing.relief_ms > worst:
                worst, words = refusing.relief_ms, refusing.words(str(name), self.now_ms)
            available = AMOUNT_MAX
            if not self.is_counted(command, name, asked):
                available = asking.kept + max(model.spendable, 0)
            room = min(available, model.headroom(self.now_ms, asking))
            standings += [str(name), str(asking.units or asking.kept), str(room)]
        return ["EXCEEDED", *words, *standings]

    def asking(
        self, command: Shared, name: QuotaName, asked: dict[QuotaName, int]
    ) -> tuple[Quota, Asking]:
        """Return a quota as it is now, and what the call asks of it in all."""
        model = self.quotas[name].copied()
        model.catch_up(self.now_ms, DUE_MAX)
        if not isinstance(command, ExtendHold):
            return model, Asking(asked[name], calls=1, holds=int(isinstance(command, PlaceHold)))
        hold = model.holds.get(command.hold_id + suffix_of(command.quota, name))
        if hold is None or hold.amount == asked[name]:  # it does not grow
            return model, Asking(0, kept=hold.amount if hold else 0)
        return model, Asking(asked[name], kept=hold.amount, kept_at_ms=hold.counts_at_ms)

    # -- looking

    def check(self) -> None:
        """Compare what Redis keeps with the models."""
        for quota in self.quotas.values():
            check_state(self.shard, quota)

    def check_logs(self) -> None:
        """The outbox has the models' entries, and the ledger's own rules take every one."""
        found = self.shard.entries()
        for name, quota in self.quotas.items():
            entries = [entry for entry in found if entry.quota == str(name)]
            assert tuple(entries) == quota.log
            log = QuotaLog(name=name)
            for entry in entries:
                text = entry.text()
                chain = next_chain(log.chain, text)
                assert kinds.misfit(log, entry, text, chain) is None
                kinds.apply(log, entry, chain)
            check_counts(log, quota)
