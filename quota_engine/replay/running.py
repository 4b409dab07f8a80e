"""One run from beginning to end: servers reached, users granted, calls made, everything proved."""

from __future__ import annotations

import secrets
import signal
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from quota_engine.deployment import Deployment
from quota_engine.engine import QuotaEngine
from quota_engine.errors import EngineUnavailableError
from quota_engine.outbox import Outbox
from quota_engine.replay import proofs
from quota_engine.replay.clients import Crew, Share, Told
from quota_engine.replay.costs import (
    DEMO_PRICES,
    ModelCost,
    ModelPrice,
    read_costs,
    write_prices,
)
from quota_engine.replay.persisting import Worker
from quota_engine.replay.proofs import Lag, Proof
from quota_engine.replay.restarting import Restarter, Restarts, own_server
from quota_engine.replay.trace import Call
from quota_engine.replay.workload import Workload, plan

POLL_SECONDS = 0.1
SAMPLE_SECONDS = 1.0
#: After the last promotion's end, for clocks that are a little apart.
SPARE_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a run is made. ``speed`` None: as fast as can be."""

    users: int = 200
    processes: int = 4
    seed: int = 1
    speed: float | None = None
    output_limit: int = 1_000
    promotion_seconds: float = 10.0
    #: The models that calls are dealt to in turn, with their prices.
    prices: tuple[ModelPrice, ...] = DEMO_PRICES
    #: How many times Redis is killed and started again while calls are made.
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has got: which stage it is in, and of its calls how many are made."""

    stage: str
    made: int = 0
    refused: int = 0
    pending: int = 0


#: Told about every tenth of a second how far the run has got.
Watcher = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """What one operation took at its client, in microseconds."""

    operation: str
    count: int
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of all users. ``granted`` = ``used`` + ``expired`` + ``left``."""

    granted: int
    used: int
    expired: int
    left: int
    shortfall: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run did, what it cost, and what was proved of it."""

    run_id: str
    account_prefix: str
    users: int
    users_refused: int
    processes: int
    seed: int
    calls: int
    admitted: int
    refused: dict[str, int]
    seconds: float
    calls_per_second: float
    tokens: Tokens
    costs: tuple[ModelCost, ...]
    latencies: tuple[Latency, ...]
    lag: Lag
    pending_max: int
    #: None where Redis was left alone.
    restarts: Restarts | None
    proofs: tuple[Proof, ...]
    #: A user who was refused, to look at; else one who was not.
    example_account: str

    @property
    def holds(self) -> bool:
        """Whether everything that had to be proved was."""
        return all(proof.holds for proof in self.proofs)


def run(calls: Sequence[Call], options: Options, watch: Watcher) -> Report:
    """
    Make the calls against the deployment that QUOTA_ENGINE_* names, and prove what happened.

    The run's accounts have a prefix of their own, so runs never meet.
    """
    run_id = secrets.token_hex(4)
    prefix = f"replay:{run_id}:"
    workload = plan(
        calls,
        prefix=prefix,
        users=options.users,
        seed=options.seed,
        promotion_seconds=options.promotion_seconds,
    )
    watch(Progress("reaching the servers"))
    with orderly_end(), QuotaEngine.open() as engine:
        deployment = engine.deployment
        restarter = Restarter(
            own_server(deployment) if options.restarts else None,
            options.restarts,
            calls=len(calls),
            processes=options.processes,
        )
        write_prices(engine, options.prices)
        with Worker(deployment.redis_url, deployment.database_url) as worker:
            told, seconds, pending_max = _make_calls(
                deployment, worker, workload, options, watch, restarter=restarter
            )
            watch(Progress("draining the outbox", len(calls)))
            deployment.reopen(deployment.opened)  # the server may have been restarted meanwhile
            proofs.settle_due(deployment, workload.users)
            engine.drain()
        return _report(
            deployment,
            workload,
            told,
            options,
            watch,
            run_id=run_id,
            prefix=prefix,
            seconds=seconds,
            pending_max=pending_max,
            restarts=restarter.report(told),
        )


def _make_calls(
    deployment: Deployment,
    worker: Worker,
    workload: Workload,
    options: Options,
    watch: Watcher,
    *,
    restarter: Restarter,
) -> tuple[list[Told], float, int]:
    """Return what clients were told, how long the calls took, and the longest outbox seen."""
    shares = [
        Share(
            number=number,
            redis_url=deployment.redis_url,
            database_url=deployment.database_url,
            users=workload.users[number :: options.processes],
            calls=workload.share(number, options.processes),
            output_limit=options.output_limit,
            models=tuple(price.model for price in options.prices),
            speed=options.speed,
        )
        for number in range(options.processes)
    ]
    with Crew(shares) as crew:
        while not crew.are_ready:
            watch(Progress("granting each user three grants"))
            worker.check()
            time.sleep(POLL_SECONDS)
        started, sampled, pending, pending_max = time.monotonic(), 0.0, 0, 0
        promotions_end = started + options.promotion_seconds + SPARE_SECONDS
        crew.begin()
        while not crew.are_done:
            if time.monotonic() - sampled > SAMPLE_SECONDS:
                worker.check()
                with suppress(EngineUnavailableError):  # clients insist; this is only looked at
                    pending = _pending(deployment)
                sampled = time.monotonic()
                pending_max = max(pending_max, pending)
            restarter.step(crew.made)
            watch(Progress("making calls", crew.made, crew.refused, pending))
            time.sleep(POLL_SECONDS)
        seconds = time.monotonic() - started
        told = crew.told
    while time.monotonic() < promotions_end:
        watch(Progress("waiting for the last promotion to expire", len(workload.calls)))
        time.sleep(POLL_SECONDS)
    return told, seconds, pending_max


def _pending(deployment: Deployment) -> int:
    """Return how many entries wait to be persisted."""
    waiting = 0
    for row in deployment.ledger.read_shards():
        last_id = Outbox(deployment.client, row.shard).read(row.cursor, 1).last_id
        if last_id is not None and last_id.epoch == row.cursor.epoch:
            waiting += last_id.n - row.cursor.n
    return waiting


def _report(
    deployment: Deployment,
    workload: Workload,
    told: list[Told],
    options: Options,
    watch: Watcher,
    *,
    run_id: str,
    prefix: str,
    seconds: float,
    pending_max: int,
    restarts: Restarts | None,
) -> Report:
    made = len(workload.calls)
    watch(Progress("counting again in Redis and the ledger", made))
    counted = proofs.count(deployment, workload, told, prefix)
    costs = read_costs(deployment, prefix)
    proved = [*proofs.proofs(counted), *proofs.cost_proofs(costs)]
    watch(Progress("verifying the hash chains", made))
    proved.append(proofs.chain_proof(deployment, prefix))
    watch(Progress("reconciling Redis with the ledger", made))
    proved.append(proofs.drift_proof(deployment.reconcile()))
    if restarts is not None:
        proved.append(restarts.proof)
    refused = sum((one.refused for one in told), Counter[str]())
    dry = refused_accounts(workload, told)
    sums = counted.sums.values()
    return Report(
        run_id=run_id,
        account_prefix=prefix,
        users=len(workload.users),
        users_refused=len(dry),
        processes=options.processes,
        seed=options.seed,
        calls=made,
        admitted=sum(len(one.captured) for one in told),
        refused=dict(refused),
        seconds=round(seconds, 3),
        calls_per_second=round(made / seconds, 1),
        tokens=Tokens(
            granted=sum(of_user.granted for of_user in sums),
            used=sum(of_user.collected for of_user in sums),
            expired=sum(of_user.expired for of_user in sums),
            left=sum(balance.balance for balance in counted.balances.values()),
            shortfall=sum(of_user.shortfall for of_user in sums),
        ),
        costs=costs.by_model,
        latencies=tuple(_latency(name, told) for name in ("place_hold", "capture_hold", "ping")),
        lag=proofs.read_lag(deployment, prefix),
        pending_max=pending_max,
        restarts=restarts,
        proofs=tuple(proved),
        example_account=min(dry, default=workload.users[0].account),
    )


def refused_accounts(workload: Workload, told: Sequence[Told]) -> set[str]:
    """Return the users of whom a call was refused."""
    admitted = {number for one in told for number in one.captured}
    return {
        workload.users[user].account
        for call, user in zip(workload.calls, workload.user_of, strict=True)
        if call.number not in admitted
    }


def _latency(operation: str, told: Sequence[Told]) -> Latency:
    taken = array("Q")
    for one in told:
        taken.extend(one.latencies[operation])
    ordered = sorted(taken)
    return Latency(
        operation=operation,
        count=len(ordered),
        p50_us=_quantile_us(ordered, 0.5),
        p99_us=_quantile_us(ordered, 0.99),
    )


def _quantile_us(ordered: Sequence[int], share: float) -> float:
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1000, 1)


@contextmanager
def orderly_end() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does: with its clients and its worker."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
