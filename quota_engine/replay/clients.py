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
#: Numbers that each client tells its parent while it runs.
COUNTS = 4
DAY_PAUSE_SECONDS = 0.005

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


@dataclass(slots=True)
class Client:
    """One started client process, as its parent sees it."""

    process: Any
    answers: Connection
    told: Told | None = None


class Crew:
    """All client processes of a run. Use it in a ``with`` block: they end with it."""

    def __init__(self, shares: Sequence[Share]) -> None:
        context = get_context("spawn")
        self._go = context.Event()
        #: The last simulated day whose calls may be made.
        self._today = context.RawValue("q", -1)
        #: Of each client: whether it is ready, calls made, calls refused, days done.
        self._counts = context.RawArray("q", COUNTS * len(shares))
        self._clients = []
        for share in shares:
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=run_client,
                args=(share, self._go, self._today, self._counts, theirs),
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
        return all(self._counts[0::COUNTS])

    def begin(self) -> None:
        """Let the calls begin."""
        self._go.set()

    def begin_day(self, day: int) -> None:
        """Let the calls of a simulated day be made."""
        self._today.value = day

    def has_done(self, day: int) -> bool:
        """Whether every client has made its calls of a day; raises what one of them met."""
        self._hear()
        return all(done > day for done in self._counts[3::COUNTS])

    @property
    def are_done(self) -> bool:
        """Whether every client has made its calls; raises what one of them met."""
        self._hear()
        return all(client.told is not None for client in self._clients)

    @property
    def made(self) -> int:
        """How many calls were made so far."""
        return sum(self._counts[1::COUNTS])

    @property
    def refused(self) -> int:
        """How many of them were refused."""
        return sum(self._counts[2::COUNTS])

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


def run_client(share: Share, go: Any, today: Any, counts: Any, answers: Connection) -> None:
    """Do one client's share; send what it was told, or the error that ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its clients
    logging.getLogger("quota_engine").addHandler(logging.NullHandler())
    answer: Told | Exception
    try:
        answer = _run(share, go, today, counts)
    except QuotaError as error:
        answer = error
    except Exception as error:
        answer = EngineUnavailableError(f"a client met {type(error).__name__}: {error}")
    answers.send(answer)


def _run(share: Share, go: Any, today: Any, counts: Any) -> Told:
    timeline, base = share.timeline, COUNTS * share.number
    clock = None if timeline is None else SimulatedClock(timeline.starts_at)
    with QuotaEngine.open(share.redis_url, share.database_url, clock=clock) as engine:
        for user in share.users:
            _grant(engine, user)
        counts[base] = 1
        go.wait()
        told = Told()
        started = time.monotonic()
        for made, (call, account) in enumerate(share.calls, start=1):
            if timeline is not None and clock is not None:
                clock.now = max(clock.now, timeline.instant_of(call))
                counts[base + 3] = timeline.day_of(clock.now)
                while today.value < counts[base + 3]:
                    time.sleep(DAY_PAUSE_SECONDS)
            if share.speed is not None:
                early = started + call.offset_seconds / share.speed - time.monotonic()
                time.sleep(max(0.0, early))
            _make(engine, call, account, share, told)
            if made % PING_EVERY == 1:
                _ping(engine, told)
            counts[base + 1] = made
            counts[base + 2] = told.refused.total()
        if timeline is not None:
            counts[base + 3] = timeline.days
        return told


def _grant(engine: QuotaEngine, user: User) -> None:
    """Give a user what is planned: its grants, or its plan, whose first period begins now."""
    if (plan := user.plan) is not None:
        _insist(
            lambda: engine.subscribe(
                user.account,
                plan.name,
                time_zone=user.time_zone,
                subscription_id=subscription_id_of(user),
            )
        )
    for number, grant in enumerate(user.grants):
        lasts = grant.lasts_seconds
        expires_at = None if lasts is None else datetime.now(UTC) + timedelta(seconds=lasts)
        issue = partial(
            engine.issue_grant,
            user.account,
            QUOTA_TYPE,
            grant.amount,
            source=grant.source,
            reference="replay",
            grant_id=f"grant-{number}",
            priority=grant.priority,
            expires_at=expires_at,
        )
        _insist(issue)


def _make(engine: QuotaEngine, call: Call, account: str, share: Share, told: Told) -> None:
    """Make one call: hold the most it may use, then capture what it used, with its cost."""
    used = call.context_tokens + call.generated_tokens
    wanted = call.context_tokens + share.output_limit
    hold_id = hold_id_of(call)
    began = time.monotonic_ns()
    try:
        hold = _insist(
            lambda: engine.place_hold(
                account, QUOTA_TYPE, wanted, operation_id=hold_id, ttl=HOLD_TTL_SECONDS
            )
        )
    except (QuotaInsufficientError, BackpressureError, QuotaFrozenError) as error:
        told.refused[REFUSALS[type(error)]] += 1
        told.latencies["place_hold"].append(time.monotonic_ns() - began)
        return
    told.acknowledge("place_hold", began)
    record = _record(engine, call, model_of(call, share.models), wanted)
    began = time.monotonic_ns()
    captured = _insist(lambda: engine.capture_hold(hold, used, usage=record))
    told.acknowledge("capture_hold", began)
    told.captured[call.number] = (captured.amount, captured.shortfall)


def _record(engine: QuotaEngine, call: Call, model: str, held: int) -> UsageRecord:
    """Return what a call used and cost, as the decorator would record it."""
    usage = Usage(input_tokens=call.context_tokens, output_tokens=call.generated_tokens)
    cost = _insist(lambda: engine.cost(usage, provider=PROVIDER, model=model))
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


def _insist(call: Callable[[], T]) -> T:
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
