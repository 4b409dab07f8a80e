"""
What an account has now, put together for a person: Redis decides, the ledger adds the words.

Read by ``accounts``, ``grants`` and ``holds``. Nothing here prints, and nothing here changes
anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from quota_engine.arguments import checked_quota
from quota_engine.commands import Balance
from quota_engine.commands.reconcile import SnapshotQuota
from quota_engine.engine import QuotaEngine
from quota_engine.errors import InvalidArgumentError, QuotaError
from quota_engine.events import HOLD_PLACED
from quota_engine.instants import from_ms
from quota_engine.jobs.running import run_commands
from quota_engine.keys import QuotaName
from quota_engine.ledger import listing
from quota_engine.ledger.listing import ListedHold
from quota_engine.listed import ListedGrant
from quota_engine.outbox import Outbox, quota_line

PAGE = 200
#: How a hold is called among a quota's changes: see lua/lib/due.lua.
_HOLD_CHANGE = "a:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One quota of an account, as it is now."""

    balance: Balance
    grants: tuple[ListedGrant, ...]
    holds: tuple[ListedHold, ...]


def quotas_of(engine: QuotaEngine, account: str, quota_type: str | None) -> list[QuotaName]:
    """Return the quotas to look at: the one that is named, else all that an account may have."""
    settings = engine.deployment.settings
    if quota_type is not None:
        return [checked_quota(account, quota_type, settings)]
    checked_quota(account, "text_token", settings)
    with engine.deployment.ledger.transaction() as sql:
        recorded = listing.quota_types_of(sql, account)
    return [
        QuotaName(account, name)
        for name in sorted({*recorded, *settings.known_quota_types})
        if _is_known(engine, account, name)
    ]


def _is_known(engine: QuotaEngine, account: str, quota_type: str) -> bool:
    try:
        checked_quota(account, quota_type, engine.deployment.settings)
    except InvalidArgumentError:  # a type that other settings added
        return False
    return True


def standings(engine: QuotaEngine, account: str, quota_type: str | None) -> list[Standing]:
    """Return what an account has of one quota type, or of each that it ever had."""
    found = []
    for quota in quotas_of(engine, account, quota_type):
        balance = engine.read_balance(quota.account, quota.quota_type)
        if balance.version == 0 and quota_type is None:
            continue
        holds = holds_of(engine, [quota]) if balance.held else []
        grants = engine.grants(account, quota.quota_type)
        found.append(Standing(balance=balance, grants=tuple(grants), holds=tuple(holds)))
    return found


def holds_of(engine: QuotaEngine, quotas: Sequence[QuotaName]) -> list[ListedHold]:
    """
    Return the open holds of quotas as Redis has them, or the ledger where they are unloaded.

    A hold whose time is over is not open any more, also where its end is still to be written.
    """
    deployment = engine.deployment
    found: list[ListedHold] = []
    for start in range(0, len(quotas), PAGE):
        page = quotas[start : start + PAGE]
        commands = [SnapshotQuota(quota=quota) for quota in page]
        results = run_commands(deployment.client, deployment.opened, commands)
        for quota, result in zip(page, results, strict=True):
            if isinstance(result, QuotaError):
                raise result
            loaded = result.seen.loaded
            if loaded is None:
                with deployment.ledger.transaction() as sql:
                    found += listing.open_holds(sql, quota.account, quota.quota_type)
                continue
            for hold_id, facts in loaded.holds.items():
                expires_at = from_ms(loaded.changes.get(_HOLD_CHANGE + hold_id, 0))
                found.append(
                    ListedHold(
                        account=quota.account,
                        quota_type=quota.quota_type,
                        hold_id=hold_id,
                        amount=facts.amount,
                        expires_at=expires_at,
                    )
                )
    now = datetime.now(UTC)
    still_open = [hold for hold in found if hold.expires_at > now]
    return sorted(still_open, key=lambda hold: (hold.expires_at, hold.account, hold.hold_id))


def quotas_with_holds(engine: QuotaEngine) -> list[QuotaName]:
    """Return every quota that may have an open hold: by the ledger, or by what is pending."""
    deployment = engine.deployment
    placed = f"\n{HOLD_PLACED}\n".encode()
    names: set[QuotaName] = set()
    for row in deployment.ledger.read_shards():
        for event in Outbox(deployment.client, row.shard).walk(row.cursor):
            name = quota_line(event.entry)
            if name is not None and placed in event.entry[:40]:
                names.add(QuotaName.parse(name.decode()))
    with deployment.ledger.transaction() as sql:
        recorded: Iterable[ListedHold] = listing.open_holds(sql)
    names |= {QuotaName(hold.account, hold.quota_type) for hold in recorded}
    return sorted(names, key=str)
