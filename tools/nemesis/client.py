"""
One client process: threads that debit, hold, extend, capture, release, grant, refund and so on.

    python -m tools.nemesis.client ARGUMENTS

An outcome that stays unknown is asked for again with the same ids, or cancelled. What was asked
and told is written down at once: the process may be killed at any time. A word on its standard
input, or the end of that, lets every thread finish what it began.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from quota_engine import (
    AccountBarredError,
    BackpressureError,
    EngineUnavailableError,
    GrantNotFoundError,
    HoldClosedError,
    IdempotencyConflictError,
    InvalidAmountError,
    OperationCancelledError,
    OperationNotFoundError,
    QuotaEngine,
)
from tests.faults.history import Call
from tests.faults.shares import above
from tests.faults.world import FEW, ORGANISATIONS, POOLS, SLOTS, TEAM
from tests.faults.writers import (
    REFUSALS,
    Asked,
    capture,
    capture_part,
    correct_usage,
    debit,
    debit_used,
    extend_hold,
    issue_grant,
    note_answer,
    place_hold,
    refund,
    release,
    set_limit,
    told_by,
    void_grant,
)
from tools.nemesis.chronicle import Chronicle

#: A retry ends so long after the clients were told to stop; by then everything has been healed.
FINISH_SECONDS = 60.0
RETRY_SECONDS = 0.05
REPORT_SECONDS = 0.5
#: Answers this young are asked for again, to see that they come again. Below the horizon.
REPEAT_SECONDS = 20.0
TTL_SECONDS = 30.0
#: Beside the refusals of a plain writer.
ALSO_REFUSED = (HoldClosedError, InvalidAmountError, GrantNotFoundError, AccountBarredError)
#: Their answers are not told again: others may have been at the same, or nothing is left to do.
NOT_REPEATED = {"extend_hold", "set_limit", "correct_usage"}
#: Spent first, or last: what is to be voided must still be there.
FIRST, LAST = 10, 90
#: Besides the first: of this type a call may ask, too.
SECOND_TYPE = "image"
#: What operators set, to how many: account, of what, per what. Some refuse until they are set
#: anew.
LIMITS: tuple[tuple[str, str, str | None, tuple[int, ...]], ...] = (
    *((name, "holds", None, (8, 100, 1_000)) for name in ORGANISATIONS),
    *((name, "units", "day", (2_000, *(10**8,) * 5)) for name in ORGANISATIONS),
    (TEAM, "units", "hour", (500, 50_000, 10**8)),
    (TEAM, "units", "minute", (500, 10**8)),
    (SLOTS, "holds", None, (1, 2, 5)),
    (FEW, "calls", "hour", (50, 400, 3_000)),
    (POOLS[0], "calls", "hour", (20, 10**6)),
    (POOLS[1], "units", "day", (300, 10**8)),
)


@dataclass(frozen=True, slots=True)
class Orders:
    """What one process is told to do."""

    name: str
    redis_url: str
    database_url: str
    seed: int
    threads: int
    chronicle: str
    accounts: tuple[str, ...]
    settings: dict[str, Any]
    #: The server may lose what it answered: a repeat may happen anew, a charge be unknown.
    is_forgetful: bool = False

    def text(self) -> str:
        """Return the process's argument."""
        return json.dumps(asdict(self))


class Client:
    """The threads of one process share its engine, and what they remember of their charges."""

    def __init__(self, engine: QuotaEngine, orders: Orders) -> None:
        self.counts: Counter[str] = Counter()
        self.stopping = threading.Event()
        self.give_up_at = float("inf")
        self._engine = engine
        self._orders = orders
        self._chronicle = Chronicle(Path(orders.chronicle))
        self._charges: deque[Call] = deque(maxlen=64)
        self._answered: deque[tuple[Asked, Any]] = deque(maxlen=64)
        self._refunded: deque[tuple[Asked, Any]] = deque(maxlen=16)

    def run(self, thread: int) -> None:
        """Take turns until told to stop."""
        name = f"{self._orders.name}-{thread}"
        chance = random.Random(f"{self._orders.seed}-{name}")
        turn = 0
        while not self.stopping.is_set():
            turn += 1
            try:
                self._turn(f"{name}-{turn}", chance)
            except Exception as error:  # whatever it is, somebody must hear of it
                self._chronicle.fault(f"{name}-{turn}: {type(error).__name__}: {error}")
                self.counts["faults"] += 1

    def _turn(self, id_: str, chance: random.Random) -> None:
        account = chance.choice(self._orders.accounts)
        amount, what = chance.randint(1, 9), chance.random()
        if what < 0.37:
            take = debit_used if chance.random() < 0.1 else debit
            charge = take(account, id_, amount, **_others(account, 3, chance))
            if self._ask(charge, chance) == "done":
                self._charges.append(charge[0])
        elif what < 0.907:
            self._hold(account, id_, amount, chance)
        elif what < 0.91:
            name, of, per, amounts = chance.choice(LIMITS)
            self._ask(set_limit(name, id_, chance.choice(amounts), of, per), chance)
        elif what < 0.925:  # from here on PostgreSQL is asked, too, which takes its time
            self._ask(issue_grant(account, id_, 9 * amount, priority=FIRST), chance)
        elif what < 0.932:
            self._grant_and_void(account, id_, amount, chance)
        elif what < 0.952:
            self._refund(id_, chance)
        elif what < 0.960:
            self._correct(id_, chance)
        elif what < 0.966 and not self._orders.is_forgetful:
            self._cancel_beforehand(debit(account, id_, amount))
        else:
            self._repeat(chance)

    def _hold(self, account: str, hold_id: str, amount: int, chance: random.Random) -> None:
        """Place a hold, and do with it what callers do: some are late, some never come back."""
        is_brief, total = chance.random() < 0.05, 5 * amount
        ttl = 0.2 if is_brief else TTL_SECONDS
        others = _others(account, 6, chance)
        placed = place_hold(account, hold_id, total, ttl=ttl, **others)
        if self._ask(placed, chance) != "done":
            return
        if is_brief:
            time.sleep(chance.uniform(0.15, 0.3))
        if chance.random() < 0.02:
            return
        if chance.random() < 0.2:
            total += chance.randint(1, 20)
            grown = {**others, "more": {name: units + 2 for name, units in others["more"].items()}}
            self._ask(extend_hold(account, hold_id, total, **grown), chance)
        if chance.random() < 0.3:
            units = chance.randint(1, 2 * amount)
            used = _used(others, 2, chance)
            part = capture_part(account, hold_id, f"{hold_id}-part", units, **used)
            if self._ask(part, chance) == "done":
                self._charges.append(part[0])
        if chance.random() < 0.75:
            used = _used(others, 8, chance)
            charge = capture(account, hold_id, chance.randint(0, 6 * amount), **used)
            if self._ask(charge, chance) == "done":
                self._charges.append(charge[0])
                return
        self._ask(release(account, hold_id, **others), chance)

    def _grant_and_void(self, account: str, id_: str, amount: int, chance: random.Random) -> None:
        granted = issue_grant(account, f"{id_}-grant", amount, priority=LAST)
        if self._ask(granted, chance) == "done":
            self._ask(void_grant(account, f"{id_}-grant"), chance)

    def _refund(self, id_: str, chance: random.Random) -> None:
        """Give back a charge or a part of it; several threads may be at the same one."""
        if not self._charges:
            return
        charge = chance.choice(self._charges)
        amounts = {charge.quota_type: charge.amount, **charge.more}
        name = chance.choice(tuple(amounts))
        asked = refund(
            *(charge.account, charge.operation_id, f"{id_}-refund"),
            None if chance.random() < 0.3 else chance.randint(1, max(1, amounts[name])),
            quota_type=name,
            grace=timedelta(seconds=5) if chance.random() < 0.3 else None,
        )
        home = "" if self._orders.is_forgetful else _home_of(charge, name)
        self._ask(asked, chance, home)

    def _correct(self, id_: str, chance: random.Random) -> None:
        """Settle a charge anew; several threads may be at the same one."""
        if not self._charges:
            return
        charge = chance.choice(self._charges)
        amounts = {charge.quota_type: charge.amount, **charge.more}
        name = chance.choice(tuple(amounts))
        asked = correct_usage(
            *(charge.account, charge.operation_id, f"{id_}-correction"),
            chance.randint(0, 2 * amounts[name]),
            quota_type=name,
            scopes=charge.scopes,
        )
        self._ask(asked, chance, home="")

    def _cancel_beforehand(self, asked: Asked) -> None:
        """Cancel what was never asked for, then ask for it: it must not happen."""
        call, method = asked
        call.started = time.monotonic()
        self._chronicle.begun(call)
        if self._cancel(call, call.account):
            with suppress(EngineUnavailableError, OperationCancelledError):
                answer = told_by(self._engine, method)
                self._chronicle.fault(f"{call} was cancelled, and answered {answer}")
        self._end(call)

    def _repeat(self, chance: random.Random) -> None:
        """Ask again for what was answered: the same answer must come, and nothing happen."""
        if not self._answered or self._orders.is_forgetful:
            return
        answered = self._refunded if chance.random() < 0.2 and self._refunded else self._answered
        (call, method), first = chance.choice(answered)
        if call.ended < time.monotonic() - REPEAT_SECONDS:
            return
        try:
            answer = told_by(self._engine, method)
        except EngineUnavailableError:
            return
        names = ("amount", "version", "paid_by")
        told = [tuple(getattr(one, name, None) for name in names) for one in (first, answer)]
        if told[0] != told[1] or not answer.replayed:
            self._chronicle.fault(f"{call} was answered {told[0]}, its repeat {told[1]}")

    def _ask(self, asked: Asked, chance: random.Random, home: str | None = None) -> str:
        """
        Call until there is an answer, or cancel the call instead; return what came of it.

        ``home``: the account on whose quota it is known by its id; empty: nobody can tell.
        """
        call, method = asked
        home = call.account if home is None else home
        call.started = time.monotonic()
        self._chronicle.begun(call)
        while call.outcome == "unknown" and time.monotonic() < self.give_up_at:
            call.attempts += 1
            try:
                answer = told_by(self._engine, method)
            except (EngineUnavailableError, BackpressureError) as error:
                if isinstance(error, BackpressureError) and call.verb != "issue_grant":
                    self._refused(call, error)
                    break
                call.error = str(error)[:200]
                if home and call.verb != "extend_hold" and chance.random() < 0.25:
                    self._cancel(call, home)
                else:
                    time.sleep(RETRY_SECONDS)
            except (*REFUSALS, *ALSO_REFUSED) as error:
                self._refused(call, error)
            except IdempotencyConflictError as error:
                if call.verb != "correct_usage":  # two may be at the same charge
                    raise
                self._refused(call, error)
            except OperationNotFoundError as error:
                if not self._orders.is_forgetful:
                    raise
                self._refused(call, error)
            else:
                note_answer(call, answer)
                if call.verb not in NOT_REPEATED and not call.is_idle:
                    kept = self._refunded if call.verb == "refund" else self._answered
                    kept.append((asked, answer))
        self._end(call)
        return call.outcome

    def _refused(self, call: Call, error: Exception) -> None:
        call.outcome, call.ended = "refused", time.monotonic()
        call.error = f"{type(error).__name__}: {error}"[:200]

    def _cancel(self, call: Call, account: str) -> bool:
        """Cancel a call, or learn its answer; return whether it was cancelled."""
        while time.monotonic() < self.give_up_at:
            try:
                told = self._engine.cancel(account, call.quota_type, call.operation_id)
            except EngineUnavailableError as error:
                call.error = f"cancelling: {error}"[:200]
                time.sleep(RETRY_SECONDS)
                continue
            call.ended = time.monotonic()
            call.outcome = "done" if told.was_applied else "cancelled"
            if told.was_applied:
                call.version, call.balance, call.amount = told.version, told.balance, told.amount
            return not told.was_applied
        return False

    def _end(self, call: Call) -> None:
        self.counts[call.outcome] += 1
        if call.outcome != "unknown":
            self._chronicle.ended(call)
        else:
            self._chronicle.fault(f"{call} was not answered in time: {call.error}")


def _home_of(charge: Call, quota_type: str) -> str:
    """Return the account that paid for a charge, as its client was told; empty: it was not."""
    paid_by = charge.paid_by
    for told in charge.told:
        if (told.account, told.quota_type) == (charge.account, quota_type):
            paid_by = told.paid_by
    return "" if paid_by is None else paid_by or charge.account


def _others(account: str, units_max: int, chance: random.Random) -> dict[str, Any]:
    """Return what some calls ask for beside: a second type, scopes of their own."""
    more, scopes = {}, None
    if chance.random() < 0.2:
        more = {SECOND_TYPE: chance.randint(1, units_max)}
    if chance.random() < 0.06:
        scopes = chance.choice(((), above(account)[-1:]))
    return {"more": more, "scopes": scopes}


def _used(others: dict[str, Any], units_max: int, chance: random.Random) -> dict[str, Any]:
    """Return what a hold used of its further types."""
    return {**others, "more": {name: chance.randint(0, units_max) for name in others["more"]}}


def opened(orders: Orders) -> QuotaEngine:
    """Return the engine, once there is one: the servers may be down just now."""
    until = time.monotonic() + FINISH_SECONDS
    while True:
        try:
            return QuotaEngine.open(orders.redis_url, orders.database_url, **orders.settings)
        except EngineUnavailableError:
            if time.monotonic() > until:
                raise
            time.sleep(RETRY_SECONDS)


def main(argument: str) -> None:
    """Run the threads; tell every half second how many calls have ended, and how."""
    told = json.loads(argument)
    orders = Orders(**{**told, "accounts": tuple(told["accounts"])})
    with opened(orders) as engine:
        client = Client(engine, orders)
        threads = [
            threading.Thread(target=client.run, args=(number,)) for number in range(orders.threads)
        ]
        ending = threading.Thread(target=_end_when_told, args=(client,), daemon=True)
        for thread in (*threads, ending):
            thread.start()
        while any(thread.is_alive() for thread in threads):
            print(json.dumps(client.counts), flush=True)
            time.sleep(REPORT_SECONDS)
        print(json.dumps(client.counts), flush=True)


def _end_when_told(client: Client) -> None:
    sys.stdin.readline()
    client.give_up_at = time.monotonic() + FINISH_SECONDS
    client.stopping.set()


if __name__ == "__main__":
    main(sys.argv[1])
