"""What an operator does with the quarantine, beside thawing: freeze, look, discard."""

from __future__ import annotations

from dataclasses import dataclass

from quota_engine.errors import InvalidArgumentError
from quota_engine.events import Entry, next_chain
from quota_engine.jobs.arrived import refuse_doubled
from quota_engine.jobs.driving import Driver
from quota_engine.jobs.thaw import LOCK_WAIT_MS
from quota_engine.jobs.thaw_rules import OPERATOR, Fate, entry_of
from quota_engine.keys import QuotaName
from quota_engine.ledger import Ledger, comparing, epochs, quarantine
from quota_engine.ledger.history import QuotaHead
from quota_engine.ledger.quarantine import Quarantined
from quota_engine.ledger.shards import lock_shard


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a quarantined entry beside what the ledger's head would have next."""

    line: str
    entry: str
    #: Empty where any value may follow.
    expected: str = ""

    @property
    def fits(self) -> bool:
        """Whether the entry says what was expected."""
        return not self.expected or self.entry == self.expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One quarantined entry, read as far as it can be. ``lines`` is empty where it is none."""

    quarantined: Quarantined
    lines: tuple[Line, ...]


def look_at(ledger: Ledger, id_: int) -> Look:
    """Return one quarantined entry beside what the ledger expects now."""
    with ledger.transaction() as sql:
        found = quarantine.find_entry(sql, id_)
        if found is None:
            raise InvalidArgumentError(f"nothing in quarantine has the id {id_}")
        heads = {} if found.quota is None else epochs.heads_of(sql, [found.quota])
    entry = entry_of(found)
    head = None if found.quota is None else heads.get(found.quota)
    return Look(quarantined=found, lines=() if entry is None else _lines(found, entry, head))


def _lines(found: Quarantined, entry: Entry, head: QuotaHead | None) -> tuple[Line, ...]:
    expected: dict[str, object] = {}
    if head is not None:
        expected = {
            "version": head.version + 1,
            "balance": head.balance + entry.delta,
            "held": head.held + entry.held_delta,
            "chain": next_chain(head.chain, entry.text()),
        }
    told: dict[str, object] = {
        name: getattr(entry, name)
        for name in (
            *("kind", "quota", "version", "at_ms", "operation_id", "fingerprint", "amount"),
            *("delta", "held_delta", "balance", "held", "debt", "shortfall", "subject", "flags"),
            *("terms", "details"),
        )
    }
    told["movements"] = entry.text().split("\n")[17]
    told["chain"] = found.raw_chain.decode(errors="replace")
    return tuple(Line(name, str(said), str(expected.get(name, ""))) for name, said in told.items())


def discard(ledger: Ledger, id_: int, *, actor: str, reason: str) -> Quarantined:
    """
    Decide that one quarantined entry never counted. Its bytes are kept.

    One that was resolved before stays as it is. Raises ``ArrivedError`` for the leaving of units
    that have arrived elsewhere.
    """
    with ledger.transaction() as sql:
        before = quarantine.find_entry(sql, id_)
        if before is None:
            raise InvalidArgumentError(f"nothing in quarantine has the id {id_}")
        if before.resolved_at is None:
            refuse_doubled(sql, [before])
        quarantine.resolve(sql, id_, f"{Fate.DISCARDED}: {reason}", actor)
        found = quarantine.find_entry(sql, id_)
    assert found is not None
    return found


def freeze(driver: Driver, quota: QuotaName, *, actor: str, reason: str) -> str:
    """
    Freeze a sound quota on an operator's word; return why it is frozen now.

    In Redis first, so that no hold is placed that would have to be quarantined. One that is
    frozen keeps its first reason.
    """
    told = f"{OPERATOR}: {reason} ({actor})"
    driver.drain(quota)
    with driver.ledger.transaction() as sql:
        if quota not in epochs.heads_of(sql, [quota]):
            raise InvalidArgumentError(f"the ledger knows no quota {quota}")
    driver.freeze(quota, told)
    driver.drain(quota)
    with driver.ledger.transaction() as sql:
        shard = driver.ledger.shard_of(quota)
        lock_shard(sql, shard, LOCK_WAIT_MS)
        comparing.freeze(sql, quota, shard, told)
        frozen = epochs.heads_of(sql, [quota])[quota].frozen
    driver.freeze(quota, frozen)
    return frozen
