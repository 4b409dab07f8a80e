"""
A random tree of accounts, and one of many processes that act on it at random and tell what came.

``be_one`` is such a process: each has a clock of its own, which goes forward at random.
"""

from __future__ import annotations

import json
import random
import sys
from contextlib import suppress
from datetime import timedelta
from typing import Any

from quota_engine import (
    HoldClosedError,
    LimitNotFoundError,
    QuotaEngine,
    QuotaInsufficientError,
)
from tests.engines import NOON, TestClock

TYPES = ("text_token", "credit")
#: Limits by what they are of: of, per, window, time zone, and between which amounts.
KINDS: tuple[tuple[str, str | None, str | None, str, int, int], ...] = (
    ("units", "second", "sliding", "UTC", 60, 200),
    ("units", "minute", "sliding", "UTC", 300, 900),
    ("units", "minute", "calendar", "Asia/Kathmandu", 300, 900),
    ("units", "day", "calendar", "America/New_York", 1_000, 8_000),
    ("units", "month", "sliding", "UTC", 1_000, 8_000),
    ("calls", "minute", "sliding", "UTC", 15, 60),
    ("calls", "hour", "calendar", "UTC", 100, 500),
    ("holds", None, None, "UTC", 4, 20),
)
PROGRAM = "from tests.properties.crowd import be_one; be_one()"


class Crowd:
    """What the processes of one seed share: the accounts, and what they begin with."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.groups, self.leaves = ["org"], list[str]()
        for team in range(self.chance.randint(1, 3)):
            self.groups.append(f"org/t{team}")
            for user in range(self.chance.randint(1, 3)):
                account = f"org/t{team}/u{user}"
                keys = self.chance.choice([0, 0, 2])
                (self.groups if keys else self.leaves).append(account)
                self.leaves += [f"{account}/k{key}" for key in range(keys)]

    @property
    def accounts(self) -> list[str]:
        return self.groups + self.leaves

    def furnish(self, engine: Any) -> None:
        """Give accounts grants, overdraft limits and limits, or nothing; the root can pay."""
        chance = self.chance
        for account in self.accounts:
            for kind in TYPES:
                if account == "org" or chance.random() < 0.7:
                    amount = chance.randint(300, 900) * (6 if account in self.groups else 1)
                    engine.issue_grant(account, kind, amount)
                if chance.random() < 0.15:
                    engine.set_overdraft_limit(account, kind, chance.choice([50, None]))
                for _ in range(chance.choice([0, 1, 2])):
                    change_limit(engine, chance, account, kind)


def change_limit(engine: Any, chance: random.Random, account: str, quota_type: str) -> None:
    """Set a limit, raise it for a while, or remove it if it is there."""
    of, per, window, zone, least, most = chance.choice(KINDS)
    amount, named = chance.randint(least, most), {"of": of, "per": per, "window": window}
    what = chance.randrange(6)
    with suppress(LimitNotFoundError):
        if what < 2:
            engine.limits.remove(account, quota_type, **named)
        elif what == 2:
            until = NOON + timedelta(seconds=chance.randint(1, 300))
            engine.limits.raise_until(account, quota_type, 2 * amount, until, **named)
        else:
            engine.limits.set(account, quota_type, amount, time_zone=zone, **named)


class One:
    """One process of a crowd. ``told``: of each call its id, its scopes, and what came of it."""

    def __init__(self, engine: Any, clock: TestClock, crowd: Crowd, number: int) -> None:
        self.engine, self.clock, self.crowd, self.number = engine, clock, crowd, number
        self.chance = random.Random(f"{crowd.leaves}/{number}")
        self.told: list[dict[str, Any]] = []
        self.holds: list[tuple[Any, dict[str, int]]] = []
        self.ids = 0

    def act(self) -> None:
        """Do something."""
        chance, engine = self.chance, self.engine
        self.clock.forward(seconds=chance.choice([0, 0, 0.2, 1.5, 5]))
        what = chance.randrange(20)
        if what < 8:
            self.place()
        elif what < 11:
            self.debit()
        elif what == 11:
            account, kind = chance.choice(self.crowd.accounts), chance.choice(TYPES)
            change_limit(engine, chance, account, kind)
        elif what < 14:
            self.grant()
        elif self.holds:
            self.go_on(*self.holds.pop(chance.randrange(len(self.holds))))

    def fresh(self, letter: str) -> str:
        self.ids += 1
        return f"{letter}{self.number}-{self.ids}"

    def asked(self) -> tuple[str, dict[str, int], list[str] | None]:
        chance = self.chance
        types = chance.choice([TYPES[:1], TYPES[1:], TYPES])
        scopes: list[str] | None = chance.choice([None] * 6 + [[], ["org"]])
        account = chance.choice(self.crowd.leaves)
        return account, {kind: chance.randint(1, 40) for kind in types}, scopes

    def note(self, call_id: str, scopes: list[str] | None, came: str = "admitted") -> None:
        self.told.append({"id": call_id, "scopes": scopes, "came": came})

    def place(self) -> None:
        account, amounts, scopes = self.asked()
        hold_id, ttl = self.fresh("h"), self.chance.choice([2, 600, 600])
        try:
            hold = self.engine.place_hold(
                account, amounts, scopes=scopes, operation_id=hold_id, ttl=ttl
            )
        except QuotaInsufficientError as error:
            self.note(hold_id, scopes, type(error).__name__)
        else:
            self.note(hold_id, scopes)
            self.holds.append((hold, amounts))

    def debit(self) -> None:
        account, amounts, scopes = self.asked()
        debit_id, is_used = self.fresh("d"), self.chance.random() < 0.2
        if self.chance.random() < 0.3:  # each process debits the same under the same id
            number = self.chance.randrange(6)
            leaf = self.crowd.leaves[number % len(self.crowd.leaves)]
            account, amounts, scopes, is_used = leaf, {TYPES[0]: 7}, None, False
            debit_id = f"shared{number}"
        try:
            self.engine.debit(
                account, amounts, scopes=scopes, operation_id=debit_id, already_used=is_used
            )
        except QuotaInsufficientError as error:
            self.note(debit_id, scopes, type(error).__name__)
        else:
            self.note(debit_id, scopes)

    def grant(self) -> None:
        chance, ends = self.chance, self.clock.now + timedelta(seconds=20)
        self.engine.issue_grant(
            chance.choice(self.crowd.accounts),
            chance.choice(TYPES),
            chance.randint(50, 900),
            priority=chance.randint(-1, 1),
            expires_at=chance.choice([None, ends]),
        )

    def go_on(self, hold: Any, amounts: dict[str, int]) -> None:
        """Extend, capture or release a hold that may have expired, or forget it."""
        chance = self.chance
        what = chance.randrange(10)
        if what < 3:
            grown = {kind: units + chance.randint(0, 30) for kind, units in amounts.items()}
            ttl = chance.choice([None, 5])
            with suppress(QuotaInsufficientError, HoldClosedError):
                self.engine.extend_hold(hold, grown, ttl=ttl)
                amounts = grown
            self.holds.append((hold, amounts))
            return
        used = {kind: chance.randint(0, units + 10) for kind, units in amounts.items()}
        if what == 3:
            part = {kind: max(1, units // 3) for kind, units in used.items()}
            self.engine.capture_hold(hold, part, final=False)
            self.holds.append((hold, {kind: units + 50 for kind, units in amounts.items()}))
        elif what < 8:
            self.engine.capture_hold(hold, used)
        elif what == 8:
            with suppress(HoldClosedError):
                self.engine.release_hold(hold)


def be_one() -> None:
    """Act as often as asked, beginning with all others; print what was told."""
    redis_url, database_url, seed, number, acts = sys.argv[1:]
    clock = TestClock()
    with QuotaEngine.open(redis_url, database_url, clock=clock, call_timeout_seconds=60) as engine:
        one = One(engine, clock, Crowd(int(seed)), int(number))
        engine.read_balance("org", TYPES[0])
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(int(acts)):
            one.act()
    print(json.dumps(one.told))
