"""Every command on one quota, in any order, on a real server and on the model beside it."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import chain, count
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from quota_engine import kinds
from quota_engine.chain import QuotaLog
from quota_engine.commands import (
    CancelOperation,
    CaptureHold,
    CatchUp,
    Command,
    Debit,
    DebitUsed,
    ExtendHold,
    FreezeQuota,
    GrantTerms,
    HydrateQuota,
    IssueGrant,
    PlaceHold,
    ReadBalance,
    Refund,
    ReleaseHold,
    SetOverdraftLimit,
    VoidGrant,
)
from quota_engine.events import NEVER_MS, Entry, next_chain
from quota_engine.keys import QuotaName
from quota_engine.quotas import Quota
from tests.properties.beside import altered, expected, refund_of
from tests.properties.limiting import ACTIONS, KINDS, LONG, Limited, check_counts
from tests.properties.noting import Noting, details, due_maxes
from tests.properties.transferring import Moving
from tests.shards import NOON_MS, Shard, check_state, snapshot_of

BURST = 5
NAME = QuotaName("组/{甲} 乙|丙", "text_token")

amounts = st.integers(1, 80)
plenty = st.integers(50, 400)
seconds = st.integers(1, 8).map(lambda number: number * 1000)
#: One of what is there, by its place, or something that is not.
places = st.integers(0, 5)
instants = st.sampled_from([None, None, None, 2000, 4000, 9000])


class Rules(Moving, Limited, Noting, RuleBasedStateMachine):
    """One quota on one shard, beside its model."""

    shard: Shard
    name = NAME
    steps = 0

    @initialize(limit=st.sampled_from([0, 0, 100, None]))
    def begin(self, limit: int | None) -> None:
        self.shard.open()
        self.now_ms = NOON_MS
        self.quota = Quota(str(NAME))
        self.log = QuotaLog(name=NAME)
        self.known = 0
        hydrate = HydrateQuota(snapshot=snapshot_of(self.quota), may_create=True)
        assert self.shard.call(hydrate) == ["LOADED"]
        self.numbers = count(1)
        self.sent: list[tuple[Command[Any], int]] = []
        terms = GrantTerms(amount=300, source="purchase", expires_at_ms=NOON_MS + 9000)
        self.both(IssueGrant(quota=NAME, grant_id="赠|{0}", terms=terms))
        if limit != 0:
            self.both(SetOverdraftLimit(quota=NAME, operation_id="o0", overdraft_limit=limit))

    def difference(self, command: Command[Any]) -> str:
        """Say which entries the two sides have that the other has not."""
        real, model = self.shard.entries(), self.quota.log
        pairs = enumerate(zip(real, model, strict=False))
        same = next((place for place, pair in pairs if pair[0] != pair[1]), -1)
        return f"{command}\nredis: {real[same:]}\nmodel: {model[same:]}"

    def fresh(self, letter: str) -> str:
        return f"{letter}{next(self.numbers)}"

    def hold_at(self, place: int) -> str:
        """An open hold, or beyond them one that has been closed, or was never placed."""
        held = list(self.quota.holds)
        known = [
            name for name in self.quota.operations if name.startswith("h") and ":" not in name
        ]
        names = [*held, *reversed(known), "h0"]
        return names[place] if place < len(names) else "h0"

    def grant_at(self, place: int) -> str:
        return [*self.quota.grants, "g0", "g0", "g0", "g0", "g0", "g0"][place]

    def both(self, command: Command[Any], due_max: int = 32) -> None:
        """Run a command on both sides, and compare the answers."""
        type(self).steps += 1
        self.sent.append((command, due_max))
        wanted = expected(self.quota, command, self.now_ms, due_max)
        answer = self.shard.call(command, now_ms=self.now_ms, due_max=due_max)
        assert answer[: len(wanted)] == wanted, self.difference(command)

    @rule(milliseconds=st.sampled_from([0, 1, 500, 1000, 1000, 2000, 5000, 20_000, -1500]))
    def time_passes(self, milliseconds: int) -> None:
        self.now_ms += milliseconds

    @rule(
        amount=plenty,
        priority=st.integers(-1, 1),
        starts_in=st.sampled_from([None, None, 0, 2000, 4000, -3000]),
        ends_in=instants,
        due_max=due_maxes,
    )
    def issue_grant(
        self,
        *,
        amount: int,
        priority: int,
        starts_in: int | None,
        ends_in: int | None,
        due_max: int,
    ) -> None:
        terms = GrantTerms(
            amount=amount,
            source="purchase",
            priority=priority,
            starts_at_ms=0 if starts_in is None else self.now_ms + starts_in,
            expires_at_ms=NEVER_MS if ends_in is None else self.now_ms + ends_in,
        )
        self.both(IssueGrant(quota=NAME, grant_id=self.fresh("g"), terms=terms), due_max)

    @rule(place=places, due_max=due_maxes)
    def void_grant(self, place: int, due_max: int) -> None:
        self.both(VoidGrant(quota=NAME, grant_id=self.grant_at(place)), due_max)

    @rule(amount=amounts, ttl_ms=seconds, text=details, due_max=due_maxes)
    def place_hold(self, amount: int, ttl_ms: int, text: str, due_max: int) -> None:
        hold_id = self.fresh("h")
        hold = PlaceHold(quota=NAME, hold_id=hold_id, amount=amount, ttl_ms=ttl_ms, details=text)
        self.both(hold, due_max)

    @rule(amount=amounts, ttl_ms=seconds)
    def place_another_hold(self, amount: int, ttl_ms: int) -> None:
        self.place_hold(amount, ttl_ms, "", 32)

    @rule(
        place=places,
        growth=st.integers(-3, 60),
        ttl_ms=st.one_of(st.just(0), seconds),
        due_max=due_maxes,
    )
    def extend_hold(self, place: int, growth: int, ttl_ms: int, due_max: int) -> None:
        hold_id = self.hold_at(place)
        hold = self.quota.holds.get(hold_id)
        amount = max((hold.amount if hold else 50) + growth, 0) if growth else 0
        operation_id = self.fresh("e")
        extend = ExtendHold(
            quota=NAME, hold_id=hold_id, operation_id=operation_id, amount=amount, ttl_ms=ttl_ms
        )
        self.both(extend, due_max)

    @rule(place=places, amount=st.one_of(st.just(0), amounts), is_known=st.booleans())
    def capture_hold(self, place: int, amount: int, is_known: bool) -> None:
        hold_id = self.hold_at(place)
        capture = CaptureHold(
            quota=NAME,
            hold_id=hold_id,
            operation_id=f"{hold_id}:capture",
            amount=amount,
            is_known=is_known,
        )
        self.both(capture)

    @rule(place=places, amount=amounts, due_max=due_maxes)
    def capture_part(self, place: int, amount: int, due_max: int) -> None:
        hold_id, operation_id = self.hold_at(place), self.fresh("p")
        capture = CaptureHold(
            quota=NAME, hold_id=hold_id, operation_id=operation_id, amount=amount, is_final=False
        )
        self.both(capture, due_max)

    @rule(place=places, due_max=due_maxes)
    def release_hold(self, place: int, due_max: int) -> None:
        self.both(ReleaseHold(quota=NAME, hold_id=self.hold_at(place)), due_max)

    @rule(amount=amounts, already_used=st.booleans(), due_max=due_maxes)
    def debit(self, amount: int, already_used: bool, due_max: int) -> None:
        operation_id = self.fresh("d")
        kind = DebitUsed if already_used else Debit
        self.both(kind(quota=NAME, operation_id=operation_id, amount=amount), due_max)

    @rule(place=places, amount=amounts, grace_ms=st.sampled_from([0, 0, 3000]), due_max=due_maxes)
    def refund(self, place: int, amount: int, grace_ms: int, due_max: int) -> None:
        """Give back a charge, or a part of it, as the ledger would decide: each charge once."""
        done = {command.charge_id for command, _ in self.sent if isinstance(command, Refund)}
        charges = [
            entry
            for entry in reversed(self.quota.log)
            if entry.charged > entry.shortfall and entry.operation_id not in done
        ]
        if place >= len(charges):
            return
        options = {"refund_id": self.fresh("r"), "grace_ms": grace_ms}
        refund = refund_of(NAME, charges[place], amount, self.log.grants, **options)
        self.both(refund, due_max)

    @rule(limit=st.sampled_from([0, 50, 300, None]))
    def set_overdraft_limit(self, limit: int | None) -> None:
        fresh = self.fresh("o")
        self.both(SetOverdraftLimit(quota=NAME, operation_id=fresh, overdraft_limit=limit))

    @rule(place=places, is_absent=st.booleans(), due_max=due_maxes)
    def cancel_operation(self, place: int, is_absent: bool, due_max: int) -> None:
        """A caller that got no answer: the operation came before, or will come later, or never."""
        sent = self.sent[-min(place + 1, len(self.sent))][0]
        next_number = next(self.numbers)
        self.numbers = chain([next_number], self.numbers)
        hold_id = self.hold_at(place)
        coming = [f"{letter}{next_number}" for letter in "hdgpeu"]
        ids = [getattr(sent, "operation_id", hold_id), hold_id, *coming]
        ids += [f"{hold_id}:capture", f"{hold_id}:release"]
        operation_id = ids[(place + next_number) % len(ids)]
        cancel = CancelOperation(quota=NAME, operation_id=operation_id, is_absent=is_absent)
        self.both(cancel, due_max)

    @rule(place=st.integers(1, 12), is_altered=st.booleans())
    def send_again(self, place: int, is_altered: bool) -> None:
        """A caller tries again what it sent before; or uses the same id for something else."""
        command, due_max = self.sent[-min(place, len(self.sent))]
        if is_altered:
            command = altered(command)
        self.both(command, due_max)

    @rule(place=places, amount=amounts)
    def act_while_frozen(self, place: int, amount: int) -> None:
        """What needs a sound log is refused; what has been used is charged all the same."""
        self.freeze("in doubt")
        self.place_hold(amount, 1000, "", 32)
        self.debit(amount, amount % 2 == 0, 32)
        self.void_grant(place, 32)
        self.set_overdraft_limit(None)
        self.issue_grant(amount=amount, priority=0, starts_in=None, ends_in=None, due_max=32)
        self.extend_hold(place, 1, 0, 32)
        self.capture_part(place, amount, 32)
        self.cancel_operation(place, amount % 2 == 0, 32)
        self.freeze("")

    @rule(seed=st.integers(0, 2**32 - 1))
    def a_busy_moment(self, seed: int) -> None:
        """Several commands in a row, weighted as callers would send them."""
        chance = random.Random(f"{seed}:{len(self.sent)}")
        for _ in range(BURST):
            self.act_by(chance)
            self.redis_keeps_what_the_model_says()
            self.the_log_is_whole()

    def act_by(self, chance: random.Random) -> None:
        place = chance.choice([0, 0, 0, 1, 1, 2, 3, 4])
        amount, due_max = chance.randint(1, 80), chance.choice([1, 32, 32, 32])
        soon = chance.choice([1000, 2000, 3000, 5000])
        starts, ends = (
            chance.choice([None, None, 0, 2000, 4000]),
            chance.choice([None, 3000, 3000, 9000]),
        )
        is_odd = chance.random() < 0.5
        acts: list[tuple[int, Callable[[], None]]] = [
            (6, lambda: self.place_hold(amount, soon, "", due_max)),
            (3, lambda: self.extend_hold(place, amount // 2 - 3, soon * is_odd, due_max)),
            (3, lambda: self.capture_hold(place, amount * is_odd, is_odd)),
            (2, lambda: self.capture_part(place, amount // 2 + 1, due_max)),
            (3, lambda: self.release_hold(place, due_max)),
            (3, lambda: self.debit(amount, is_odd, due_max)),
            (2, lambda: self.refund(place, amount, 3000 * is_odd, due_max)),
            (1, lambda: self.void_grant(place, due_max)),
            (2, lambda: self.transfer_out(amount, 1 + place, due_max)),
            (2, lambda: self.transfer_in(amount + 2, ends, place % 3 - 1, 5000, due_max)),
            (1, lambda: self.set_overdraft_limit(chance.choice([0, 50, 300, None]))),
            (
                2,
                lambda: self.set_limit(
                    amount % len(KINDS), amount * 5, chance.choice(ACTIONS), 32
                ),
            ),
            (4, lambda: self.send_again(chance.randint(1, 8), is_odd)),
            (4, lambda: self.time_passes(chance.choice([1, 500, 1000, 1000, 2000, 4000]))),
            (1, lambda: self.much_time_passes(chance.choice(LONG))),
            (1, lambda: self.catch_up(due_max)),
            (1, lambda: (self.record_repair if is_odd else self.record_usage)("", due_max)),
            (2, lambda: self.cancel_operation(place, is_odd, due_max)),
            (1, lambda: self.read_balance(due_max)),
            (1, lambda: self.load_anew(is_odd and place == 0, place < 3)),
            (
                3,
                lambda: self.issue_grant(
                    amount=amount * 3,
                    priority=place % 3,
                    starts_in=starts,
                    ends_in=ends,
                    due_max=due_max,
                ),
            ),
        ]
        chance.choices([act for _, act in acts], [weight for weight, _ in acts])[0]()

    def freeze(self, reason: str) -> None:
        assert self.shard.call(FreezeQuota(quota=NAME, reason=reason)) == ["MARKED"]
        self.quota.frozen = reason

    @rule(due_max=st.integers(1, 4))
    def catch_up(self, due_max: int) -> None:
        self.both(CatchUp(quota=NAME, due_max=due_max))

    @rule(due_max=due_maxes)
    def read_balance(self, due_max: int) -> None:
        command = ReadBalance(quota=NAME, due_max=due_max)
        answer = self.shard.call(command, now_ms=self.now_ms)
        later = self.quota.copied()
        caught_up = later.catch_up(self.now_ms, due_max)
        if caught_up[2] == "1":
            assert answer == ["CATCH_UP"]
            return
        balance = command.parse(answer)
        assert (balance.balance, balance.held, balance.debt) == (
            *(later.balance, later.held, later.debt),
        )
        assert int(answer[6]) == later.spendable
        listed = sorted(
            (grant for grant in later.grants.values() if grant.state == "live"),
            key=lambda grant: grant.order,
        )
        assert [(grant.grant_id, grant.remaining) for grant in balance.grants] == [
            (grant.grant_id, grant.remaining) for grant in listed if grant.remaining
        ]
        assert {grant.grant_id for grant in balance.pending_grants} == {
            grant.grant_id for grant in later.grants.values() if grant.state == "pending"
        }

    @rule(forgets=st.booleans(), is_deleted=st.booleans())
    def load_anew(self, forgets: bool, is_deleted: bool) -> None:
        """The quota's key is lost, or only believed to be: it is loaded from a snapshot."""
        name = str(NAME)
        keys = self.shard.keys
        if not is_deleted:
            assert self.shard.call(HydrateQuota(snapshot=snapshot_of(self.quota))) == ["PRESENT"]
            return
        self.shard.client.delete(keys.quota(name))
        if forgets:
            self.quota.operations = {}
        hydrate = HydrateQuota(snapshot=snapshot_of(self.quota), may_create=True)
        assert self.shard.call(hydrate) == ["LOADED"]
        self.quota.loaded_anew()

    @invariant()
    def redis_keeps_what_the_model_says(self) -> None:
        check_state(self.shard, self.quota)

    @invariant()
    def the_log_is_whole(self) -> None:
        entries = self.shard.entries()
        assert tuple(entries) == self.quota.log
        assert [entry.version for entry in entries] == list(range(1, len(entries) + 1))
        for entry in entries[self.known :]:
            self.take(entry)
        self.known = len(entries)
        check_counts(self.log, self.quota)

    def take(self, entry: Entry) -> None:
        debt_before = self.log.debt
        moved = sum(move.remaining + move.reserved for move in entry.movements)
        assert entry.delta == moved - (entry.debt - debt_before)
        text = entry.text()
        chain = next_chain(self.log.chain, text)
        assert kinds.misfit(self.log, entry, text, chain) is None
        kinds.apply(self.log, entry, chain)

    @invariant()
    def sums_are_sums(self) -> None:
        quota = self.quota
        assert quota.covered == sum(
            units for hold in quota.holds.values() for _, units in hold.parts
        )
        assert quota.held == sum(hold.amount for hold in quota.holds.values())
        if quota.log:
            last = quota.log[-1]
            assert (last.balance, last.held, last.debt) == (quota.balance, quota.held, quota.debt)
