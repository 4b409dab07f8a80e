"""
Renew subscriptions: promise their next grants ahead of time, and settle what periods leave behind.

What is promised is recorded in the transaction that decides it, so two schedulers promise it once,
and one that dies leaves promises that the others keep. A scheduler that was down makes up for the
running period and for no earlier one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from quota_engine import flows
from quota_engine._sync.advancing import Advancing
from quota_engine._sync.transport import Transport
from quota_engine.commands import IssueGrant
from quota_engine.errors import EngineUnavailableError, QuotaError
from quota_engine.jobs.deployed import Deployed
from quota_engine.keys import QuotaName

log = logging.getLogger("quota_engine.renewal")

#: Subscriptions that are decided in one transaction, and the time after which one run ends.
PAGE = 100
SECONDS_MAX = 10.0
#: Grants are made by who has promised them for so long; later the schedule of promises does it.
MAKING_SECONDS_MAX = 10.0


@dataclass(slots=True)
class Renewed:
    """How many subscriptions were looked at, and what came of it."""

    looked_at: int = 0
    grants: int = 0
    finished: int = 0
    settled: int = 0
    failed: int = 0


def renew(deployment: Deployed, transport: Transport, now: datetime) -> Renewed:
    """
    Do what subscriptions need by ``now``. Safe to run twice, late, and beside another.

    Raises ``EngineUnavailableError`` when a store does not answer.
    """
    renewed = Renewed()
    until = time.monotonic() + SECONDS_MAX
    _finish_changes(deployment, transport, now, renewed)
    _renew_due(deployment, transport, now, renewed, until)
    _settle(deployment, transport, now, renewed, until)
    _renew_due(deployment, transport, now, renewed, until)  # what was given back by holds
    return renewed


def _renew_due(
    deployment: Deployed, transport: Transport, now: datetime, renewed: Renewed, until: float
) -> None:
    """Promise and make what is due, page by page."""
    while time.monotonic() < until:
        count, promised = deployment.plan_store.renew_due(now, PAGE)
        renewed.looked_at += count
        renewed.grants += len(promised)
        _make(deployment, transport, promised, renewed)
        if not count:
            return


def _finish_changes(
    deployment: Deployed, transport: Transport, now: datetime, renewed: Renewed
) -> None:
    """Finish the changes of who died on the way."""
    store = deployment.plan_store
    advancing, after = Advancing(transport, store, deployment.settings), ""
    while page := store.with_voids(after, PAGE):
        for subscription_id in page:
            try:
                renewed.finished += advancing.finish(subscription_id, now)
            except EngineUnavailableError:
                raise
            except QuotaError as error:
                renewed.failed += 1
                log.error("the change of subscription %s waits: %s", subscription_id, error)
        after = page[-1]


def _make(
    deployment: Deployed, transport: Transport, promised: Sequence[IssueGrant], renewed: Renewed
) -> None:
    """Make grants that were promised just now; what cannot be made is left to the promises."""
    advancing = Advancing(transport, deployment.plan_store, deployment.settings)
    until = time.monotonic() + MAKING_SECONDS_MAX
    for command in promised:
        if time.monotonic() > until:
            break
        try:
            advancing.make([command])
        except EngineUnavailableError:
            raise
        except QuotaError as error:
            renewed.failed += 1
            log.warning("grant %s to %s waits: %s", command.grant_id, command.quota, error)


def _settle(
    deployment: Deployed, transport: Transport, now: datetime, renewed: Renewed, until: float
) -> None:
    """Settle ended and begun periods, page by page."""
    store, after = deployment.plan_store, ""
    while time.monotonic() < until:
        page = store.unsettled(now, after, PAGE)
        if not page:
            return
        ready = _brought_up(deployment, transport, [quota for _, quota in page], renewed)
        for subscription_id in dict.fromkeys(name for name, _ in page):
            quotas = [quota for name, quota in page if name == subscription_id and quota in ready]
            if quotas:
                promised = store.settle(subscription_id, quotas, now)
                renewed.settled += len(promised)
                _make(deployment, transport, promised, renewed)
            after = subscription_id


def _brought_up(
    deployment: Deployed, transport: Transport, quotas: Sequence[QuotaName], renewed: Renewed
) -> set[QuotaName]:
    """Apply what is due to quotas, and persist it; return those of which the ledger has it all."""
    ready: set[QuotaName] = set()
    for quota in quotas:
        try:
            transport.drive(flows.caught_up(quota))
            ready.add(quota)
        except EngineUnavailableError:
            raise
        except QuotaError as error:
            renewed.failed += 1
            log.error("%s cannot be brought up to now: %s", quota, error)
    by_shard = {deployment.ledger.shard_of(quota): quota for quota in ready}
    for shard, quota in by_shard.items():
        try:
            deployment.persist_tail(quota)
        except EngineUnavailableError as error:
            log.warning("what is to be settled in shard %d waits: %s", shard, error)
            ready = {one for one in ready if deployment.ledger.shard_of(one) != shard}
    return ready
