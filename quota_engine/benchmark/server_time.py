"""
Server time: how long the server is busy with one call, as its own statistics tell.

Calls are sent in pipelines, so that neither client nor network counts. The base is a bare
check-and-decrement: what the least that could be called a quota costs on the same server.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from quota_engine.benchmark.figures import Section, in_turn, section_of
from quota_engine.benchmark.plan import Plan
from quota_engine.benchmark.servers import TYPE, Lab, fill_accounts
from quota_engine.commands import (
    CaptureHold,
    Command,
    Context,
    Debit,
    ExtendHold,
    GrantTerms,
    IssueGrant,
    PlaceHold,
    ReadBalance,
    ReleaseHold,
)
from quota_engine.deployment import Deployment
from quota_engine.errors import EngineFault
from quota_engine.keys import QuotaName, ShardKeys
from quota_engine.scripts import load_scripts

BARE = "bare check-and-decrement"
BARE_SCRIPT = """
local have = tonumber(redis.call("GET", KEYS[1]) or "0")
local want = tonumber(ARGV[1])
if have < want then
  return -1
end
return redis.call("DECRBY", KEYS[1], want)
"""
#: About 200 bytes, as a model call's usage and reference are.
DETAILS = (
    '{"reference":"request-0190b2c8e7c17a3b9f3e0d5c1a2b3c4d","usage":{"cached_input_tokens":200,'
    '"input_tokens":1000,"output_tokens":200,"reasoning_tokens":40,"requests":1}}'
)
TTL_MS = 600_000
#: Replies of calls that were not granted.
UNGRANTED = frozenset({b"REPLAYED", b"DENIED", b"EXCEEDED", b"CLOSED"})

Tick = Callable[[str], None]


class Script:
    """Calls scripts in pipelines, and reads what the server needed for them."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._client: Any = deployment.client
        self._bare = self._client.script_load(BARE_SCRIPT)
        self._client.set("bench:bare", 2**52)
        self._numbers = itertools.count()

    def new_id(self, prefix: str) -> str:
        """Return an id as long as a real one."""
        return f"{prefix}_{next(self._numbers):032x}"

    def bare(self, calls: int) -> float:
        """Return microseconds per call of the bare script."""
        return self._timed((self._bare, 1, "bench:bare", 1) for _ in range(calls))

    def timed(self, commands: Iterable[Command[Any]]) -> float:
        """Return microseconds per call; every call must be granted."""
        return self._timed(self._arguments(command) for command in commands)

    def _arguments(self, command: Command[Any]) -> tuple[Any, ...]:
        shard = self._deployment.ledger.shard_of(command.quota)
        context = Context(ShardKeys(shard), self._deployment.opened.epochs[shard])
        keys = command.keys(context.keys)
        sha = load_scripts()[command.script].sha
        return (sha, len(keys), *keys, *command.argv(context))

    def _timed(self, calls: Iterable[tuple[Any, ...]]) -> float:
        pipeline = self._client.pipeline(transaction=False)
        for arguments in calls:
            pipeline.execute_command("EVALSHA", *arguments)
        self._client.config_resetstat()
        for reply in pipeline.execute():
            if isinstance(reply, list) and reply[0] in UNGRANTED:
                raise EngineFault(f"the benchmark's call was answered {reply!r}")
        return float(self._client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])


def measure_scripts(lab: Lab, plan: Plan, tick: Tick) -> Section:
    """Return the server time of each script, on one quota with one grant."""
    samples: dict[str, list[float]] = defaultdict(list)
    with lab.deployment(shards=1) as deployment:
        script = Script(deployment)
        fill_accounts(deployment, ["user:42"])
        for number in range(-1, plan.script_rounds):
            tick("server time")
            measured = _one_round(script, plan.script_calls, f"user:issue-{number}", deployment)
            if number >= 0:  # the first round warms up
                for name, value in measured.items():
                    samples[name].append(value)
            forget(deployment, QuotaName("user:42", TYPE))
    return section_of(
        "Server time of one call",
        "one quota, one grant, 200 bytes of usage with debit and capture",
        "µs",
        samples,
        BARE,
    )


def _one_round(
    script: Script, calls: int, issued_to: str, deployment: Deployment
) -> Mapping[str, float]:
    quota = QuotaName("user:42", TYPE)
    holds = [script.new_id("hold") for _ in range(calls)]
    others = [script.new_id("hold") for _ in range(calls)]
    place = [PlaceHold(quota=quota, hold_id=hold, amount=30, ttl_ms=TTL_MS) for hold in holds]
    measured = {
        BARE: script.bare(calls),
        "debit": script.timed(debits(script, quota, calls)),
        "place_hold": script.timed(place),
        "extend_hold": script.timed(
            ExtendHold(
                quota=quota,
                hold_id=hold,
                operation_id=f"{hold}:more",
                amount=40,
                ttl_ms=TTL_MS,
            )
            for hold in holds
        ),
        "capture_hold": script.timed(
            CaptureHold(
                quota=quota,
                hold_id=hold,
                operation_id=f"{hold}:capture",
                amount=20,
                details=DETAILS,
            )
            for hold in holds
        ),
    }
    script.timed(PlaceHold(quota=quota, hold_id=one, amount=30, ttl_ms=TTL_MS) for one in others)
    measured["release_hold"] = script.timed(
        ReleaseHold(quota=quota, hold_id=hold) for hold in others
    )
    fill_accounts(deployment, [issued_to])
    terms = GrantTerms(amount=100, source="purchase")
    grants = (script.new_id("grant") for _ in range(10))  # each walks past the ones before it
    measured["issue_grant"] = script.timed(
        IssueGrant(quota=QuotaName(issued_to, TYPE), grant_id=grant, terms=terms)
        for grant in grants
    )
    measured["read_balance"] = script.timed(
        ReadBalance(quota=quota, with_grants=False) for _ in range(calls)
    )
    return measured


def measure_grant_counts(lab: Lab, plan: Plan, tick: Tick) -> Section:
    """Return the server time of a debit beside more and more untouched grants."""
    samples: dict[str, list[float]] = defaultdict(list)
    with lab.deployment(shards=1) as deployment:
        script = Script(deployment)
        names = {f"debit, {count:,} grants": count for count in plan.grant_counts}
        for count in plan.grant_counts:
            fill_accounts(deployment, [f"user:{count}"], grants=count)
        for number in range(-1, plan.script_rounds):
            tick("cost by grants")
            for name in in_turn(names, number):
                quota = QuotaName(f"user:{names[name]}", TYPE)
                spent = script.timed(debits(script, quota, plan.script_calls))
                if number >= 0:
                    samples[name].append(spent)
                forget(deployment, quota)
    title = "Server time of a debit, by the grants it does not touch"
    ordered = {name: samples[name] for name in names}
    return section_of(title, "flat: every ratio is about 1", "µs", ordered, next(iter(names)))


def debits(script: Script, quota: QuotaName, calls: int) -> list[Debit]:
    """Return as many debits of a quota, with usage."""
    return [
        Debit(quota=quota, operation_id=script.new_id("op"), amount=3, details=DETAILS)
        for _ in range(calls)
    ]


def forget(deployment: Deployment, quota: QuotaName) -> None:
    """Keep every round alike: drop the outbox's tail and what the quota remembers."""
    keys = ShardKeys(deployment.ledger.shard_of(quota))
    deployment.client.xtrim(keys.outbox, maxlen=100, approximate=False)
    deployment.client.delete(keys.ops0(str(quota)), keys.ops1(str(quota)))
