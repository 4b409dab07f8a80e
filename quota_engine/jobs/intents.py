"""
Keep the promises of grants, refunds and transfers whose maker did not: died, or got no answer.

An intent may have been applied long ago, with its entry still on the way. So first everything that
the outbox holds after the intent was read is persisted; what is open then was never applied, or
just now under the same id, which Redis remembers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from quota_engine import flows
from quota_engine._sync.transport import Transport
from quota_engine.commands import IssueGrant, Refund
from quota_engine.commands.refunds import ids_elsewhere
from quota_engine.errors import (
    EngineUnavailableError,
    IdempotencyConflictError,
    InvalidArgumentError,
    OperationCancelledError,
    QuotaError,
)
from quota_engine.jobs.deployed import Deployed
from quota_engine.jobs.refunded_orders import finish_refunded_orders
from quota_engine.jobs.transfers import finish_transfers
from quota_engine.keys import QuotaName
from quota_engine.ledger import Ledger
from quota_engine.ledger.intents import GrantIntent

log = logging.getLogger("quota_engine.intents")


@dataclass(slots=True)
class Kept:
    """What became of open intents. Those that ``wait`` are tried again."""

    kept: int = 0
    refused: int = 0
    wait: int = 0


def apply_intents(deployment: Deployed, transport: Transport, older_than: timedelta) -> Kept:
    """
    Apply the grants and refunds that were promised at least ``older_than`` ago, each exactly once;
    finish the transfers that left so long ago, and the refunds of orders that were begun then.

    One that can never be applied is withdrawn, and logged as an error; one that cannot be applied
    now waits. Safe beside the maker itself, and beside another scheduler.
    """
    kept = Kept()
    ledger = deployment.ledger
    grants = [_issue_of(deployment, intent) for intent in ledger.open_intents(older_than)]
    promises: list[IssueGrant | Refund] = [*grants, *ledger.open_refunds(older_than)]
    persisted = _persisted_shards(deployment, [promise.quota for promise in promises])
    still_open = _open_now(ledger) if persisted else set()
    not_made: set[str] = set()  # what is promised above for a refund comes after it
    for promise in promises:
        place = _place(promise)
        if place[-1] in not_made or ledger.shard_of(promise.quota) not in persisted:
            kept.wait += 1
        elif place in still_open and not _apply(deployment, transport, promise, kept):
            not_made.update(_after(promise))
    arrived, returned, waiting = finish_transfers(deployment, transport, older_than)
    done, waits = finish_refunded_orders(deployment, transport, older_than)
    return Kept(kept.kept + arrived + done, kept.refused + returned, kept.wait + waiting + waits)


def _place(promise: IssueGrant | Refund) -> tuple[QuotaName, str, str]:
    if isinstance(promise, IssueGrant):
        return promise.quota, "grant", promise.grant_id
    return promise.quota, "refund", promise.refund_id


def _after(promise: IssueGrant | Refund) -> tuple[str, ...]:
    if isinstance(promise, IssueGrant):
        return ()
    return ids_elsewhere(promise.quota, promise.refund_id, promise.charge_id)


def _open_now(ledger: Ledger) -> set[tuple[QuotaName, str, str]]:
    grants = {(intent.quota, "grant", intent.grant_id) for intent in ledger.open_intents()}
    return grants | {_place(refund) for refund in ledger.open_refunds()}


def _issue_of(deployment: Deployed, intent: GrantIntent) -> IssueGrant:
    return IssueGrant(
        quota=intent.quota,
        grant_id=intent.grant_id,
        terms=intent.terms,
        grants_max=deployment.settings.grants_max,
        details=intent.details,
    )


def _apply(
    deployment: Deployed, transport: Transport, promise: IssueGrant | Refund, kept: Kept
) -> bool:
    """Keep one promise, or withdraw it if it can never be kept; return whether it was kept."""
    quota, noun, id_ = _place(promise)
    try:
        transport.drive(flows.settled(promise))
    except EngineUnavailableError:
        raise
    except (InvalidArgumentError, IdempotencyConflictError) as error:
        kept.refused += 1
        log.error("%s %s to %s was promised and cannot be made: %s", noun, id_, quota, error)
        _withdraw(deployment, promise)
    except OperationCancelledError:
        log.info("%s %s to %s was cancelled", noun, id_, quota)
        _withdraw(deployment, promise)
    except QuotaError as error:
        kept.wait += 1
        log.info("%s %s to %s waits: %s", noun, id_, quota, error)
    else:
        kept.kept += 1
        return True
    return False


def _withdraw(deployment: Deployed, promise: IssueGrant | Refund) -> None:
    if isinstance(promise, IssueGrant):
        deployment.withdraw_intent(promise.quota, promise.grant_id)
    else:
        deployment.withdraw_refund(promise.quota, promise.refund_id)


def _persisted_shards(deployment: Deployed, quotas: Iterable[QuotaName]) -> set[int]:
    """Persist all that the outboxes of these quotas hold now; return where that went well."""
    persisted: set[int] = set()
    by_shard = {deployment.ledger.shard_of(quota): quota for quota in quotas}
    for shard, quota in by_shard.items():
        try:
            deployment.persist_tail(quota)
        except EngineUnavailableError as error:
            log.warning("what was promised in shard %d waits: %s", shard, error)
        else:
            persisted.add(shard)
    return persisted
