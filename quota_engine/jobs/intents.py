"""
Keep the promises of grants whose issuer did not: died, or got no answer.

An intent may have been applied long ago, with its entry still on the way. So first everything that
the outbox holds after the intent was read is persisted; what is open then was never applied, or
just now under the same id, which Redis remembers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from quota_engine import flows
from quota_engine._sync.transport import Transport
from quota_engine.commands import IssueGrant
from quota_engine.errors import (
    EngineUnavailableError,
    IdempotencyConflictError,
    InvalidArgumentError,
    OperationCancelledError,
    QuotaError,
)
from quota_engine.jobs.deployed import Deployed
from quota_engine.keys import QuotaName
from quota_engine.ledger.intents import GrantIntent

log = logging.getLogger("quota_engine.intents")


@dataclass(slots=True)
class Kept:
    """What became of open intents. Those that ``wait`` are tried again."""

    issued: int = 0
    refused: int = 0
    wait: int = 0


def apply_intents(deployment: Deployed, transport: Transport, older_than: timedelta) -> Kept:
    """
    Issue the grants that were promised at least ``older_than`` ago, each exactly once.

    One that can never be issued is withdrawn, and logged as an error; one that cannot be issued
    now waits. Safe beside the issuer itself, and beside another scheduler.
    """
    kept = Kept()
    promised = deployment.ledger.open_intents(older_than)
    persisted = _persisted_shards(deployment, promised)
    still_open = _ids(deployment.ledger.open_intents()) if persisted else set()
    for intent in promised:
        if deployment.ledger.shard_of(intent.quota) not in persisted:
            kept.wait += 1
            continue
        if (intent.quota, intent.grant_id) not in still_open:
            continue
        command = IssueGrant(
            quota=intent.quota,
            grant_id=intent.grant_id,
            terms=intent.terms,
            grants_max=deployment.settings.grants_max,
            details=intent.details,
        )
        try:
            transport.drive(flows.settled(command))
        except EngineUnavailableError:
            raise
        except (InvalidArgumentError, IdempotencyConflictError) as error:
            kept.refused += 1
            log.error(
                "grant %s of %d to %s was promised and cannot be issued: %s",
                *(intent.grant_id, intent.terms.amount, intent.quota, error),
            )
            deployment.withdraw_intent(intent.quota, intent.grant_id)
        except OperationCancelledError:
            log.info("grant %s to %s was cancelled", intent.grant_id, intent.quota)
            deployment.withdraw_intent(intent.quota, intent.grant_id)
        except QuotaError as error:
            kept.wait += 1
            log.info("grant %s to %s waits: %s", intent.grant_id, intent.quota, error)
        else:
            kept.issued += 1
    return kept


def _persisted_shards(deployment: Deployed, intents: Sequence[GrantIntent]) -> set[int]:
    """Persist all that the outboxes of these quotas hold now; return where that went well."""
    persisted: set[int] = set()
    by_shard = {deployment.ledger.shard_of(intent.quota): intent for intent in intents}
    for shard, intent in by_shard.items():
        try:
            deployment.persist_tail(intent.quota)
        except EngineUnavailableError as error:
            log.warning("promised grants of shard %d wait: %s", shard, error)
        else:
            persisted.add(shard)
    return persisted


def _ids(intents: Sequence[GrantIntent]) -> set[tuple[QuotaName, str]]:
    return {(intent.quota, intent.grant_id) for intent in intents}
