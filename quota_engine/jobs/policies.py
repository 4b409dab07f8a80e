"""
What workers and the reconciler do for account policies: tell Redis what it lacks, find what it was
told otherwise, and mend that.

The ledger has the truth. A policy that it says Redis was told must be there. What Redis has of an
account that the ledger does not know, or in other words, somebody has edited.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import redis
from sqlalchemy import Connection

from quota_engine import flows
from quota_engine._sync.transport import Transport
from quota_engine.drift import Cause, Difference, Drift
from quota_engine.ids import new_id
from quota_engine.jobs import gate_server
from quota_engine.jobs.deployed import Deployed
from quota_engine.jobs.driving import Driver
from quota_engine.jobs.gate import Opened
from quota_engine.jobs.pinned import PinnedConnection, text_of
from quota_engine.keys import QuotaName, ShardKeys, shard_of
from quota_engine.ledger import Ledger
from quota_engine.ledger.locks import lock_named
from quota_engine.ledger.policies import (
    add_change,
    all_policies,
    instant_of,
    restricting_accounts,
    unsent,
)
from quota_engine.policies import MARK, REPAIR, AccountPolicy, WantedPolicy, field_of, record_of

#: Policies that one run of the duty tells.
PAGE = 1_000


def tell_policies(deployment: Deployed, transport: Transport) -> int:
    """
    Tell Redis what it was not told of accounts; return of how many that was.

    Whoever changes a policy does it at once: this is for those who died in between. A shard that
    was opened by a release that knows no policies is told all of its own.
    """
    with deployment.ledger.transaction() as sql:
        accounts = unsent(sql, PAGE)
        restricting = restricting_accounts(sql)
    opened = deployment.opened
    by_shard: dict[int, list[str]] = {}
    for account in restricting:
        by_shard.setdefault(shard_of(account, opened.shards), []).append(account)
    for shard, names in by_shard.items():
        if not deployment.client.hexists(ShardKeys(shard).versions, MARK):
            accounts += names
    untold = dict.fromkeys(accounts)
    for account in untold:
        transport.drive(flows.told(account))
    return len(untold)


@dataclass(frozen=True, slots=True)
class PolicyDrift:
    """What Redis has of an account, and the ledger says otherwise."""

    drift: Drift
    #: None: the ledger knows no such account.
    policy: AccountPolicy | None
    #: The record that Redis has; empty: none.
    record: str


def policy_drifts(client: redis.Redis, ledger: Ledger, opened: Opened) -> list[PolicyDrift]:
    """Compare what Redis has of every account with the ledger. Others may go on changing them."""
    with ledger.transaction() as sql:
        known = all_policies(sql)
    suspects: list[str] = []
    with PinnedConnection(client) as connection:
        for shard in range(opened.shards):
            told = gate_server.account_records(connection, shard)
            names = {name for name in known if shard_of(name, opened.shards) == shard}
            names |= {QuotaName.parse(field).account for field in told if field != MARK}
            for account in sorted(names):
                if _difference(known.get(account), told.get(_field(account)), MARK in told):
                    suspects.append(account)
        looked_at = (_look_again(connection, ledger, opened, account) for account in suspects)
        return [found for found in looked_at if found is not None]


def _look_again(
    connection: PinnedConnection, ledger: Ledger, opened: Opened, account: str
) -> PolicyDrift | None:
    """Compare one account as of one instant; None where it agrees, or is being changed."""
    with ledger.transaction() as sql:
        before = _known(sql, account)
    found = _compared(connection, opened, account, before)
    with ledger.transaction() as sql:
        return found if _known(sql, account) == before else None


def _known(sql: Connection, account: str) -> tuple[AccountPolicy, bool] | None:
    return all_policies(sql, [account]).get(account)


def _compared(
    connection: PinnedConnection,
    opened: Opened,
    account: str,
    known: tuple[AccountPolicy, bool] | None,
) -> PolicyDrift | None:
    """Compare what Redis has of an account now with what the ledger says; None: it agrees."""
    versions = ShardKeys(shard_of(account, opened.shards)).versions
    found, mark = connection.execute("HMGET", versions, _field(account), MARK)
    record = text_of(found)
    difference = _difference(known, record, mark is not None)
    if difference is None:
        return None
    told = (difference.cause, difference.field, difference.redis, difference.ledger)
    drift = Drift(account, "", *told, (difference,))
    return PolicyDrift(drift, None if known is None else known[0], record or "")


def _difference(
    known: tuple[AccountPolicy, bool] | None, record: str | None, has_mark: bool
) -> Difference | None:
    """Compare what the ledger says, and whether it was sent, with the record that Redis has."""
    if known is None:
        if record is None:
            return None
        return Difference(Cause.POLICY_UNKNOWN, "policy", _told(record), None)
    policy, is_sent = known
    if not is_sent:
        return None
    if record is None:
        return Difference(Cause.POLICY_MISSING, "policy", None, policy.words)
    if record != record_of(policy):
        return Difference(Cause.POLICY_EDITED, "policy", _told(record), policy.words)
    if policy.is_restricting and not has_mark:
        return Difference(Cause.POLICY_MISSING, MARK, None, policy.words)
    return None


def mend_policies(driver: Driver, found: Iterable[PolicyDrift], actor: str) -> int:
    """Tell Redis what the ledger says instead, and record that; return how many agree then."""
    with PinnedConnection(driver.client) as connection:
        return sum(_mend(driver, connection, one.drift.account, actor) for one in found)


def _mend(driver: Driver, connection: PinnedConnection, account: str, actor: str) -> bool:
    """
    Mend what Redis has of an account, if it still differs; return whether it agrees then.

    Its lock keeps others from mending or changing it meanwhile: what they have mended is not
    mended, and told, again. The mend is recorded only once a second look finds it done.
    """
    with driver.ledger.transaction() as sql:
        lock_named(sql, f"account:{account}")
        known = _known(sql, account)
        found = _compared(connection, driver.opened, account, known)
        if found is None:
            return True
        policy = found.policy or AccountPolicy(account=account)
        command = flows.set_account(policy, seen=found.record)
        if found.policy is None:
            command = replace(command, record="", restricts=False)
        driver.drive(flows.settled(command))
        if _compared(connection, driver.opened, account, known) is not None:
            return False
        wanted = WantedPolicy(
            account=account,
            action=REPAIR,
            operation_id=new_id("repair"),
            operator=actor,
            reason=f"reconcile found {found.drift.cause}: Redis had {found.drift.redis}",
        )
        add_change(sql, wanted, policy, policy, instant_of(sql, None))
        return True


def _field(account: str) -> str:
    return str(field_of(account))


def _told(record: str) -> str:
    return " ".join(record.split("\n"))
