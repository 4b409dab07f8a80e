"""Server time by the quotas that one call acts on, without limits and with two in each."""

from __future__ import annotations

import time
from collections import defaultdict

from quota_engine.benchmark.figures import Section, in_turn, section_of
from quota_engine.benchmark.plan import Plan
from quota_engine.benchmark.server_time import DETAILS, TTL_MS, Script, Tick, forget
from quota_engine.benchmark.servers import TYPE, Lab, fill_accounts, send_all
from quota_engine.commands import Action, CaptureHold, PlaceHold, SetLimit, Share
from quota_engine.keys import QuotaName, parents_of
from quota_engine.limits import checked_limit

COUNTS = (1, 2, 3, 4)
#: So much that no call is refused.
LIMIT = 2**52
LIMITED = "limited"
#: Of what each limited quota has two limits.
WINDOWS = (("units", "minute"), ("units", "day"))


def measure_scopes(lab: Lab, plan: Plan, tick: Tick) -> Section:
    """Return the server time of a hold with its capture on one quota and on several."""
    samples: dict[str, list[float]] = defaultdict(list)
    names = {
        _name(count, limited): _account(count, limited)
        for limited in (False, True)
        for count in COUNTS
    }
    with lab.deployment(shards=1) as deployment:
        script = Script(deployment)
        for account in names.values():
            path = [account, *parents_of(account)]
            fill_accounts(deployment, path)
            if account.startswith(LIMITED):
                send_all(deployment, (limit for each in path for limit in _limits(each)))
        for number in range(-1, plan.script_rounds):
            tick("cost by scopes")
            for name in in_turn(names, number):
                quota = QuotaName(names[name], TYPE)
                above = [QuotaName(parent, TYPE) for parent in parents_of(quota.account)]
                spent = _hold_and_capture(script, quota, above, plan.script_calls)
                if number >= 0:  # the first round warms up
                    samples[name].append(spent)
                for each in (quota, *above):
                    forget(deployment, each)
    ordered = {name: samples[name] for name in names}
    title = "Server time of a hold and its capture, by the quotas it acts on"
    return section_of(title, "200 bytes of usage, once", "µs", ordered, _name(1, False))


def _name(count: int, limited: bool) -> str:
    windows = ", two windows each" if limited else ""
    return f"place_hold + capture_hold, {count} quota{'s' if count > 1 else ''}{windows}"


def _account(count: int, limited: bool) -> str:
    """Return an account with so many quotas on its path."""
    root = f"{LIMITED if limited else 'tree'}-{count}"
    return "/".join((root, *("team", "user", "key")[: count - 1]))


def _limits(account: str) -> list[SetLimit]:
    """Return the commands that limit a quota without ever refusing."""
    limits = (
        checked_limit(LIMIT, of=of, per=per, window=None, time_zone="UTC") for of, per in WINDOWS
    )
    return [
        SetLimit(
            quota=QuotaName(account, TYPE),
            operation_id=limit.key,
            action=Action.SET,
            limit=limit,
            at_ms=time.time_ns() // 1_000_000,
        )
        for limit in limits
    ]


def _hold_and_capture(
    script: Script, quota: QuotaName, above: list[QuotaName], calls: int
) -> float:
    holds = [script.new_id("hold") for _ in range(calls)]
    held = tuple(Share(name, 30) for name in above)
    used = tuple(Share(name, 20) for name in above)
    placed = script.timed(
        PlaceHold(quota=quota, hold_id=hold, amount=30, ttl_ms=TTL_MS, shares=held)
        for hold in holds
    )
    return placed + script.timed(
        CaptureHold(
            quota=quota,
            hold_id=hold,
            operation_id=f"{hold}:capture",
            amount=20,
            details=DETAILS,
            shares=used,
        )
        for hold in holds
    )
