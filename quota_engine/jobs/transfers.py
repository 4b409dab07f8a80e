"""Finish the transfers that left one account and have not arrived: see ``transferring``."""

from __future__ import annotations

import logging
from datetime import timedelta

from quota_engine._sync.transport import Transport
from quota_engine.errors import EngineUnavailableError, QuotaError, TransferRefusedError
from quota_engine.jobs.deployed import Deployed
from quota_engine.ledger.transfers import close_transfers, open_transfers
from quota_engine.transferring import finished

log = logging.getLogger("quota_engine.transfers")

PAGE = 1_000


def finish_transfers(
    deployment: Deployed, transport: Transport, older_than: timedelta
) -> tuple[int, int, int]:
    """
    Finish what left at least ``older_than`` ago; return how many arrived, came back, and wait.

    Each arrives once, or comes back. Safe beside its caller, and beside another scheduler.
    """
    with deployment.ledger.transaction() as sql:
        close_transfers(sql)
        found = open_transfers(sql, older_than, PAGE)
    arrived = returned = waiting = 0
    for recorded in found:
        transfer = recorded.transfer
        try:
            is_new = transport.drive(finished(transfer, grants_max=deployment.settings.grants_max))
        except TransferRefusedError as error:
            returned += 1
            log.error("%s", error)
        except EngineUnavailableError as error:
            waiting += 1
            log.warning("transfer %s waits: %s", transfer.transfer_id, error)
        except QuotaError as error:
            waiting += 1
            log.info("transfer %s waits: %s", transfer.transfer_id, error)
        else:
            arrived += is_new
    if found:
        with deployment.ledger.transaction() as sql:
            close_transfers(sql)
    return arrived, returned, waiting
