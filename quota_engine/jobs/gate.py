"""
The recovery gate: the one door through which a server becomes the home of the balances.

Only the gate loads scripts, and a server that was restarted, promoted or wiped has none; so every
call on such a server fails until the gate has looked. What it looks for is in ``gate_rules``.
Why the steps of a recovery are these is told in docs/decisions/0030-recovery-gate.md:

1. lock the shards' rows, so that nobody persists, trims or recovers meanwhile
2. check the server, and have it rewrite its append-only file
3. begin the next epochs: their markers go into the outboxes, ``@epoch`` goes away
4. append what the outboxes hold and the ledger lacks
5. drop every quota that differs from the ledger; it hydrates when it is needed
6. empty ``versions``, fill in account policies, set ``@epoch``, commit, load the scripts

Each step may be the last before a crash; whoever comes next begins again with higher epochs. All
of it happens on one connection: when that is lost, the recovery is over.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import redis
from sqlalchemy import Connection

from quota_engine.errors import EngineUnavailableError
from quota_engine.events import Event, EventId, UnknownFormatError
from quota_engine.ids import new_id
from quota_engine.instants import from_ms
from quota_engine.jobs import gate_server
from quota_engine.jobs.gate_progress import Progress
from quota_engine.jobs.gate_rules import (
    ServerState,
    accepted_gap,
    check_admissible,
    check_ours,
    check_unclaimed,
    deployment_text,
    may_stay,
    next_epochs,
    what_is_missing,
    why_to_recover,
)
from quota_engine.jobs.pinned import PinnedConnection, undecoded
from quota_engine.jobs.recognition import unknown_events
from quota_engine.jobs.retained import Gap, scan
from quota_engine.jobs.server_check import findings_in, read_info
from quota_engine.keys import QuotaName
from quota_engine.ledger import Ledger, epochs
from quota_engine.ledger.appending import append
from quota_engine.ledger.epochs import Recorded
from quota_engine.ledger.incoming import judge
from quota_engine.ledger.policies import fields_by_shard
from quota_engine.outbox import Outbox
from quota_engine.settings import Settings

log = logging.getLogger("quota_engine.gate")

#: Shards that a deployment can have, looked for on a server that no ledger row describes yet.
SHARDS_MAX = 100
#: Messages that are absorbed at once.
PAGE = 2_000
LOCK_WAIT_S = 30.0
REWRITE_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A deployment that may be used: whose it is, each shard's epoch, and on which server."""

    deployment_id: str
    shards: int
    epochs: Mapping[int, int]
    incarnation: str


@dataclass(frozen=True, slots=True)
class Policy:
    """What the caller of ``ensure_open`` allows the gate."""

    adopt: bool
    allow_wiped: bool
    is_durable_elsewhere: bool
    lock_wait_seconds: float
    #: Whoever accepts that entries are lost for good; empty: nobody does.
    accepted_by: str = ""


def ensure_open(
    client: redis.Redis,
    ledger: Ledger,
    settings: Settings,
    *,
    adopt: bool = False,
    allow_wiped: bool = False,
    is_durable_elsewhere: bool = False,
    lock_wait_seconds: float = LOCK_WAIT_S,
    accept_gaps: str = "",
    on_recovered: Callable[[Opened], None] | None = None,
) -> Opened:
    """
    Return the deployment, opened: recovered first if its server needs it, begun if there is none.

    ``adopt``: the operator means this server, whatever it was before. ``allow_wiped``: an empty
    server can only be ours (embedded servers). ``is_durable_elsewhere``: the server keeps its data
    without an append-only file. ``accept_gaps``: who accepts, and why, that a stopped shard's
    missing entries are lost: it is recovered although its server is as it was. ``on_recovered`` is
    called after a recovery of this process's own, not after a first start.

    Cheap when nothing is to do: one statement and one round trip. Of many callers at once one
    works and the others wait. Raises ``EngineUnavailableError``, which says what to do.
    """
    policy = Policy(adopt, allow_wiped, is_durable_elsewhere, lock_wait_seconds, accept_gaps)
    with PinnedConnection(client) as connection:
        recorded = _read_recorded(ledger) or _begin_deployment(ledger, connection, settings)
        server = gate_server.read_server(connection, recorded.deployment.shards)
        check_ours(recorded, server)
        if why_to_recover(recorded, server) or accepted_gap(policy.accepted_by, recorded):
            with undecoded(client) as reader, ledger.transaction() as sql:
                recovery = Recovery(connection, reader, sql, policy)
                opened = recovery.run()
            gate_server.load_missing_scripts(connection, opened.incarnation)
            if recovery.epochs:
                recovery.progress.end(gaps=[*map(str, recovery.gaps)], losses=recovery.losses)
                if on_recovered is not None and recorded.was_opened:
                    on_recovered(opened)
            return opened
        if server.missing_scripts:
            log.info("loading %d scripts: a new release, or a flush", len(server.missing_scripts))
            gate_server.load_missing_scripts(connection, server.incarnation)
        return _opened(recorded)


def _read_recorded(ledger: Ledger) -> Recorded | None:
    with ledger.transaction() as sql:
        return epochs.read_recorded(sql)


def _begin_deployment(
    ledger: Ledger, connection: PinnedConnection, settings: Settings
) -> Recorded:
    """
    Record a new deployment, unless somebody just has. The recovery then opens its first epochs.

    The ledger comes first, so a crash in between leaves nothing on the server that looks foreign.
    """
    server = gate_server.read_server(connection, SHARDS_MAX)
    recorded = _read_recorded(ledger)
    if recorded is None:
        check_unclaimed(server)
        begun = ledger.create_deployment(new_id("deployment"), settings.shards)
        log.info("first start: deployment %s, %d shards", begun.deployment_id, begun.shards)
        recorded = _read_recorded(ledger)
    assert recorded is not None
    return recorded


def _opened(recorded: Recorded) -> Opened:
    return Opened(
        deployment_id=recorded.deployment.deployment_id,
        shards=recorded.deployment.shards,
        epochs={row.shard: row.epoch for row in recorded.shards},
        incarnation=recorded.shards[0].incarnation,
    )


class Recovery:
    """
    One run of the gate, in one transaction of the ledger and on one connection to the server.

    Its methods are the steps, in the order of ``run``. ``reader`` reads the outboxes; each of its
    pages says which incarnation it is of, so it needs no connection of its own kind.
    """

    def __init__(
        self,
        connection: PinnedConnection,
        reader: redis.Redis,
        sql: Connection,
        policy: Policy,
    ) -> None:
        self.connection = connection
        self.reader = reader
        self.sql = sql
        self.policy = policy
        self.recorded: Recorded
        self.server: ServerState
        self.epochs: Mapping[int, int] = {}
        self.progress = Progress(connection)
        self.gaps: list[Gap] = []
        #: Quotas that are frozen because entries of theirs are lost.
        self.lost: list[str] = []
        #: Shards that came back older than the ledger, and since when nothing is known.
        self.losses: list[str] = []
        self.newest_ms: list[int] = []
        self.counts = Counter[str]()
        self.reason = ""

    def run(self) -> Opened:
        """Recover the server, unless it was done while this run waited for the locks."""
        reason = self.reason = self.lock()
        if not reason:
            return _opened(self.recorded)
        self.check()
        self.epochs = next_epochs(self.recorded, self.server)
        level = logging.WARNING if self.recorded.was_opened else logging.INFO
        log.log(level, "opening epochs %s: %s", sorted(set(self.epochs.values())), reason)
        entries = gate_server.outbox_lengths(self.connection, self.recorded.deployment.shards)
        self.progress.begin(reason, entries)
        self.look_for_losses()
        self.rewrite_aof()
        self.place_markers(reason)
        self.progress.step("reading the outboxes")
        for row in self.recorded.shards:
            self.absorb(row.shard, row.cursor)
        self.freeze_lost()
        self.progress.step("comparing what is loaded with the ledger")
        self.drop_differing()
        self.open_epochs()
        self.record()
        return replace(
            _opened(self.recorded), epochs=self.epochs, incarnation=self.server.incarnation
        )

    def lock(self) -> str:
        """Lock the shards and look again: why the server must be recovered, or nothing."""
        self.recorded = epochs.lock_recorded(self.sql, round(self.policy.lock_wait_seconds * 1000))
        self.server = gate_server.read_server(self.connection, self.recorded.deployment.shards)
        reason = why_to_recover(self.recorded, self.server)
        return reason or accepted_gap(self.policy.accepted_by, self.recorded)

    def check(self) -> None:
        """Refuse a server that is not meant, or that may lose what it is given."""
        check_admissible(
            self.recorded,
            self.server,
            is_superseded=epochs.is_superseded(self.sql, self.server.incarnation),
            adopt=self.policy.adopt,
            allow_wiped=self.policy.allow_wiped,
        )
        found = findings_in(
            read_info(self.connection), is_durable_elsewhere=self.policy.is_durable_elsewhere
        )
        for finding in found:
            log.warning("%s; %s", finding.message, finding.fix)
        fatal = [f"{finding.message}; {finding.fix}" for finding in found if finding.is_fatal]
        if fatal:
            raise EngineUnavailableError("this Redis cannot be used: " + ". ".join(fatal))

    def look_for_losses(self) -> None:
        """Note from where on entries are missing, and when the newest one was made."""
        self.losses = what_is_missing(self.recorded, self.server)
        for words in self.losses:
            log.error("%s", words)
        shards = self.recorded.shards
        self.newest_ms = gate_server.newest_entries(self.connection, len(shards))
        self.newest_ms += [row.entry_at_ms for row in shards if row.entry_at_ms is not None]

    def rewrite_aof(self) -> None:
        """Rid the append-only file of half a transaction, where there may be one of ours."""
        is_new = not self.recorded.was_opened and self.server.is_empty
        if not is_new and not self.policy.is_durable_elsewhere:
            self.progress.step("rewriting the append-only file")
            gate_server.rewrite_aof(self.connection, REWRITE_WAIT_S, self.progress.waiting)

    def place_markers(self, reason: str) -> None:
        """Begin the new epochs in the outboxes; nobody can write until they are opened."""
        gate_server.place_markers(
            self.connection,
            self.epochs,
            deployment=deployment_text(self.recorded),
            incarnation=self.server.incarnation,
            reason=reason,
            tops=self._tops(),
        )

    def _tops(self) -> dict[int, EventId | None]:
        """Return each outbox's last id, as it was before this recovery's marker."""
        return {shard: found.top for shard, found in enumerate(self.server.shards)}

    def absorb(self, shard: int, cursor: EventId) -> None:
        """
        Append to the ledger what a whole outbox holds and it lacks.

        All of it is read once; from the first message that may be unknown on, page by page.
        """
        outbox = Outbox(self.reader, shard)
        until = EventId(self.epochs[shard], 0)
        retained = scan(
            self.connection,
            self.sql,
            shard,
            cursor=cursor,
            top=self._tops()[shard],
            until=until,
            advance=self.progress.advance,
        )
        for gap in retained.gaps:
            log.error("%s that the ledger does not have", gap)
        self.gaps += retained.gaps
        after = retained.known_until
        while after < until:
            page = outbox.read(after, PAGE)
            if page.incarnation != self.server.incarnation:
                raise gate_server.server_changed()
            if not page.events:
                raise EngineUnavailableError(f"the outbox of shard {shard} was lost; try again")
            after = page.events[-1].event_id
            found = [event for event in page.events if event.event_id < until]
            self._absorb_page(shard, cursor, [event for event in found if not event.is_marker])

    def _absorb_page(self, shard: int, cursor: EventId, events: list[Event]) -> None:
        """
        Append, or quarantine, what neither the ledger nor the quarantine has.

        What extends its quota's log is appended even from below the cursor: a history that went on
        where the ledger stopped loses nothing.
        """
        unknown = unknown_events(self.sql, shard, cursor, events)
        if not unknown:
            return
        try:
            judged = [judge(event, shard, len(self.epochs)) for event in unknown]
        except UnknownFormatError as error:
            raise EngineUnavailableError(
                f"shard {shard} holds entries of a newer release, which must recover it: {error}"
            ) from error
        appended = append(self.sql, shard, judged)
        self.counts.update(appended=appended.recorded, quarantined=appended.quarantined)
        log.info("shard %d: %s", shard, appended)
        for quota, reason in appended.frozen.items():
            log.error("shard %d: %s is frozen: %s", shard, quota, reason)

    def freeze_lost(self) -> None:
        """
        Freeze every quota whose last entries are in neither store, where entries are missing.

        Redis issued versions that the ledger does not have and the outbox does not bring: what
        was spent since cannot be known any more, so a person decides.
        """
        for shard in sorted({gap.shard for gap in self.gaps}):
            words = "; ".join(str(gap) for gap in self.gaps if gap.shard == shard)
            for page in gate_server.issued_versions(self.connection, shard):
                frozen = epochs.freeze_behind(self.sql, shard, page, words)
                self.lost += [str(quota) for quota in frozen]
                for quota in frozen:
                    log.error("%s is frozen: %s", quota, words)

    def drop_differing(self) -> None:
        """
        Drop each loaded quota that is not as the ledger has it; one that is keeps everything.

        A frozen quota that is not behind the ledger stays too: it goes on taking captures on top
        of what the quarantine has, until it is mended.
        """
        kept = dropped = 0
        for page in gate_server.loaded_quotas(self.connection):
            heads = epochs.heads_of(self.sql, [QuotaName.parse(name) for _, name in page])
            found = gate_server.read_heads(self.connection, page)
            differing, frozen = [], {}
            for place, (version, chain) in zip(page, found, strict=True):
                head = heads.get(QuotaName.parse(place[1]))
                if not may_stay(head, place[0], version, chain):
                    differing.append(place)
                elif head is not None and head.frozen:
                    frozen[place] = head.frozen
            gate_server.drop_quotas(self.connection, differing)
            gate_server.mark_frozen(self.connection, frozen)
            dropped += len(differing)
            kept += len(page) - len(differing)
        self.counts["dropped"] = dropped
        log.info("%d quotas stay loaded, %d were dropped", kept, dropped)

    def open_epochs(self) -> None:
        """Let writers of the new epochs in, with what is said of accounts, if none is newer."""
        policies = fields_by_shard(self.sql, len(self.epochs))
        gate_server.open_epochs(self.connection, self.epochs, policies)

    def record(self) -> None:
        """Record the epochs and the incarnation; the one before is superseded."""
        epochs.record_opening(self.sql, self.epochs, self.server.incarnation)
        if self.recorded.was_opened:
            told = epochs.RecoveryTold(
                epoch=max(self.epochs.values()),
                reason=self.reason,
                incarnation=self.server.incarnation,
                accepted_by=self.policy.accepted_by or None,
                entries=self.progress.entries_read,
                gaps=[str(gap) for gap in self.gaps],
                lost=self.lost,
                losses=self.losses,
                appended=self.counts["appended"],
                quarantined=self.counts["quarantined"],
                dropped=self.counts["dropped"],
                last_entry_at=from_ms(max(self.newest_ms)) if self.newest_ms else None,
            )
            epochs.record_recovery(self.sql, told)
