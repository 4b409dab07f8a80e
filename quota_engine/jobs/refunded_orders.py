"""Finish the refunds of orders that somebody has begun: see ``GivingBack``."""

from __future__ import annotations

import logging
from datetime import timedelta

from quota_engine._sync.giving_back import GivingBack
from quota_engine._sync.transport import Transport
from quota_engine.errors import EngineUnavailableError, QuotaError
from quota_engine.jobs.deployed import Deployed

log = logging.getLogger("quota_engine.refunded_orders")

PAGE = 1_000


def finish_refunded_orders(
    deployment: Deployed, transport: Transport, older_than: timedelta
) -> tuple[int, int]:
    """
    Finish what was begun at least ``older_than`` ago; return how many are done, and wait.

    Safe beside its caller, and beside another scheduler.
    """
    store = deployment.sale_store
    giving_back = GivingBack(transport, store, deployment.settings)
    done, waiting, after = 0, 0, ""
    while page := store.being_refunded(older_than, after, PAGE):
        for order_id in page:
            try:
                done += not giving_back.give_back(order_id).replayed
            except EngineUnavailableError:
                raise
            except QuotaError as error:
                waiting += 1
                log.info("the refund of order %s waits: %s", order_id, error)
        after = page[-1]
    return done, waiting
