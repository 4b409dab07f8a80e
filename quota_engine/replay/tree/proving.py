"""
What must hold of a tree when a run is over, level by level, from the ledger's own rows.

Every level is the sum of what is below it, no limit was exceeded when a call was admitted, and
each call is in every quota that it had to be in, or in none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from sqlalchemy import text

from quota_engine import events
from quota_engine.commands.shares import suffix_of
from quota_engine.engine import QuotaEngine
from quota_engine.keys import QuotaName, parents_of
from quota_engine.replay import proofs
from quota_engine.replay.clients import QUOTA_TYPE, Told, hold_id_of
from quota_engine.replay.proofs import Proof, proof
from quota_engine.replay.tree.planning import ORGANISATION, TEAM, USER, Tree
from quota_engine.replay.tree.walking import Line, Walk

_LINES = text("""
SELECT account, version, kind, at_ms, subject, amount, flags FROM ledger_entries
WHERE account LIKE :pattern AND quota_type = :quota_type ORDER BY account, version
""")
_RECORDS = text("""
SELECT account, count(*) AS calls, sum(amount) AS amount FROM usage_records
WHERE account LIKE :pattern GROUP BY account
""")


@dataclass(frozen=True, slots=True)
class Fullness:
    """How full the limits of a kind were at most, of their amount, when a call was admitted."""

    level: str
    words: str
    limits: int
    share: float


@dataclass(slots=True)
class Found:
    """What was read of a drained run, and how full each limit was by it."""

    tree: Tree
    told: Sequence[Told]
    lines: Mapping[str, Sequence[Line]]
    records: Mapping[str, tuple[int, int]]
    #: Of each level and kind of limit the fullest share of every one.
    fullest: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    @property
    def captured(self) -> dict[int, int]:
        """Tokens of every admitted call, by its number, as clients were told."""
        return {
            number: amount for one in self.told for number, (amount, _) in one.captured.items()
        }


def read(engine: QuotaEngine, tree: Tree, told: Sequence[Told], prefix: str) -> Found:
    """Read the entries and usage records of a drained run."""
    asked = {"pattern": f"{prefix}%", "quota_type": QUOTA_TYPE}
    with engine.deployment.ledger.transaction() as sql:
        rows = sql.execute(_LINES, asked)
        lines = {
            account: [Line(*row[1:]) for row in found]
            for account, found in groupby(rows, key=lambda row: row.account)
        }
        records = {
            row.account: (row.calls, int(row.amount))
            for row in sql.execute(_RECORDS, {"pattern": f"{prefix}%"})
        }
    return Found(tree, told, lines, records)


def prove(engine: QuotaEngine, found: Found, counted: proofs.Counted) -> Iterator[Proof]:
    """Yield what must hold of the levels."""
    yield proof(
        "no limit was exceeded when a call was admitted, of any account: each log was walked, and"
        " every window counted again by what it means",
        list(_exceeded(found)),
    )
    yield proof(
        "every admitted call has one hold.placed and one hold.captured, of what its client was"
        " told, in each quota of its path that pays or is limited; a refused one has none",
        _broken(found),
    )
    yield from proofs.account_proofs(counted, "account")
    for level, below in ((TEAM, "users"), (ORGANISATION, "teams")):
        yield proof(
            f"every {level} was charged the sum of what its {below} were, in as many calls",
            _unequal(found, level),
        )
    yield proof(
        "usage records, reports and statements count each call once: the records stand with the"
        " users, a report of an organisation or team is their sum, and so is its statement",
        _counted_twice(engine, found, counted),
    )


def fullness(found: Found) -> tuple[Fullness, ...]:
    """Return how full the limits were, by level and kind; after ``prove``."""
    return tuple(
        Fullness(level, words, len(shares), round(max(shares), 4))
        for (level, words), shares in sorted(found.fullest.items())
    )


def _exceeded(found: Found) -> Iterator[str]:
    for node in found.tree.nodes:
        walk = Walk(node.account, node.limits)
        yield from walk.follow(found.lines.get(node.account, ()))
        for count in walk.counts:
            shares = found.fullest.setdefault((node.level, count.limit.words), [])
            shares.append(count.fullest)


def _broken(found: Found) -> Iterator[str]:
    entries: dict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
    for account, lines in found.lines.items():
        for line in lines:
            if line.kind.startswith("hold."):
                entries[account, line.subject].append((line.kind, line.amount))
    captured, seen = found.captured, 0
    above = {user.account: found.tree.above(user.account) for user in found.tree.workload.users}
    for call in found.tree.workload.calls:
        if call.number not in captured:
            continue
        account = found.tree.account_of(call)
        own = QuotaName(account, QUOTA_TYPE)
        for each in (account, *above[account]):
            hold_id = hold_id_of(call) + suffix_of(own, QuotaName(each, QUOTA_TYPE))
            entries_of = entries.get((each, hold_id), [])
            seen += 1
            kinds = [kind for kind, _ in entries_of]
            if kinds != [events.HOLD_PLACED, events.HOLD_CAPTURED]:
                yield f"call {call.number} of {account} in {each}: {kinds or 'no entries'}"
            elif entries_of[-1][1] != captured[call.number]:
                yield f"call {call.number} of {account} in {each}: charged {entries_of[-1][1]}"
    if len(entries) != seen:
        yield f"{len(entries) - seen} holds in the ledger belong to no admitted call"


def _unequal(found: Found, level: str) -> Iterator[str]:
    """Compare each account of a level with the sum of the nearest below it that have a quota."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    acting = {node.account for node in found.tree.nodes}
    for account, lines in found.lines.items():
        own = sums[account]
        nearest = next((parent for parent in parents_of(account) if parent in acting), None)
        for line in lines:
            if line.kind == events.HOLD_CAPTURED:
                own.update(calls=1, tokens=line.amount)
        if nearest is not None:
            sums[f"below {nearest}"].update(own)
    for node in found.tree.nodes:
        of_node, below = sums[node.account], sums[f"below {node.account}"]
        if node.level == level and of_node != below:
            yield f"{node.account}: {dict(of_node)}, below it {dict(below)}"


def _counted_twice(engine: QuotaEngine, found: Found, counted: proofs.Counted) -> Iterator[str]:
    used: dict[str, Counter[str]] = defaultdict(Counter)
    captured = found.captured
    for call in found.tree.workload.calls:
        if call.number in captured:
            account = found.tree.account_of(call)
            for each in (account, *parents_of(account)):
                used[each].update(calls=1, tokens=captured[call.number])
    for account, (calls, amount) in found.records.items():
        at_users = {user.account for user in found.tree.workload.users}
        told = used[account] if account in at_users else Counter[str]()
        if (calls, amount) != (told["calls"], told["tokens"]):
            yield f"{account}: {calls} usage records of {amount}, made were {dict(told)}"
    for node in found.tree.nodes:
        if node.level == USER:
            continue
        total = engine.reports.usage(team=node.account, quota_type=QUOTA_TYPE).total
        told = used[node.account]
        if (total.calls, total.consumed.get(QUOTA_TYPE, 0)) != (told["calls"], told["tokens"]):
            yield f"{node.account}: reported {total.calls} calls of {dict(total.consumed)}"
        stated = engine.statement(node.account, QUOTA_TYPE, None, found.tree.pace.ends_at)
        paid = told["tokens"] if node.gates else 0
        if stated.used + stated.shortfall != paid or stated.difference:
            yield f"{node.account}: stated as used {stated.used}, below it {paid}"
        if stated.closing != counted.balances[node.account].balance:
            yield f"{node.account}: stated {stated.closing}, Redis has another balance"
