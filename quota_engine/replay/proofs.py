"""
Count a run again, from what clients were told, from Redis and from the ledger, and compare.

Every proof is one sentence that holds or does not; the first few exceptions say where it fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from sqlalchemy import text

from quota_engine import events
from quota_engine.commands import Balance, CatchUp, ReadBalance
from quota_engine.commands.base import Command
from quota_engine.deployment import Deployment
from quota_engine.drift import ReconcileReport
from quota_engine.errors import QuotaError
from quota_engine.jobs.running import run_commands
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName
from quota_engine.replay.clients import QUOTA_TYPE, Told, hold_id_of
from quota_engine.replay.costs import Costs
from quota_engine.replay.workload import User, Workload

T = TypeVar("T")

PAGE = 200
EXCEPTIONS_SHOWN = 5
COSTS_ADD_UP = "of each model the recorded costs sum to its summed tokens × its prices, exactly"

Key = tuple[str, str]

_SUMS = text("""
SELECT account, kind, sum(delta) AS delta, sum(amount) AS amount, sum(shortfall) AS shortfall
FROM ledger_entries WHERE account LIKE :pattern AND quota_type = :quota_type
GROUP BY account, kind
""")
_HOLD_ENTRIES = text("""
SELECT account, subject, kind, amount, shortfall FROM ledger_entries
WHERE account LIKE :pattern AND quota_type = :quota_type AND kind LIKE 'hold.%'
""")
_LAG = text("""
SELECT
    count(*) AS entries,
    percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (
        ORDER BY extract(epoch FROM recorded_at - occurred_at)
    ) AS seconds
FROM ledger_entries
WHERE account LIKE :pattern AND kind IN ('hold.placed', 'hold.captured')
""")


@dataclass(frozen=True, slots=True)
class Proof:
    """One sentence about a run, whether it holds, and where it does not."""

    sentence: str
    holds: bool
    exceptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sums:
    """One user's quota, summed up from its entries in the ledger. ``collected``: captured."""

    granted: int = 0
    collected: int = 0
    shortfall: int = 0
    expired: int = 0
    other: int = 0

    @property
    def balance(self) -> int:
        """What must be left."""
        return self.granted - self.collected - self.expired + self.other


@dataclass(frozen=True, slots=True)
class Lag:
    """How long the calls' entries took from Redis to the ledger. (Expiries are told late.)"""

    entries: int
    p50_seconds: float
    p99_seconds: float
    max_seconds: float


@dataclass(frozen=True, slots=True)
class Counted:
    """One run, counted again."""

    workload: Workload
    told: Sequence[Told]
    sums: Mapping[str, Sums]
    hold_entries: Mapping[Key, Sequence[tuple[str, int, int]]]
    balances: Mapping[str, Balance]


def settle_due(deployment: Deployment, users: Sequence[User], now_ms: int | None = None) -> None:
    """
    Write what is due of every user's quota: promotions that ended since its last call.

    ``now_ms``: at a simulated instant instead of the server's.
    """
    _run_all(deployment, [CatchUp(quota=_quota(user)) for user in users], now_ms)


def count(
    deployment: Deployment, workload: Workload, told: Sequence[Told], prefix: str
) -> Counted:
    """Read what Redis and the ledger say of a drained run."""
    asked = {"pattern": f"{prefix}%", "quota_type": QUOTA_TYPE}
    with deployment.ledger.transaction() as sql:
        summed: dict[str, dict[str, int]] = {}
        for row in sql.execute(_SUMS, asked):
            of_user = summed.setdefault(row.account, {})
            of_user[row.kind] = int(row.delta)
            of_user["shortfall"] = of_user.get("shortfall", 0) + int(row.shortfall)
        entries: dict[Key, list[tuple[str, int, int]]] = {}
        for row in sql.execute(_HOLD_ENTRIES, asked):
            entry = (row.kind, row.amount, row.shortfall)
            entries.setdefault((row.account, row.subject), []).append(entry)
    commands = [ReadBalance(quota=_quota(user)) for user in workload.users]
    balances = {balance.account: balance for balance in _run_all(deployment, commands)}
    sums = {account: _sums(kinds) for account, kinds in summed.items()}
    return Counted(workload, told, sums, entries, balances)


def _sums(kinds: Mapping[str, int]) -> Sums:
    known = {
        "granted": kinds.get(events.GRANT_ISSUED, 0) + kinds.get(events.GRANT_STARTED, 0),
        "collected": -kinds.get(events.HOLD_CAPTURED, 0),
        "expired": -kinds.get(events.GRANT_EXPIRED, 0),
        "shortfall": kinds["shortfall"],
    }
    deltas = sum(delta for kind, delta in kinds.items() if kind != "shortfall")
    other = deltas - known["granted"] + known["collected"] + known["expired"]
    return Sums(**known, other=other)


def read_lag(deployment: Deployment, prefix: str) -> Lag:
    """Return how long the calls' entries took to the ledger, by the ledger's own instants."""
    with deployment.ledger.transaction() as sql:
        row = sql.execute(_LAG, {"pattern": f"{prefix}%"}).one()
    p50, p99, most = row.seconds or (0.0, 0.0, 0.0)
    return Lag(row.entries, float(p50), float(p99), float(most))


def proofs(counted: Counted) -> Iterator[Proof]:
    """Yield what must hold of a run's users and calls."""
    yield calls_proof(counted)
    yield from account_proofs(counted)


def account_proofs(counted: Counted, who: str = "user") -> Iterator[Proof]:
    """Yield what must hold of a run's accounts: what came, what went, and what is left."""
    users = counted.workload.users
    sums = {user.account: counted.sums.get(user.account, Sums()) for user in users}
    yield proof(
        f"every {who} was granted what was planned",
        (
            f"{user.account}: planned {user.granted}, granted {sums[user.account].granted}"
            for user in users
            if user.granted != sums[user.account].granted
        ),
    )
    yield proof(
        f"no {who} was charged more than was granted (Σ captured ≤ Σ granted)",
        (
            f"{account}: captured {of_user.collected}, granted {of_user.granted}"
            for account, of_user in sums.items()
            if of_user.collected > of_user.granted
        ),
    )
    yield proof(
        "every balance in Redis is granted − captured − expired, and nothing is held",
        (
            f"{account}: balance {balance.balance}, held {balance.held}, expected"
            f" {sums[account].balance}"
            for account, balance in counted.balances.items()
            if balance.balance != sums[account].balance or balance.held or sums[account].other
        ),
    )


def calls_proof(counted: Counted) -> Proof:
    """Compare what clients were told of each call with the ledger."""
    return proof(
        "every admitted call has exactly one hold.placed and one hold.captured in the ledger,"
        " for the tokens its client was told, and nobody else has any",
        _wrong_calls(counted),
    )


def cost_proofs(costs: Costs) -> Iterator[Proof]:
    """Yield what must hold of a run's usage records."""
    yield proof(
        "every capture has one usage record, and the records' amounts sum to the captures', user"
        " by user (Σ usage records = Σ captured)",
        costs.wrong_amounts,
    )
    yield proof(
        COSTS_ADD_UP,
        costs.wrong_costs,
    )


def chain_proof(deployment: Deployment, prefix: str) -> Proof:
    """Replay the run's logs from their rows: numbers, chains, sums, grants and holds."""
    return proof(
        "the run's hash chains are whole and its logs, replayed, make its tables",
        (
            f"{finding.quota} version {finding.version}: {finding.detail}"
            for finding in verify(deployment.ledger, prefix=prefix)
        ),
    )


def drift_proof(report: ReconcileReport) -> Proof:
    """Say whether a reconciliation found Redis and the ledger telling the same."""
    return proof(
        f"Redis and the ledger agree on all {report.checked:,} quotas of the deployment",
        (f"{drift.account} {drift.quota_type}: {drift.cause}" for drift in report.drifts),
    )


def _wrong_calls(counted: Counted) -> Iterator[str]:
    workload = counted.workload
    seen = 0
    for of_client in counted.told:
        for number, (amount, shortfall) in of_client.captured.items():
            call = workload.calls[number - 1]
            account = workload.users[workload.user_of[number - 1]].account
            found = counted.hold_entries.get((account, hold_id_of(call)), ())
            kinds = sorted(kind for kind, _, _ in found)
            seen += 1
            if kinds != [events.HOLD_CAPTURED, events.HOLD_PLACED]:
                yield f"{account} call {number}: {kinds or 'no entries'}"
            elif (events.HOLD_CAPTURED, amount, shortfall) not in found:
                yield f"{account} call {number}: told {amount}, the ledger says {found}"
    strangers = len(counted.hold_entries) - seen
    if strangers:
        yield f"{strangers} holds in the ledger belong to no admitted call"


def proof(sentence: str, exceptions: Iterable[str]) -> Proof:
    """Return a proof that holds unless there are exceptions, with the first few of them."""
    found = list(islice(exceptions, EXCEPTIONS_SHOWN + 1))
    if len(found) > EXCEPTIONS_SHOWN:
        found[EXCEPTIONS_SHOWN] = "and more"
    return Proof(sentence, not found, tuple(found))


def _quota(user: User) -> QuotaName:
    return QuotaName(user.account, QUOTA_TYPE)


def _run_all(
    deployment: Deployment, commands: Sequence[Command[T]], now_ms: int | None = None
) -> list[T]:
    """Run commands page by page; raise the first error among their answers."""
    results: list[T] = []
    for start in range(0, len(commands), PAGE):
        page = commands[start : start + PAGE]
        for result in run_commands(deployment.client, deployment.opened, page, now_ms=now_ms):
            if isinstance(result, QuotaError):
                raise result
            results.append(result)
    return results
