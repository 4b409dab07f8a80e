"""
The client processes: each opens its own engine, grants its users, and makes its share of calls.

A call that nobody answered is made again with the same ids, so a server may be restarted in the
middle. Latencies are those of the client: what an application would wait.
"""

from __future__ import annotations

import logging
import signal
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from redis.exceptions import RedisError

from quota_engine.engine import QuotaEngine
from quota_engine.errors import (
    BackpressureError,
    EngineUnavailableError,
    LimitExceededError,
    QuotaError,
    QuotaFrozenError,
    QuotaInsufficientError,
)
from quota_engine.metering.record import UsageRecord
from quota_engine.replay.costs import PROVIDER, model_of
from quota_engine.replay.signals import Signals
from quota_engine.replay.timeline import SimulatedClock, Timeline
from quota_engine.replay.trace import Call
from quota_engine.replay.workload import User
from quota_engine.usage import Usage

T = TypeVar("T")

QUOTA_TYPE = "text_token"
#: A bare PING is timed beside every such call.
PING_EVERY = 10
INSIST_SECONDS = 60.0
INSIST_PAUSE_SECONDS = 0.1
HOLD_TTL_SECONDS = 600

REFUSALS: dict[type[QuotaError], str] = {
    QuotaInsufficientError: "insufficient",
    LimitExceededError: "limited",
    BackpressureError: "backpressure",
    QuotaFrozenError: "frozen",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one client process is told to do."""

    number: int
    redis_url: str
    database_url: str
    users: Sequence[User]
    calls: Sequence[tuple[Call, str]]
    output_limit: int
    #: The models that calls are dealt to.
    models: Sequence[str]
    #: How many times as fast as recorded; None: as fast as can be.
    speed: float | None = None
    #: None: calls happen when they are made.
    timeline: Timeline | None = None


@dataclass(slots=True)
class Told:
    """What one client was told by the engine. Latencies in nanoseconds."""

    #: Call number -> tokens captured and not collected, of admitted calls.
    captured: dict[int, tuple[int, int]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    latencies: dict[str, array[int]] = field(
        default_factory=lambda: {
            name: array("Q") for name in ("place_hold", "capture_hold", "ping")
        }
    )
    #: Of each acknowledged hold and capture: when it began and ended, by ``time.monotonic_ns``.
    acknowledged: array[int] = field(default_factory=lambda: array("Q"))

    def acknowledge(self, operation: str, began_ns: int) -> None:
        """Note that an operation that began then is acknowledged now."""
        now_ns = time.monotonic_ns()
        self.latencies[operation].append(now_ns - began_ns)
        self.acknowledged.extend((began_ns, now_ns))


#: How a client process does its share.
Doing = Callable[[Any, Signals], Told]


@dataclass(slots=True)
class Client:
    """One started client process, as its parent sees it."""

    process: Any
    answers: Connection
    told: Told | None = None


class Crew:
    """All client processes of a run. Use it in a ``with`` block: they end with it."""

    def __init__(self, shares: Sequence[Any], do: Doing | None = None) -> None:
        context = get_context("spawn")
        self._signals = Signals.of(len(shares), context)
        self._clients = []
        for share in shares:
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=run_client,
                args=(do or make_share, share, self._signals, theirs),
                daemon=True,
            )
            process.start()
            theirs.close()
            self._clients.append(Client(process, mine))

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.process.kill()
            client.process.join()

    @property
    def are_ready(self) -> bool:
        """Whether every client has granted its users; raises what one of them met."""
        self._hear()
        return self._signals.are_ready

    def begin(self) -> None:
        """Let the calls begin."""
        self._signals.go.set()

    def begin_day(self, day: int) -> None:
        """Let the calls of a simulated day be made."""
        self._signals.today.value = day

    def has_done(self, day: int) -> bool:
        """Whether every client has made its calls of a day; raises what one of them met."""
        self._hear()
        return self._signals.first_day > day

    @property
    def are_done(self) -> bool:
        """Whether every client has made its calls; raises what one of them met."""
        self._hear()
        return all(client.told is not None for client in self._clients)

    @property
    def made(self) -> int:
        """How many calls were made so far."""
        return self._signals.made

    @property
    def refused(self) -> int:
        """How many of them were refused."""
        return self._signals.refused

    @property
    def told(self) -> list[Told]:
        """What each client was told that has made its calls."""
        return [client.told for client in self._clients if client.told is not None]

    def _hear(self) -> None:
        """Take what clients have sent; raise what ended one of them early."""
        for client in self._clients:
            if client.told is not None or (
                client.process.is_alive() and not client.answers.poll()
            ):
                continue
            try:
                answer = client.answers.recv()
            except EOFError:
                client.process.join()
                raise EngineUnavailableError(
                    f"a client process ended with code {client.process.exitcode} in the middle"
                ) from None
            if not isinstance(answer, Told):
                raise answer
            client.told = answer


def run_client(do: Doing, share: Any, signals: Signals, answers: Connection) -> None:
    """Do one client's share; send what it was told, or the error that ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its clients
    logging.getLogger("quota_engine").addHandler(logging.NullHandler())
    answer: Told | Exception
    try:
        answer = do(share, signals)
    except QuotaError as error:
        answer = error
    except Exception as error:
        answer = EngineUnavailableError(f"a client met {type(error).__name__}: {error}")
    answers.send(answer)


def make_share(share: Share, signals: Signals) -> Told:
    """Grant a share's users, then make its calls, one after the other."""
    timeline, me = share.timeline, share.number
    clock = None if timeline is None else SimulatedClock(timeline.starts_at)
    with QuotaEngine.open(share.redis_url, share.database_url, clock=clock) as engine:
        for user in share.users:
            grant(engine, user, datetime.now(UTC))
        signals.begin(me)
        told = Told()
        started = time.monotonic()
        for made, (call, account) in enumerate(share.calls, start=1):
            if timeline is not None and clock is not None:
                clock.now = max(clock.now, timeline.instant_of(call))
                signals.wait_for_day(me, timeline.day_of(clock.now))
            if share.speed is not None:
                early = started + call.offset_seconds / share.speed - time.monotonic()
                time.sleep(max(0.0, early))
            _make(engine, call, account, share, told)
            if made % PING_EVERY == 1:
                _ping(engine, told)
            signals.tell(me, made, told.refused.total())
        if timeline is not None:
            signals.say_day(me, timeline.days)
        return told


def grant(engine: QuotaEngine, user: User, now: datetime) -> None:
    """Give a user what is planned: its grants, or its plan, whose first period begins now."""
    if (plan := user.plan) is not None:
        insist(
            lambda: engine.subscribe(
                user.account,
                plan.name,
                time_zone=user.time_zone,
                subscription_id=subscription_id_of(user),
            )
        )
    for number, planned in enumerate(user.grants):
        lasts = planned.lasts_seconds
        expires_at = None if lasts is None else now + timedelta(seconds=lasts)
        issue = partial(
            engine.issue_grant,
            user.account,
            QUOTA_TYPE,
            planned.amount,
            source=planned.source,
            reference="replay",
            grant_id=f"grant-{number}",
            priority=planned.priority,
            expires_at=expires_at,
        )
        insist(issue)


def _make(engine: QuotaEngine, call: Call, account: str, share: Share, told: Told) -> None:
    """Make one call: hold the most it may use, then capture what it used, with its cost."""
    used = call.context_tokens + call.generated_tokens
    wanted = call.context_tokens + share.output_limit
    hold_id = hold_id_of(call)
    began = time.monotonic_ns()
    try:
        hold = insist(
            lambda: engine.place_hold(
                account, QUOTA_TYPE, wanted, operation_id=hold_id, ttl=HOLD_TTL_SECONDS
            )
        )
    except (QuotaInsufficientError, BackpressureError, QuotaFrozenError) as error:
        told.refused[REFUSALS[type(error)]] += 1
        told.latencies["place_hold"].append(time.monotonic_ns() - began)
        return
    told.acknowledge("place_hold", began)
    record = record_of(engine, call, model_of(call, share.models), wanted)
    began = time.monotonic_ns()
    captured = insist(lambda: engine.capture_hold(hold, used, usage=record))
    told.acknowledge("capture_hold", began)
    told.captured[call.number] = (captured.amount, captured.shortfall)


def record_of(engine: QuotaEngine, call: Call, model: str, held: int) -> UsageRecord:
    """Return what a call used and cost, as the decorator would record it."""
    usage = Usage(input_tokens=call.context_tokens, output_tokens=call.generated_tokens)
    cost = insist(lambda: engine.cost(usage, provider=PROVIDER, model=model))
    return UsageRecord(
        usage=usage,
        usage_type="text_generation",
        provider=PROVIDER,
        model=model,
        cost=str(cost.amount),
        currency=cost.currency,
        price_ids=cost.price_ids,
        held=held,
    )


def hold_id_of(call: Call) -> str:
    """Return the id of a call's hold: it says which call it was."""
    return f"call-{call.number}"


def subscription_id_of(user: User) -> str:
    """Return the id of a user's subscription."""
    return "-".join(user.account.split(":")[1:])


def insist(call: Callable[[], T]) -> T:
    """Make a call until Redis has answered it: its ids make that safe."""
    until = time.monotonic() + INSIST_SECONDS
    while True:
        try:
            answer = call()
        except EngineUnavailableError:
            if time.monotonic() > until:
                raise
        else:
            if not getattr(answer, "spooled", False) or time.monotonic() > until:
                return answer
        time.sleep(INSIST_PAUSE_SECONDS)


def _ping(engine: QuotaEngine, told: Told) -> None:
    started = time.perf_counter_ns()
    with suppress(RedisError):
        engine.deployment.client.ping()
        told.latencies["ping"].append(time.perf_counter_ns() - started)
