"""
Many processes at once on a tree of accounts: no limit is ever passed, no call is ever in parts.

Eight processes act at random on a random tree, with grants, overdraft limits and limits that
change meanwhile. Then the log of the tree's shard is replayed, in the order in which Redis
decided, beside a plain model. A refused call has left nothing, and a single one not a byte.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import redis

from quota_engine import LimitExceededError, QuotaEngine, QuotaInsufficientError
from quota_engine.events import Entry, parse_entry
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName, ShardKeys, parents_of
from tests.engines import TestClock
from tests.programs import Program
from tests.properties.crowd import PROGRAM, TYPES, Crowd
from tests.properties.plain import PlainQuota
from tests.shards import dumped

PROCESSES = 8
MANY = (pytest.mark.fault, pytest.mark.fault_slow)
CALLS = frozenset(
    {"hold.placed", "hold.extended", "hold.captured", "hold.released", "quota.debited"}
)
ADMITTING = frozenset({"hold.placed", "quota.debited"})
CHARGING = frozenset({"hold.captured", "quota.debited"})
CLOSING = frozenset({"hold.captured", "hold.released"})


class Told(NamedTuple):
    """What processes were told of their calls."""

    scopes: dict[str, list[str] | None]
    admitted: set[str]
    #: Call id -> which error refused it.
    refused: dict[str, str]


def acted(redis_url: str, database_url: str, seed: int, acts: int) -> Told:
    """Let processes act at once; return what they were told."""
    processes = [
        Program(
            *(PROGRAM, redis_url, database_url, str(seed), str(number), str(acts)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    lines: list[dict[str, Any]] = []
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            said, _ = process.communicate(timeout=600)
            assert process.wait() == 0
            lines += json.loads(said)
    finally:
        for process in processes:
            process.kill()
    admitted = {line["id"] for line in lines if line["came"] == "admitted"}
    refused = {line["id"]: line["came"] for line in lines if line["id"] not in admitted}
    return Told({line["id"]: line["scopes"] for line in lines}, admitted, refused)


def bursts(client: redis.Redis, outbox: str) -> Iterator[list[Entry]]:
    """Yield the entries of each script's run that stand together, in the order of deciding."""
    burst: list[Entry] = []
    events: Any = client.xrange(outbox)
    for _, fields in events:
        if "entry" in fields:
            burst.append(parse_entry(fields["entry"]))
            if "more" not in fields:
                yield burst
                burst = []
    assert not burst, "the last call is whole"


class Replay:
    """A shard's log beside plain models of its quotas."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.quotas: dict[QuotaName, PlainQuota] = defaultdict(PlainQuota)
        self.wrong: list[str] = []
        self.in_log: set[str] = set()
        self.kinds = Counter[str]()
        #: Charges of each quota by the account that made the call.
        self.charged: dict[QuotaName, Counter[str]] = defaultdict(Counter)
        self.charged_below: dict[QuotaName, Counter[str]] = defaultdict(Counter)

    def take(self, burst: Sequence[Entry]) -> None:
        calls = [entry for entry in burst if entry.kind in CALLS]
        acting = {name for name, quota in self.quotas.items() if quota.acts}
        for entry in burst:
            self.wrong += (
                f"{entry.quota} version {entry.version}, {entry.kind}: {problem}"
                for problem in self.quotas[entry.name].apply(entry)
            )
        for entry in calls:
            self.kinds[entry.kind] += 1
        if calls:
            self.look_at_call(calls, acting)

    def look_at_call(self, entries: Sequence[Entry], acting: set[QuotaName]) -> None:
        """One call: of equal amounts on each level, in every quota that it must be in."""
        own = [entry for entry in entries if "@" not in (entry.subject or entry.operation_id)]
        account, kind = own[0].name.account, own[0].kind
        call_id = own[0].subject or own[0].operation_id
        amounts = {entry.name.quota_type: entry.amount for entry in own}
        self.in_log.add(call_id)
        for entry in entries:
            told = json.loads(entry.details or "{}").get("account", entry.name.account)
            base = (entry.subject or entry.operation_id).partition("@")[0]
            if (told, base, entry.kind) != (account, call_id, kind):
                self.wrong.append(f"{call_id}: {entry.quota} has {entry.kind} of another call")
            elif kind in ADMITTING and entry.amount != amounts.get(entry.name.quota_type):
                self.wrong.append(f"{call_id}: {entry.amount} in {entry.quota}, own {amounts}")
            elif kind in CHARGING:
                self.charged[entry.name][account] += entry.amount
                self.charged_below[entry.name][account] += amounts[entry.name.quota_type]
        scopes = self.told.scopes[call_id]
        above = parents_of(account) if scopes is None else scopes
        wanted = {QuotaName(each, one) for each in above for one in amounts} & acting
        wanted |= {entry.name for entry in own}
        found = {entry.name for entry in entries}
        if (kind in ADMITTING and found != wanted) or (kind in CHARGING and not wanted <= found):
            self.wrong.append(f"{call_id} of {account}: {kind} in {found}, not in {wanted}")
        elif kind in CLOSING and not any("part" in entry.flags for entry in entries):
            self.wrong += (
                f"{call_id} of {account}: {kind}, and it is open in {name}"
                for name in wanted
                if any(held.partition("@")[0] == call_id for held in self.quotas[name].holds)
            )

    def check(self) -> None:
        assert self.wrong == []
        assert self.told.admitted <= self.in_log
        assert not self.told.refused.keys() & self.in_log, "what was refused has left nothing"
        assert self.charged == self.charged_below


def look_for_traces(engine: QuotaEngine, url: str, crowd: Crowd, clock: TestClock) -> None:
    """Refused by a budget and by limits of each kind, a call changes no byte of any key."""
    leaf = crowd.leaves[-1]
    above = parents_of(leaf)[0]
    for account in (leaf, *parents_of(leaf)):
        for kind in TYPES:
            engine.issue_grant(account, kind, 10**6)
            for limit in engine.limits.list(account, kind):
                named = {"of": limit.of, "per": limit.per, "window": limit.window}
                engine.limits.remove(account, kind, **named)

    def is_refused_without_trace(amounts: dict[str, int], error: type[Exception]) -> None:
        before = dumped(url)
        for call in (engine.place_hold, engine.debit):
            with pytest.raises(error):
                call(leaf, amounts)
            assert dumped(url) == before

    plenty = dict.fromkeys(TYPES, 10**8)
    is_refused_without_trace(plenty, QuotaInsufficientError)
    for of, per, account in (
        ("units", "hour", leaf),
        ("units", "month", above),
        ("calls", "minute", "org"),
    ):
        engine.limits.set(account, TYPES[1], 2, of=of, per=per)
        for _ in range(2 if of == "calls" else 0):
            engine.debit(leaf, TYPES[1], 1)
        is_refused_without_trace({TYPES[0]: 1, TYPES[1]: 3}, LimitExceededError)
        engine.limits.remove(account, TYPES[1], of=of, per=per)


@pytest.mark.parametrize(
    ("seed", "acts"),
    [
        (1, 40),
        *(pytest.param(seed, 400, marks=MANY) for seed in range(2, 8)),
    ],
)
def test_no_limit_is_passed_and_no_call_is_in_parts_whatever_eight_processes_do(
    redis_url: str, database_url: str, seed: int, acts: int
) -> None:
    clock, crowd = TestClock(), Crowd(seed)
    with QuotaEngine.open(redis_url, database_url, clock=clock) as engine:
        crowd.furnish(engine)
        told = acted(redis_url, database_url, seed, acts)
        outbox = ShardKeys(engine.deployment.ledger.shard_of(QuotaName("org", TYPES[0]))).outbox
        with redis.Redis.from_url(redis_url, decode_responses=True, protocol=2) as client:
            replay = Replay(told)
            for burst in bursts(client, outbox):
                replay.take(burst)
        replay.check()
        assert replay.kinds.keys() == CALLS
        refusals = Counter(told.refused.values())
        assert min(refusals["LimitExceededError"], refusals["QuotaInsufficientError"]) > 4
        engine.drain()
        assert engine.reconcile().drifts == ()
        assert list(verify(engine.deployment.ledger)) == []
        clock.forward(hours=1)
        look_for_traces(engine, redis_url, crowd, clock)
