"""Histories that the model writes alone: the walks of ``walking``, without a server."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

from quota_engine.chain import QuotaLog
from quota_engine.commands import Command, GrantTerms, IssueGrant, SetOverdraftLimit
from quota_engine.events import GENESIS, next_chain
from quota_engine.quotas import Quota
from tests.entries import Written
from tests.properties.beside import expected
from tests.properties.walking import NAME, Rules
from tests.shards import NOON_MS


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
    chain, written = GENESIS, []
    for entry in walk.quota.log:
        text = entry.text()
        chain = next_chain(chain, text)
        written.append(Written(entry, text, chain))
    return written
