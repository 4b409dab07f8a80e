"""Histories that the model writes alone: the walks of ``walking``, without a server."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

from quota_engine.chain import QuotaLog
from quota_engine.commands import (
    Command,
    GrantTerms,
    IssueGrant,
    SetOverdraftLimit,
    Transfer,
    TransferIn,
    TransferOut,
)
from quota_engine.events import GENESIS, NEVER_MS, next_chain
from quota_engine.keys import QuotaName
from quota_engine.quotas import Quota
from tests.entries import Written
from tests.properties.beside import expected
from tests.properties.walking import NAME, Rules
from tests.shards import NOON_MS

OTHER = QuotaName("组/{甲} 乙|丙/2", NAME.quota_type)
#: Transfers for each act, and clocks that go back.
TRANSFERS, SETBACKS = 0.15, 0.05


class Alone(Rules):
    """A walk on the model; what only asks Redis is left out."""

    def __init__(self, limit: int | None) -> None:
        super().__init__()
        self.now_ms = NOON_MS
        self.quota, self.log = Quota(str(NAME)), QuotaLog(name=NAME)
        self.numbers = count(1)
        self.sent = []
        self.known = 0
        terms = GrantTerms(amount=300, source="purchase")
        self.both(IssueGrant(quota=NAME, grant_id="g", terms=terms))
        self.both(SetOverdraftLimit(quota=NAME, operation_id="o0", overdraft_limit=limit))

    def both(self, command: Command[Any], due_max: int = 32) -> None:
        self.sent.append((command, due_max))
        expected(self.quota, command, self.now_ms, due_max)
        for entry in self.quota.log[self.known :]:
            self.take(entry)
        self.known = len(self.quota.log)

    def transfer(self, chance: random.Random) -> None:
        """Units leave for another quota, or arrive from it; that one is not looked at."""
        amount, transfer_id = chance.randint(1, 80), self.fresh("t")
        if chance.random() < 0.5:
            away = Transfer(transfer_id=transfer_id, source=NAME, target=OTHER, amount=amount)
            self.both(TransferOut(quota=NAME, transfer=away))
            return
        ends = [self.now_ms + chance.choice([2000, 9000]), NEVER_MS]
        rest = chance.randint(0, amount - 1)
        parts = [
            part for part in zip((amount - rest, rest), (0, 50), ends, strict=True) if part[0]
        ]
        terms = " ".join(" ".join(map(str, part)) for part in parts)
        here = Transfer(transfer_id=transfer_id, source=OTHER, target=NAME, amount=amount)
        self.both(TransferIn(quota=NAME, transfer=here, terms=terms))

    def freeze(self, reason: str) -> None:
        self.quota.frozen = reason

    def read_balance(self, due_max: int) -> None:
        """Ask nobody."""

    def load_anew(self, forgets: bool, is_deleted: bool) -> None:
        """Nothing is loaded."""


def history(seed: int, acts: int) -> list[Written]:
    """Return a random history of one quota, chained."""
    chance = random.Random(seed)
    walk = Alone(chance.choice([0, 0, 100, None]))
    for _ in range(acts):
        walk.act_by(chance)
        if chance.random() < TRANSFERS:
            walk.transfer(chance)
        if chance.random() < SETBACKS:
            walk.now_ms -= 1_500
    chain, written = GENESIS, []
    for entry in walk.quota.log:
        text = entry.text()
        chain = next_chain(chain, text)
        written.append(Written(entry, text, chain))
    return written
