"""
Compare, quota by quota and under load, what Redis has with what the log says. It mends nothing.

Each quota is seen in Redis in one instant, with the end of its outbox; then the outbox is read up
to there, then the ledger. So whatever is persisted meanwhile is found in one of the two, and what
is written meanwhile is told from its id. That proves version, chain and sums. Grants, holds and
limits stand in the ledger as of its last entry alone: a quota of which entries are on their way
is looked at again, at rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import redis
from sqlalchemy import Connection

from quota_engine.commands.reconcile import SnapshotQuota, Snapshotted, grant_facts, hold_facts
from quota_engine.commands.replies import FencedError
from quota_engine.drift import Drift, Log, Seen, Sums, compare
from quota_engine.errors import EngineUnavailableError, QuotaError
from quota_engine.events import EventId
from quota_engine.jobs import gate_server
from quota_engine.jobs.at_rest import look_at_rest
from quota_engine.jobs.gate import Opened
from quota_engine.jobs.pending import Pending
from quota_engine.jobs.persist import OnFreeze
from quota_engine.jobs.pinned import PinnedConnection
from quota_engine.jobs.running import run_commands
from quota_engine.keys import QuotaName, shard_of
from quota_engine.ledger import Ledger, comparing, epochs
from quota_engine.ledger.comparing import KnownQuota
from quota_engine.outbox import Outbox

#: Quotas that are compared at once.
PAGE = 200
#: Quotas that are seen in one instant, while Redis serves nobody else: some milliseconds.
AT_REST_PAGE = 32
#: Between two looks at rest a shard is left to its drainers: so many times what the look took, and
#: so long at least. Who finds it locked over and over would leave it.
PAUSE_PARTS, PAUSE_SECONDS = 2, 0.05
PAUSE_MAX_SECONDS = 1.0
#: So many looks at rest in a row that could not be had: the rest of the shard is left at its sums.
TRIES = 3

#: Told how many quotas have been compared so far.
Progress = Callable[[int], None]


@dataclass(slots=True)
class Compared:
    """One quota as it was compared."""

    drift: Drift | None
    snapshotted: Snapshotted
    ledger_version: int
    #: Whether grants, holds and limits were compared, too: none of its entries was on its way.
    is_drained: bool

    @property
    def may_be_seen_at_rest(self) -> bool:
        """Whether all of it can be compared once the entries on their way are persisted."""
        return not self.is_drained and (self.drift is None or self.drift.is_explained)

    @property
    def is_blank(self) -> bool:
        """Whether nothing has happened to it anywhere: a call only looked whether it limits."""
        loaded = self.snapshotted.seen.loaded
        return self.ledger_version == 0 and loaded is not None and loaded.version == 0


@dataclass(slots=True)
class Reconciler:
    """One run over one deployment. ``client`` must not decode replies."""

    client: redis.Redis
    ledger: Ledger
    opened: Opened
    progress: Progress | None = None
    #: Told of quotas that had something quarantined by a look at rest.
    on_freeze: OnFreeze | None = None
    checked: int = 0
    #: Quotas that were never seen at rest: of them version, chain and sums alone are proved.
    not_compared: int = 0
    _pending: dict[int, Pending] = field(default_factory=dict)
    #: How many looks at rest in a row could not be had, by shard.
    _failures: dict[int, int] = field(default_factory=dict)
    #: Until when shards are left to their drainers, by the monotonic clock.
    _left_until: dict[int, float] = field(default_factory=dict)

    def find_drifts(self) -> Iterator[Drift]:
        """Compare every quota that Redis or the ledger knows; yield those that differ."""
        for shard in range(self.opened.shards):
            known = (head.quota for head in self.ledger.known_quotas(shard=shard))
            for page in comparing.pages(known, PAGE):
                yield from self._drifts_of(shard, page)
        with PinnedConnection(self.client) as connection:
            for shard, page in self._unknown_to_ledger(connection):
                yield from self._drifts_of(shard, page)

    def compare(self, shard: int, quotas: Sequence[QuotaName]) -> dict[QuotaName, Compared]:
        """Compare quotas of one shard: see them in Redis, then read outbox and ledger."""
        snapshots = self._snapshots(quotas)
        pending = self._pending_of(shard)
        pending.read_until(_end_of(snapshots))
        with self.ledger.transaction() as sql:
            return self._compared(sql, shard, snapshots)

    def compare_at_rest(
        self, shard: int, quotas: Sequence[QuotaName]
    ) -> dict[QuotaName, Compared]:
        """Compare quotas of one shard while nothing of them is on its way; missing: it was."""
        compared: dict[QuotaName, Compared] = {}
        for start in range(0, len(quotas), AT_REST_PAGE):
            page = quotas[start : start + AT_REST_PAGE]
            while self._failures.get(shard, 0) < TRIES:
                found = self._look_at_rest(shard, page)
                if found is not None:
                    compared |= found
                    break
        return compared

    def compare_closely(
        self, shard: int, quotas: Sequence[QuotaName]
    ) -> dict[QuotaName, Compared]:
        """Compare quotas of one shard; those with entries on their way once more, at rest."""
        compared = self.compare(shard, quotas)
        busy = [quota for quota, one in compared.items() if not one.is_drained]
        return compared | self.compare_at_rest(shard, busy)

    def _look_at_rest(
        self, shard: int, quotas: Sequence[QuotaName]
    ) -> dict[QuotaName, Compared] | None:
        def see() -> tuple[EventId, dict[QuotaName, Snapshotted]]:
            snapshots = self._snapshots(quotas, at_once=True)
            return _end_of(snapshots), snapshots

        self._pending_of(shard)
        started = max(time.monotonic(), self._left_until.get(shard, 0.0))
        time.sleep(max(started - time.monotonic(), 0.0))
        found = look_at_rest(
            self.client,
            self.ledger,
            shard,
            see=see,
            tell=lambda sql, seen: self._compared(sql, shard, seen),
            on_freeze=self.on_freeze,
        )
        ended = time.monotonic()
        pause = max(PAUSE_PARTS * (ended - started), PAUSE_SECONDS)
        self._left_until[shard] = ended + min(pause, PAUSE_MAX_SECONDS)
        self._failures[shard] = 0 if found is not None else self._failures.get(shard, 0) + 1
        return found

    def _compared(
        self, sql: Connection, shard: int, snapshots: dict[QuotaName, Snapshotted]
    ) -> dict[QuotaName, Compared]:
        """Compare quotas as they were seen with the ledger as it is now."""
        pending = self._pending[shard]
        page = comparing.read_page(sql, shard, list(snapshots))
        pending.forget(page.cursor)
        compared = {}
        for quota, snapshotted in snapshots.items():
            known = page.quotas.get(quota)
            told = self._log_of(sql, quota, known, snapshotted.seen, pending)
            drift = compare(quota.account, quota.quota_type, snapshotted.seen, told)
            version = known.head.version if known else 0
            compared[quota] = Compared(drift, snapshotted, version, told.is_drained)
        return compared

    def _drifts_of(self, shard: int, quotas: Sequence[QuotaName]) -> Iterator[Drift]:
        compared = self.compare(shard, quotas)
        busy = [quota for quota, one in compared.items() if one.may_be_seen_at_rest]
        at_rest = self.compare_at_rest(shard, busy)
        for quota in busy:
            seen = at_rest.get(quota)
            self.not_compared += seen is None or not seen.is_drained
            if seen is not None and (seen.drift is not None or compared[quota].drift is None):
                compared[quota] = seen
        self.checked += sum(not one.is_blank for one in compared.values())
        if self.progress is not None:
            self.progress(self.checked)
        for one in compared.values():
            if one.drift is not None:
                yield one.drift

    def _snapshots(
        self, quotas: Sequence[QuotaName], *, at_once: bool = False
    ) -> dict[QuotaName, Snapshotted]:
        commands = [SnapshotQuota(quota=quota) for quota in quotas]
        found = {}
        results = run_commands(self.client, self.opened, commands, at_once=at_once)
        for quota, result in zip(quotas, results, strict=True):
            if isinstance(result, FencedError):
                raise EngineUnavailableError(
                    "the server was recovered meanwhile; reconcile again"
                ) from result
            if isinstance(result, QuotaError):
                raise result
            found[quota] = result
        return found

    def _pending_of(self, shard: int) -> Pending:
        if shard not in self._pending:
            cursors = {row.shard: row.cursor for row in self.ledger.read_shards()}
            self._pending |= {
                number: Pending(Outbox(self.client, number), cursor)
                for number, cursor in cursors.items()
                if number not in self._pending
            }
        return self._pending[shard]

    @staticmethod
    def _log_of(
        sql: Connection,
        quota: QuotaName,
        known: KnownQuota | None,
        seen: Seen,
        pending: Pending,
    ) -> Log:
        """Return what the log says of a quota as of the instant it was seen in."""
        head = known.sums if known is not None else Sums()
        if known is None or known.event_id <= seen.last_id:
            going_on = pending.continued(quota, head, seen.last_id)
            last, unfit, is_drained = going_on.last, going_on.unfit, not going_on.count
        else:
            last, unfit, is_drained = _earlier(sql, quota, seen) or head, "", False
        if known is None:
            return Log(last=last, unfit=unfit, is_drained=is_drained)
        return Log(
            last=last,
            unfit=unfit,
            frozen=known.head.frozen,
            is_drained=is_drained,
            overdraft_limit=known.head.overdraft_limit,
            limits=known.limits,
            grants={grant.grant_id: grant_facts(grant) for grant in known.grants},
            holds={hold.hold_id: hold_facts(hold) for hold in known.holds},
        )

    def _unknown_to_ledger(
        self, connection: PinnedConnection
    ) -> Iterator[tuple[int, list[QuotaName]]]:
        """Yield what Redis has and the ledger had not when it was paged through."""
        met: set[QuotaName] = set()
        for names in gate_server.known_names(connection, self.opened.shards):
            quotas = {QuotaName.parse(name) for name in names} - met
            with self.ledger.transaction() as sql:
                quotas -= epochs.heads_of(sql, quotas).keys()
            met |= quotas
            by_shard: dict[int, list[QuotaName]] = {}
            for quota in sorted(quotas, key=str):
                by_shard.setdefault(shard_of(quota.account, self.opened.shards), []).append(quota)
            yield from by_shard.items()


def _end_of(snapshots: dict[QuotaName, Snapshotted]) -> EventId:
    return max(snapshot.seen.last_id for snapshot in snapshots.values())


def _earlier(sql: Connection, quota: QuotaName, seen: Seen) -> Sums | None:
    """Return the log as of the instant a quota was seen in; None where nothing was shown."""
    shown = [] if seen.issued is None else [seen.issued]
    shown += [] if seen.loaded is None else [seen.loaded.version]
    if not shown:
        return None
    least = min(shown)
    found = comparing.sums_as_of(sql, quota, seen.last_id, least)
    return found or Sums(version=max(least - 1, 0))
