"""
Memory: bytes of the server per thing that it keeps, from what it uses before and after.

Holds, events and operations are spread over a hundredth as many quotas: each quota that has any
pays for keys of its own once.
"""

from __future__ import annotations

from collections.abc import Callable

from quota_engine.benchmark.figures import Section, figure_of
from quota_engine.benchmark.plan import Plan
from quota_engine.benchmark.server_time import DETAILS, TTL_MS, Tick
from quota_engine.benchmark.servers import TYPE, Lab, known_quota, send_all, used_memory
from quota_engine.commands import Debit, PlaceHold
from quota_engine.deployment import Deployment
from quota_engine.ids import new_id
from quota_engine.keys import QuotaName, ShardKeys

EACH = 100


def measure_memory(lab: Lab, plan: Plan, tick: Tick) -> Section:
    """Return bytes per quota, open hold, pending event and remembered operation."""
    count = plan.memory_count
    with lab.deployment(shards=1) as deployment:
        tick("memory")
        names = [QuotaName(f"user:{number}", TYPE) for number in range(count)]
        few = names[: count // EACH]
        quota = _grown(
            deployment, lambda: send_all(deployment, (known_quota(deployment, n) for n in names))
        )
        debits = (
            Debit(quota=name, operation_id=new_id("op"), amount=3, details=DETAILS)
            for _ in range(EACH)
            for name in few
        )
        _grown(deployment, lambda: send_all(deployment, debits))
        operation = -_grown(deployment, lambda: _forget_operations(deployment, few))
        event = -_grown(deployment, lambda: _trim(deployment))
        holds = (
            PlaceHold(quota=name, hold_id=new_id("hold"), amount=30, ttl_ms=TTL_MS)
            for _ in range(EACH)
            for name in few
        )

        def place() -> None:
            send_all(deployment, holds)
            _forget_operations(deployment, few)
            _trim(deployment)

        hold = _grown(deployment, place)
    grown = {
        "a quota, one grant": quota,
        "an open hold": hold,
        "a pending event, 200 bytes of usage": event,
        "a remembered operation": operation,
    }
    figures = (figure_of(name, "bytes", [used / count]) for name, used in grown.items())
    note = f"from the server's used_memory, over {count:,} of each"
    return Section(title="Memory of the server", note=note, base=None, figures=tuple(figures))


def _grown(deployment: Deployment, change: Callable[[], None]) -> int:
    before = used_memory(deployment.client)
    change()
    return used_memory(deployment.client) - before


def _forget_operations(deployment: Deployment, names: list[QuotaName]) -> None:
    keys = ShardKeys(0)
    for name in map(str, names):
        deployment.client.delete(keys.ops0(name), keys.ops1(name))


def _trim(deployment: Deployment) -> None:
    deployment.client.xtrim(ShardKeys(0).outbox, maxlen=0, approximate=False)
