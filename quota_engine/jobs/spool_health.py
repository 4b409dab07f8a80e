"""What a look at this machine's spool finds. It only looks, and needs no server."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from quota_engine.errors import QuotaError
from quota_engine.jobs.health import Health
from quota_engine.spool import Spool, SpoolStatus

#: Engines replay within seconds of Redis' return, workers within one more look.
WAIT_SECONDS_MAX = 60.0


def examine_spool(health: Health, folder: Path) -> None:
    """Add what is to be said of the deployment's spool in ``folder``."""
    if health.deployment_id is None:
        return
    spool = Spool(folder, health.deployment_id)
    if complaint := spool.complaint():
        message = f"while Redis is away, charges could not be spooled: {complaint}"
        fix = "set QUOTA_ENGINE_SPOOL_FOLDER to a folder on a local disk"
        health.note("spool_unusable", message, fix, is_fatal=False)
    now = datetime.now(UTC)
    try:
        found = spool.status(round(now.timestamp() * 1000))
    except QuotaError as error:
        health.note("spool", str(error), "free it; until then charges are lost if Redis goes away")
        return
    finally:
        spool.close()
    _examine(health, found, now)


def _examine(health: Health, found: SpoolStatus, now: datetime) -> None:
    waited = 0.0 if found.oldest_at is None else (now - found.oldest_at).total_seconds()
    since = f", the oldest for {waited:.0f} s" if found.waiting else ""
    health.facts["spool"] = f"{found.waiting} operations wait on this machine{since}"
    if waited > WAIT_SECONDS_MAX:
        said = f"; the last try: {found.last_error}" if found.last_error else ""
        message = f"{found.waiting} operations wait in {found.path}{since}{said}"
        health.note("spool_waits", message, "run `quota-engine spool replay` when Redis is there")
    if found.refused:
        message = f"{found.refused} spooled operations were refused and are not charged"
        fix = "see `quota-engine spool list`; then `spool replay --refused` or `spool drop`"
        health.note("spool_refused", message, fix)
    for path in found.broken:
        message = f"a spool was found broken; what could be read was taken over: {path}"
        health.note("spool_broken", message, "look at it, then delete it", is_fatal=False)
