"""A run on a tree from beginning to end: planned, made in simulated time, proved by levels."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from quota_engine.deployment import Deployment
from quota_engine.engine import QuotaEngine
from quota_engine.instants import to_ms
from quota_engine.replay import proofs
from quota_engine.replay.clients import Crew
from quota_engine.replay.costs import Costs, ModelCost, read_costs, write_prices
from quota_engine.replay.persisting import Worker
from quota_engine.replay.proofs import Proof, proof
from quota_engine.replay.running import (
    POLL_SECONDS,
    Options,
    Progress,
    Tokens,
    Watcher,
    orderly_end,
    refused_accounts,
)
from quota_engine.replay.trace import Call
from quota_engine.replay.tree import proving
from quota_engine.replay.tree.calling import TreeShare, TreeTold, make_tree_share
from quota_engine.replay.tree.planning import LEVELS, USER, Tree, pace_of, plan_tree
from quota_engine.replay.tree.proving import Found, Fullness


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Calls that one level refused for one reason: ``why`` is insufficient, or a kind of limit."""

    level: str
    why: str
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelSums:
    """The accounts of one level: what they were granted, what is used and left of it."""

    level: str
    accounts: int
    granted: int
    used: int
    expired: int
    left: int
    shortfall: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeReport:
    """What a run on a tree did, who refused what, and what was proved of it."""

    run_id: str
    account_prefix: str
    starts_at: datetime
    days: int | None
    users: int
    users_refused: int
    processes: int
    seed: int
    calls: int
    admitted: int
    refused: dict[str, int]
    seconds: float
    refusals: tuple[Refused, ...]
    levels: tuple[LevelSums, ...]
    #: How full the limits of each kind were, of their amount, when a call was admitted.
    limits: tuple[Fullness, ...]
    #: Of the users, as in other replays.
    tokens: Tokens
    costs: tuple[ModelCost, ...]
    proofs: tuple[Proof, ...]
    example_account: str

    @property
    def holds(self) -> bool:
        """Whether everything that had to be proved was."""
        return all(proof.holds for proof in self.proofs)


def run_tree(
    calls: Sequence[Call], options: Options, days: int | None, watch: Watcher
) -> TreeReport:
    """
    Make the calls on a tree of accounts, as fast as can be, at the trace's own instants.

    They are simulated, ahead of now, so that a month ends in the middle; the run's accounts alone
    see them. ``days``: the trace takes so many, from now on.
    """
    run_id = secrets.token_hex(4)
    prefix = f"replay:{run_id}:"
    watch(Progress("reaching the servers"))
    with orderly_end(), QuotaEngine.open() as engine:
        write_prices(engine, options.prices)
        soon = datetime.now(UTC) + timedelta(seconds=1)  # a call before its price has none
        pace = pace_of(calls, days, soon.replace(microsecond=0))
        tree = plan_tree(
            calls,
            prefix=prefix,
            users=options.users,
            seed=options.seed,
            pace=pace,
            output_limit=options.output_limit,
        )
        told, seconds = _live(engine, tree, options, watch)
        watch(Progress("counting again in Redis and the ledger", len(calls)))
        counted = proofs.count(engine.deployment, tree.everybody, told, prefix)
        found = proving.read(engine, tree, told, prefix)
        costs = read_costs(engine.deployment, prefix)
        proved = _proved(engine, found, counted, costs, prefix=prefix, watch=watch)
    dry = refused_accounts(tree.workload, told)
    levels = {level: _level(level, tree, counted) for level in LEVELS}
    return TreeReport(
        run_id=run_id,
        account_prefix=prefix,
        starts_at=pace.starts_at,
        days=days,
        users=len(tree.workload.users),
        users_refused=len(dry),
        processes=options.processes,
        seed=options.seed,
        calls=len(calls),
        admitted=sum(len(one.captured) for one in told),
        refused=dict(sum((one.refused for one in told), Counter[str]())),
        seconds=round(seconds, 3),
        refusals=_refusals(told),
        levels=tuple(levels.values()),
        limits=proving.fullness(found),
        tokens=_tokens(levels[USER]),
        costs=costs.by_model,
        proofs=tuple(proved),
        example_account=min(dry, default=tree.workload.users[0].account),
    )


def _live(
    engine: QuotaEngine, tree: Tree, options: Options, watch: Watcher
) -> tuple[list[TreeTold], float]:
    """Make the calls, then write what is due at the end; all of it is persisted."""
    deployment, ends_at = engine.deployment, tree.pace.ends_at
    with Worker(deployment.redis_url, deployment.database_url) as worker:
        told, seconds = _make_calls(deployment, worker, tree, options, watch)
        watch(Progress("draining the outbox", len(tree.workload.calls)))
        proofs.settle_due(deployment, tree.everybody.users, to_ms(ends_at, name="end"))
        engine.drain()
    return told, seconds


def _proved(
    engine: QuotaEngine,
    found: Found,
    counted: proofs.Counted,
    costs: Costs,
    *,
    prefix: str,
    watch: Watcher,
) -> list[Proof]:
    made = len(found.tree.workload.calls)
    proved = [
        *proving.prove(engine, found, counted),
        proof(proofs.COSTS_ADD_UP, costs.wrong_costs),
    ]
    watch(Progress("verifying the hash chains", made))
    proved.append(proofs.chain_proof(engine.deployment, prefix))
    watch(Progress("reconciling Redis with the ledger", made))
    proved.append(proofs.drift_proof(engine.deployment.reconcile()))
    return proved


def _make_calls(
    deployment: Deployment, worker: Worker, tree: Tree, options: Options, watch: Watcher
) -> tuple[list[TreeTold], float]:
    """Return what clients were told, and how long the calls took."""
    shares = [
        TreeShare(
            number=number,
            redis_url=deployment.redis_url,
            database_url=deployment.database_url,
            nodes=tree.nodes[number :: options.processes],
            calls=tree.workload.share(number, options.processes),
            output_limit=options.output_limit,
            models=tuple(price.model for price in options.prices),
            pace=tree.pace,
        )
        for number in range(options.processes)
    ]
    with Crew(shares, make_tree_share) as crew:
        while not crew.are_ready:
            watch(Progress("giving each account its grants and limits"))
            worker.check()
            time.sleep(POLL_SECONDS)
        started = time.monotonic()
        crew.begin()
        while not crew.are_done:
            watch(Progress("making calls", crew.made, crew.refused))
            worker.check()
            time.sleep(POLL_SECONDS)
        seconds = time.monotonic() - started
        return [one for one in crew.told if isinstance(one, TreeTold)], seconds


def _refusals(told: Sequence[TreeTold]) -> tuple[Refused, ...]:
    counts = sum((one.refusals for one in told), Counter[tuple[str, str]]())
    ordered = sorted(counts.items(), key=lambda item: (*LEVELS, "").index(item[0][0]))
    return tuple(Refused(level=level, why=why, calls=calls) for (level, why), calls in ordered)


def _level(level: str, tree: Tree, counted: proofs.Counted) -> LevelSums:
    accounts = [node.account for node in tree.nodes if node.level == level]
    sums = [counted.sums[account] for account in accounts if account in counted.sums]
    return LevelSums(
        level=level,
        accounts=len(accounts),
        granted=sum(one.granted for one in sums),
        used=sum(one.collected for one in sums),
        expired=sum(one.expired for one in sums),
        left=sum(counted.balances[account].balance for account in accounts),
        shortfall=sum(one.shortfall for one in sums),
    )


def _tokens(of_users: LevelSums) -> Tokens:
    return Tokens(
        granted=of_users.granted,
        used=of_users.used,
        expired=of_users.expired,
        left=of_users.left,
        shortfall=of_users.shortfall,
    )
