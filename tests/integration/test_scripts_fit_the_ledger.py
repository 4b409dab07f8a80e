"""Whatever the scripts write, the ledger takes: nothing is quarantined, and all of it verifies."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import text

from quota_engine.commands import (
    Action,
    CancelOperation,
    CaptureHold,
    CatchUp,
    Command,
    Debit,
    DebitUsed,
    ExtendHold,
    GrantTerms,
    IssueGrant,
    PlaceHold,
    ReleaseHold,
    SetLimit,
    SetOverdraftLimit,
    VoidGrant,
)
from quota_engine.commands.replies import CatchUpError, QuotaNotLoadedError
from quota_engine.errors import QuotaError
from quota_engine.events import NEVER_MS
from quota_engine.jobs.reconcile import reconcile
from quota_engine.jobs.running import run_command
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName
from quota_engine.limits import checked_limit
from tests.deployments import Deployment
from tests.entries import AT_MS

STEPS = 500
#: Of each length that the ledger keeps, and of one that it does not.
LIMITS = (
    checked_limit(300, of="units", per="minute", window=None, time_zone="UTC"),
    checked_limit(2_000, of="units", per="hour", window=None, time_zone="UTC"),
    checked_limit(3_000, of="units", per="day", window=None, time_zone="Asia/Kolkata"),
    checked_limit(80, of="calls", per="week", window="sliding", time_zone="UTC"),
    checked_limit(6, of="holds", per=None, window=None, time_zone="UTC"),
)
Maker = Callable[[], Command[object]]


class Chance:
    """Random commands on few quotas, with a clock that goes on."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_ms = AT_MS
        self.step = 0
        self.names = [QuotaName(f"user:{number}", "credit") for number in range(3)]
        self.holds: list[tuple[QuotaName, str]] = [(self.names[0], "never-placed")]

    def next(self) -> Command[object]:
        self.step += 1
        self.now_ms += self.random.randint(0, 2_000)
        makers: list[Maker] = [
            *(self.issue, self.place, self.place, self.debit, self.extend, self.extend),
            *(self.capture, self.capture_part, self.release, self.void, self.limit, self.cancel),
            self.window_limit,
        ]
        return self.random.choice(makers)()

    def units(self, most: int) -> int:
        return self.random.randint(1, most)

    def issue(self) -> Command[object]:
        terms = GrantTerms(
            amount=self.units(400),
            source="purchase",
            priority=self.units(3),
            starts_at_ms=self.random.choice([0, self.now_ms + 5_000]),
            expires_at_ms=self.random.choice([self.now_ms + 30_000, NEVER_MS]),
        )
        name = self.random.choice(self.names)
        return IssueGrant(quota=name, grant_id=f"g{self.step}", terms=terms)

    def void(self) -> Command[object]:
        name = self.random.choice(self.names)
        return VoidGrant(quota=name, grant_id=f"g{self.units(self.step)}")

    def cancel(self) -> Command[object]:
        letter, number = self.random.choice("dlp"), self.step + self.random.randint(-2, 2)
        return CancelOperation(
            quota=self.random.choice(self.names),
            operation_id=f"{letter}{number}",
            is_absent=True,
        )

    def limit(self) -> Command[object]:
        return SetOverdraftLimit(
            quota=self.random.choice(self.names),
            operation_id=f"l{self.step}",
            overdraft_limit=self.random.choice([0, 60, None]),
        )

    def window_limit(self) -> Command[object]:
        limit = self.random.choice(LIMITS)
        return SetLimit(
            quota=self.random.choice(self.names),
            operation_id=f"w{self.step}",
            action=self.random.choice([Action.SET, Action.SET, Action.REMOVE]),
            limit=replace(limit, amount=self.units(limit.amount * 2)),
            at_ms=self.now_ms,
        )

    def place(self) -> Command[object]:
        name, hold_id = self.random.choice(self.names), f"h{self.step}"
        self.holds = [*self.holds[-8:], (name, hold_id)]
        ttl_ms = self.random.randint(2_000, 60_000)
        return PlaceHold(quota=name, hold_id=hold_id, amount=self.units(120), ttl_ms=ttl_ms)

    def debit(self) -> Command[object]:
        kind = DebitUsed if self.random.random() < 0.4 else Debit
        return kind(
            quota=self.random.choice(self.names),
            operation_id=f"d{self.step}",
            amount=self.units(80),
            details='{"usage":{"input_tokens":1}}',
        )

    def extend(self) -> Command[object]:
        name, hold_id = self.random.choice(self.holds)
        operation_id = f"{hold_id}:extend:{self.step}"
        return ExtendHold(
            quota=name, hold_id=hold_id, operation_id=operation_id, amount=self.units(300)
        )

    def capture(self) -> Command[object]:
        name, hold_id = self.random.choice(self.holds)
        return CaptureHold(
            quota=name,
            hold_id=hold_id,
            operation_id=f"{hold_id}:capture",
            amount=self.random.randint(0, 150),
            is_known=True,
        )

    def capture_part(self) -> Command[object]:
        name, hold_id = self.random.choice(self.holds)
        return CaptureHold(
            quota=name,
            hold_id=hold_id,
            operation_id=f"p{self.step}",
            amount=self.units(60),
            is_final=False,
        )

    def release(self) -> Command[object]:
        name, hold_id = self.random.choice(self.holds)
        return ReleaseHold(quota=name, hold_id=hold_id)


def run(deployment: Deployment, command: Command[object], now_ms: int) -> None:
    """Run a command as the engine would; a refusal is as good as a success."""
    client, opened = deployment.redis, deployment.opened
    for _ in range(10):
        try:
            run_command(client, opened, command, now_ms=now_ms)
            return
        except QuotaNotLoadedError:
            deployment.drain()
            deployment.hydrate(command.quota)
        except CatchUpError:
            run_command(client, opened, CatchUp(quota=command.quota), now_ms=now_ms)
        except QuotaError:
            return


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_scripts_write_the_ledger_takes(deployment: Deployment, seed: int) -> None:
    deployment.open()
    chance = Chance(seed)
    for _ in range(STEPS):
        run(deployment, chance.next(), chance.now_ms)
        if chance.step % 60 == 0:
            deployment.drain()
        if chance.step % 200 == 0:  # what is hydrated again must go on as if nothing had been
            deployment.drain()
            for key in deployment.redis.scan_iter("*user:0*"):
                deployment.redis.delete(key)
    deployment.drain()
    with deployment.ledger.transaction() as connection:
        misfits = connection.execute(text("SELECT reason FROM quarantine")).all()
    assert misfits == []
    assert list(verify(deployment.ledger)) == []
    opened = deployment.opened
    assert reconcile(deployment.redis, deployment.ledger, opened=opened).drifts == ()
    assert sum(head.version for head in deployment.ledger.known_quotas()) > STEPS / 4
