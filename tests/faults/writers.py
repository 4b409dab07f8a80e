"""
Clients that never stop: threads that debit, hold, capture and release on a few hot accounts.

Each remembers what it was told. An outcome that stays unknown is asked for again with the same
operation id, until it is answered, or until the world has been healed for long enough.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any

from quota_engine import (
    BackpressureError,
    EngineUnavailableError,
    HoldNotFoundError,
    QuotaEngine,
    QuotaFrozenError,
    QuotaInsufficientError,
)
from tests.faults.history import Call, Told, extension_id
from tests.workers import wait_until

QUOTA_TYPE = "text_token"
#: A retry ends so long after the writers were told to stop; by then everything has been healed.
FINISH_SECONDS = 40.0
PAUSE_SECONDS = 0.02
#: Of the turns, so many issue a grant: those need the ledger, too.
GRANT_SHARE = 0.03
HOLD_TTL_SECONDS = 3_600.0

#: Answers that promise: nothing was changed.
REFUSALS = (
    QuotaInsufficientError,
    QuotaFrozenError,
    HoldNotFoundError,
)


class Writers:
    """
    ``count`` threads over a few engines; a context manager, whose end lets every retry finish.

    ``engine_of[writer]`` may be changed meanwhile: its next attempt goes there. ``calls`` has what
    everybody was told, ``faults`` every error that is neither a refusal nor "unavailable".
    """

    def __init__(
        self,
        engines: Sequence[QuotaEngine],
        accounts: Sequence[str],
        *,
        count: int = 8,
        seed: int = 0,
        name: str = "w",
        pause_seconds: float = PAUSE_SECONDS,
        grant_share: float = GRANT_SHARE,
    ) -> None:
        self.calls: list[Call] = []
        self.faults: list[str] = []
        self.engine_of = [engines[number % len(engines)] for number in range(count)]
        self._accounts = accounts
        self._pause = pause_seconds
        self._grant_share = grant_share
        self._stopping = threading.Event()
        self._give_up_at = float("inf")
        self._current: dict[int, Call] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(number, f"{name}{number}", seed))
            for number in range(count)
        ]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._give_up_at = time.monotonic() + (FINISH_SECONDS if error is None else 1.0)
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> int:
        """How many calls were answered, refusals included."""
        return sum(call.outcome != "unknown" for call in list(self.calls))

    def wait_for(self, count: int, seconds: float = 40.0) -> None:
        """Return once so many calls more were answered than now."""
        before = self.answered
        wait_until(
            lambda: self.answered >= before + count or bool(self.faults),
            f"{count} more calls are answered",
            seconds,
        )
        assert self.faults == []

    def wait_for_trouble(self, seconds: float = 40.0) -> None:
        """Return once a call has failed and is being tried again."""
        wait_until(
            lambda: any(call.error and call.outcome == "unknown" for call in list(self.calls)),
            "a call fails",
            seconds,
        )

    def wait_until_stuck(self, seconds: float = 40.0) -> None:
        """
        Return once every writer has failed since now: nothing is answered until it is healed.

        A reply that had arrived before has been taken note of then.
        """
        now = time.monotonic()
        wait_until(
            lambda: all(call.failed > now for call in list(self._current.values())),
            "every writer is stuck",
            seconds,
        )

    def _run(self, number: int, name: str, seed: int) -> None:
        chance = random.Random(f"{seed}-{name}")
        turn = 0
        while not self._stopping.wait(self._pause):
            turn += 1
            try:
                self._turn(number, f"{name}-{turn}", chance)
            except Exception as error:
                self.faults.append(f"{name}-{turn}: {type(error).__name__}: {error}")
                return

    def _turn(self, number: int, operation_id: str, chance: random.Random) -> None:
        """Do what a caller does at once: one debit, one grant, or one hold and its end."""
        account = chance.choice(self._accounts)
        amount = chance.randint(1, 9)
        what = chance.random()
        if what < 0.45:
            self._ask(number, debit(account, operation_id, amount))
        elif what < 0.45 + self._grant_share:
            self._ask(number, issue_grant(account, operation_id, amount))
        else:
            self._hold(number, account, operation_id, amount, chance)

    def _hold(
        self, number: int, account: str, hold_id: str, amount: int, chance: random.Random
    ) -> None:
        placed = place_hold(account, hold_id, 5 * amount)
        if self._ask(number, placed) != "done":
            return
        if chance.random() < 0.3:
            part = chance.randint(1, 2 * amount)
            self._ask(number, capture_part(account, hold_id, f"{hold_id}-part", part))
        if chance.random() < 0.75:
            self._ask(number, capture(account, hold_id, chance.randint(0, 6 * amount)))
        else:
            self._ask(number, release(account, hold_id))

    def _ask(self, number: int, asked: tuple[Call, Callable[[QuotaEngine], Any]]) -> str:
        """Call until there is an answer, and remember it."""
        call, method = asked
        self.calls.append(call)
        self._current[number] = call
        ask(call, method, lambda: self.engine_of[number], lambda: self._give_up_at)
        return call.outcome


Asked = tuple[Call, Callable[[QuotaEngine], Any]]


def ask(
    call: Call,
    method: Callable[[QuotaEngine], Any],
    engine: Callable[[], QuotaEngine],
    give_up_at: Callable[[], float],
) -> Any:
    """
    Call ``method`` until it is answered or ``time.monotonic()`` is ``give_up_at()``.

    What came of it is written into ``call``; the answer is returned, None if there was none.
    """
    call.started = time.monotonic()
    while True:
        call.attempts += 1
        try:
            answer = told_by(engine(), method)
        except EngineUnavailableError as error:
            call.error, call.failed = str(error), time.monotonic()
            if time.monotonic() >= give_up_at():
                return None
            time.sleep(0.02)
        except BackpressureError as error:
            call.error, call.ended = f"BackpressureError: {error}", time.monotonic()
            if call.verb != "issue_grant":  # that one is promised, and is issued later
                call.outcome = "refused"
            return None
        except REFUSALS as error:
            call.outcome, call.error = "refused", f"{type(error).__name__}: {error}"
            call.ended = time.monotonic()
            return None
        else:
            note_answer(call, answer)
            return answer


def told_by(engine: QuotaEngine, method: Callable[[QuotaEngine], Any]) -> Any:
    """Return what Redis answered; that an operation waits in the spool is no answer yet."""
    answer = method(engine)
    if getattr(answer, "spooled", False):
        raise EngineUnavailableError("it waits in the spool, and is asked for again")
    return answer


def note_answer(call: Call, answer: Any) -> None:
    """Write into a call what its client was told just now."""
    call.ended = time.monotonic()
    call.version = getattr(answer, "version", None)
    call.balance = getattr(answer, "balance", None)
    call.shortfall = getattr(answer, "shortfall", None)
    call.paid_by = _paid_by(answer)
    call.told = tuple(
        Told(
            *(one.account, one.quota_type, one.amount, one.version),
            one.balance - getattr(one, "regranted", 0),
            getattr(one, "shortfall", 0),
            _paid_by(one),
        )
        for one in getattr(answer, "scopes", ())
    )
    if call.verb == "refund":  # what it made grants of comes after its own entry
        call.amount, call.balance = answer.amount, answer.balance - answer.regranted
    if call.verb == "correct_usage":
        call.ids = answer.operation_ids
    if call.verb in {"release_hold", "void_grant"}:
        call.amount, call.is_idle = answer.amount, answer.amount == 0
    call.outcome = "done"


def _paid_by(answer: Any) -> str | None:
    return (answer.paid_by or "") if hasattr(answer, "paid_by") else None


def issue_grant(
    account: str, grant_id: str, amount: int, *, priority: int = 50, quota_type: str = QUOTA_TYPE
) -> Asked:
    """Return the call that puts quota in."""
    call = Call("issue_grant", account, grant_id, amount, quota_type=quota_type)
    return call, lambda engine: engine.issue_grant(
        account, quota_type, amount, grant_id=grant_id, source="purchase", priority=priority
    )


def set_limit(account: str, operation_id: str, amount: int, of: str, per: str | None) -> Asked:
    """Return the call that lets an account use no more than so much in a time."""
    return Call("set_limit", account, operation_id), lambda engine: engine.limits.set(
        account, QUOTA_TYPE, amount, of=of, per=per, operation_id=operation_id
    )


def void_grant(account: str, grant_id: str) -> Asked:
    """Return the call that takes back what is left of a grant."""
    return Call("void_grant", account, f"{grant_id}:void"), lambda engine: engine.void_grant(
        account, QUOTA_TYPE, grant_id
    )


def refund(
    account: str,
    charge_id: str,
    refund_id: str,
    amount: int | None = None,
    *,
    quota_type: str = QUOTA_TYPE,
    grace: timedelta | None = None,
) -> Asked:
    """Return the call that gives back a part of a charge, or all that is left of it."""
    call = Call(
        *("refund", account, refund_id, amount or 0), quota_type=quota_type, charge_id=charge_id
    )
    return call, lambda engine: engine.refund(
        account, quota_type, charge_id, amount, refund_id, grace=grace
    )


def correct_usage(
    account: str,
    charge_id: str,
    id_: str,
    amount: int,
    *,
    quota_type: str = QUOTA_TYPE,
    scopes: tuple[str, ...] | None = None,
) -> Asked:
    """Return the call that settles a charge anew, to ``amount`` in all. No entry has its id."""
    call = Call("correct_usage", account, id_, amount, quota_type=quota_type, scopes=scopes)
    call.charge_id = charge_id
    return call, lambda engine: engine.correct_usage(
        charge_id, amount, account=account, quota_type=quota_type, scopes=scopes
    )


def extend_hold(account: str, hold_id: str, amount: int, **others: Any) -> Asked:
    """Return the call that lets a hold grow to ``amount``."""
    call = Call(
        *("extend_hold", account, extension_id(hold_id, amount), amount, hold_id), **others
    )
    return call, lambda engine: engine.extend_hold(hold_id, _amount(call), **_held(call))


def debit(account: str, operation_id: str, amount: int, **others: Any) -> Asked:
    """Return the call that takes quota at once."""
    call = Call("debit", account, operation_id, amount, **others)
    return call, lambda engine: engine.debit(
        account, *_units(call), operation_id=operation_id, scopes=call.scopes
    )


def debit_used(account: str, operation_id: str, amount: int, **others: Any) -> Asked:
    """Return the call that takes what was used already."""
    call = Call("debit_used", account, operation_id, amount, **others)
    return call, lambda engine: engine.debit(
        account,
        *_units(call),
        operation_id=operation_id,
        scopes=call.scopes,
        already_used=True,
    )


def place_hold(
    account: str, hold_id: str, amount: int, *, ttl: float = HOLD_TTL_SECONDS, **others: Any
) -> Asked:
    """Return the call that sets quota aside."""
    call = Call("place_hold", account, hold_id, amount, hold_id, **others)
    return call, lambda engine: engine.place_hold(
        account, *_units(call), operation_id=hold_id, ttl=ttl, scopes=call.scopes
    )


def capture_part(
    account: str, hold_id: str, operation_id: str, amount: int, **others: Any
) -> Asked:
    """Return the call that charges a part and leaves the hold open."""
    call = Call("capture_part", account, operation_id, amount, hold_id, **others)
    return call, lambda engine: engine.capture_hold(
        hold_id, _amount(call), final=False, operation_id=operation_id, **_held(call)
    )


def capture(account: str, hold_id: str, amount: int, **others: Any) -> Asked:
    """Return the call that charges a hold and closes it."""
    call = Call("capture_hold", account, f"{hold_id}:capture", amount, hold_id, **others)
    return call, lambda engine: engine.capture_hold(hold_id, _amount(call), **_held(call))


def release(account: str, hold_id: str, **others: Any) -> Asked:
    """Return the call that gives a hold back."""
    call = Call("release_hold", account, f"{hold_id}:release", 0, hold_id, **others)
    return call, lambda engine: engine.release_hold(hold_id, **_held(call))


def _units(call: Call) -> tuple[Any, ...]:
    """Return what a call asks for, as holds and debits take it."""
    return (_amount(call),) if call.more else (call.quota_type, call.amount)


def _amount(call: Call) -> int | dict[str, int]:
    return {call.quota_type: call.amount, **call.more} if call.more else call.amount


def _held(call: Call) -> dict[str, Any]:
    """Return what is said beside a hold's id."""
    types = (call.quota_type, *call.more)
    return {"account": call.account, "quota_type": types, "scopes": call.scopes}
