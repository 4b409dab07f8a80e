"""
Units that move between two quotas are in one of them, whatever else happens to both.

Two quotas of one shard on a real server, each beside its model; transfers go both ways between
debits, holds and passing time. The one script does what leaving and arriving do apart. After every
step Redis keeps what the models say, and the ledger's own rules take every entry.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from quota_engine import events, kinds
from quota_engine.chain import QuotaLog
from quota_engine.commands import (
    Debit,
    DebitUsed,
    GrantTerms,
    HydrateQuota,
    IssueGrant,
    PlaceHold,
    ReleaseHold,
    SetOverdraftLimit,
    Transfer,
    TransferIn,
    TransferOut,
    TransferQuota,
)
from quota_engine.events import NEVER_MS, next_chain
from quota_engine.keys import QuotaName
from quota_engine.quotas import Quota
from tests.properties.beside import expected
from tests.shards import NOON_MS, Shard, check_state, snapshot_of

NAMES = (QuotaName("甲/1", "text_token"), QuotaName("甲/2", "text_token"))
WALKS, ACTS = 8, 90


@pytest.fixture
def shard(any_redis_url: str) -> Iterator[Shard]:
    made = Shard(any_redis_url)
    yield made
    made.close()


class Pair:
    """Two quotas and their models."""

    def __init__(self, shard: Shard, seed: int) -> None:
        shard.open()
        self.shard = shard
        self.chance = random.Random(seed)
        self.now_ms = NOON_MS
        self.quotas = {name: Quota(str(name)) for name in NAMES}
        self.numbers = 0
        self.moved = self.denied = 0
        self.transfers: list[tuple[Transfer, int]] = []
        for quota in self.quotas.values():
            hydrate = HydrateQuota(snapshot=snapshot_of(quota), may_create=True)
            assert shard.call(hydrate) == ["LOADED"]

    def fresh(self, letter: str) -> str:
        self.numbers += 1
        return f"{letter}{self.numbers}"

    def act(self) -> None:
        """Do something to one of them, or move units between them."""
        chance = self.chance
        name, amount = chance.choice(NAMES), chance.randint(1, 60)
        what = chance.randrange(10)
        self.now_ms += chance.choice([0, 0, 1, 400, 1500])
        if what < 4:
            self.move(name, amount)
        elif what == 4 and self.transfers:
            self.again(*chance.choice(self.transfers))
        elif what == 5:
            self.one(PlaceHold(quota=name, hold_id=self.fresh("h"), amount=amount, ttl_ms=2000))
        elif what == 6:
            holds = list(self.quotas[name].holds)
            if holds:
                self.one(ReleaseHold(quota=name, hold_id=chance.choice(holds)))
        elif what == 7:
            kind = chance.choice([Debit, DebitUsed])
            self.one(kind(quota=name, operation_id=self.fresh("d"), amount=amount))
        elif what == 8 and amount < 12:
            limit = chance.choice([0, 40, None])
            operation_id = self.fresh("o")
            self.one(
                SetOverdraftLimit(quota=name, operation_id=operation_id, overdraft_limit=limit)
            )
        else:
            terms = GrantTerms(
                amount=2 * amount,
                source="purchase",
                priority=chance.randint(-1, 1),
                expires_at_ms=chance.choice([NEVER_MS, self.now_ms + 3000]),
            )
            self.one(IssueGrant(quota=name, grant_id=self.fresh("g"), terms=terms))

    def one(self, command: object) -> None:
        """Do something to one quota, on both sides."""
        wanted = expected(self.quotas[command.quota], command, self.now_ms, 32)  # type: ignore[attr-defined,arg-type]
        answer = self.shard.call(command, now_ms=self.now_ms)  # type: ignore[arg-type]
        assert answer[: len(wanted)] == wanted

    def move(self, source: QuotaName, amount: int) -> None:
        """Move units by the one script; the models do it in two steps."""
        target = NAMES[source == NAMES[0]]
        transfer = Transfer(
            transfer_id=self.fresh("t"), source=source, target=target, amount=amount
        )
        sender, receiver = self.quotas[source].copied(), self.quotas[target].copied()
        out = TransferOut(quota=source, transfer=transfer)
        wanted = expected(sender, out, self.now_ms, 32)
        if wanted[0] == "SENT":
            terms = sender.log[-1].terms
            arrival = TransferIn(quota=target, transfer=transfer, terms=terms)
            assert expected(receiver, arrival, self.now_ms, 32)[0] == "ARRIVED"
            self.quotas |= {source: sender, target: receiver}
            wanted[0] = "TRANSFERRED"
            self.moved += amount
            self.transfers.append((transfer, self.now_ms))
        else:
            assert wanted[0] == "DENIED"
            self.denied += 1
        command = TransferQuota(quota=source, transfer=transfer)
        assert self.shard.call(command, now_ms=self.now_ms) == wanted

    def again(self, transfer: Transfer, _: int) -> None:
        """The same transfer has its first answer, and no effect."""
        command = TransferQuota(quota=transfer.source, transfer=transfer)
        assert self.shard.call(command, now_ms=self.now_ms)[0] == "REPLAYED"

    def check(self) -> None:
        """Compare what Redis keeps with the models."""
        for quota in self.quotas.values():
            check_state(self.shard, quota)

    def check_logs(self) -> None:
        """The ledger takes every entry, and what left has arrived."""
        found = self.shard.entries()
        sums = {events.QUOTA_TRANSFERRED_OUT: 0, events.QUOTA_TRANSFERRED_IN: 0}
        for name, quota in self.quotas.items():
            entries = [entry for entry in found if entry.quota == str(name)]
            assert tuple(entries) == quota.log
            log = QuotaLog(name=name)
            for entry in entries:
                text = entry.text()
                chain = next_chain(log.chain, text)
                assert kinds.misfit(log, entry, text, chain) is None
                kinds.apply(log, entry, chain)
                if entry.kind in sums:
                    sums[entry.kind] += entry.delta
        assert sums[events.QUOTA_TRANSFERRED_IN] == self.moved
        assert sums[events.QUOTA_TRANSFERRED_OUT] == -self.moved


def test_what_leaves_one_quota_arrives_in_the_other(shard: Shard) -> None:
    moved = denied = 0
    for seed in range(WALKS):
        pair = Pair(shard, seed)
        for _ in range(ACTS):
            pair.act()
            pair.check()
        pair.check_logs()
        moved, denied = moved + pair.moved, denied + pair.denied
    assert moved > 500
    assert denied > 10
