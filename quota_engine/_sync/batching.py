# Written by tools/unasync.py from quota_engine/_async/batching.py. Edit that file instead.
"""The calls that issue grants by the table."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from quota_engine import flows
from quota_engine._sync.calling import Calling
from quota_engine._sync.transport import Transport
from quota_engine.arguments import checked_text, checked_type
from quota_engine.backing import Backing
from quota_engine.batches import (
    Batch,
    BatchLine,
    BatchReport,
    PlannedGrant,
    checked_batch_id,
    read_grants,
)
from quota_engine.commands import IssueGrant
from quota_engine.commands.arguments import details_text
from quota_engine.errors import (
    BackpressureError,
    BatchRefusedError,
    EngineUnavailableError,
    QuotaError,
)
from quota_engine.instants import to_ms
from quota_engine.opening_balances import REFUSE, OpeningTable, read_opening
from quota_engine.settings import Settings
from quota_engine.waiting import in_place

#: Told how many grants are done, and of how many.
Progress = Callable[[int, int], None]


class Batching(Calling):
    """Batches of grants, and opening balances."""

    def __init__(self, transport: Transport, backing: Backing, settings: Settings) -> None:
        super().__init__(transport, backing, settings)
        self._batches = backing.batch_store

    def batch_grants(
        self,
        table: bytes,
        batch_id: str,
        *,
        dry_run: bool = False,
        actor: str | None = None,
        progress: Progress | None = None,
    ) -> BatchReport:
        """
        Issue the grants of a CSV table, one for each line, each once.

        Columns: account, quota_type, amount; and may be priority, starts_at, expires_at,
        reference, description. All of the table is checked first: ``BatchRefusedError`` tells
        every problem with its line. Idempotent by ``batch_id``: the same table again does what is
        not done; another raises ``IdempotencyConflictError``. A line that is refused does not stop
        the others; when a store is away or too much waits, the rest ``waits``: call again.
        """
        checked_text(actor, name="actor")
        known = checked_batch_id(batch_id)
        batch = read_grants(table, known, lambda name: checked_type(name, self._settings))
        return self._run(batch, dry_run=dry_run, actor=actor, progress=progress)

    def import_opening(
        self,
        table: bytes,
        import_id: str,
        period_ends_at: datetime,
        *,
        overused: str = REFUSE,
        dry_run: bool = False,
        actor: str | None = None,
        progress: Progress | None = None,
    ) -> tuple[BatchReport, OpeningTable]:
        """
        Take over what accounts have left from a module that keeps totals and used.

        Columns: account, quota_type, monthly_total, monthly_used, permanent_total,
        permanent_used. The monthly rest ends at ``period_ends_at``, the permanent one does not.
        More used than the total: refused by name, or with ``overused="forgive"`` nothing is left
        of it. Checked first, and idempotent by ``import_id``, like ``batch_grants``. Returns the
        sums by quota type, too.
        """
        checked_text(actor, name="actor")
        to_ms(period_ends_at, name="period_ends_at")
        opening = read_opening(
            table,
            checked_batch_id(import_id),
            period_ends_at,
            lambda name: checked_type(name, self._settings),
            overused=overused,
        )
        report = self._run(opening.batch, dry_run=dry_run, actor=actor, progress=progress)
        return report, opening

    def _run(
        self, batch: Batch, *, dry_run: bool, actor: str | None, progress: Progress | None
    ) -> BatchReport:
        self._transport.connect()
        is_known = in_place(self._batches.check, batch)
        if not is_known:
            self._refuse_ended(batch)
        if not dry_run:
            in_place(self._batches.begin, batch, actor)
        lines: list[BatchLine] = []
        stopped: str | None = None
        for number, grant in enumerate(batch.grants, start=1):
            if dry_run:
                lines.append(_line(grant, "planned"))
                continue
            if stopped is None:
                line, stopped = self._issued(grant, actor)
                lines.append(line)
            else:
                lines.append(_line(grant, "waits", stopped))
            if progress is not None:
                progress(number, len(batch.grants))
        return BatchReport(
            batch_id=batch.batch_id, lines=batch.lines, is_dry_run=dry_run, grants=tuple(lines)
        )

    def _refuse_ended(self, batch: Batch) -> None:
        """Refuse a new batch with grants that have ended: before anything is changed."""
        now = self._transport.now_ms()
        if now is None:
            now = in_place(self._batches.now_ms)
        ended = [grant for grant in batch.grants if grant.terms.expires_at_ms <= now]
        if ended:
            problems = tuple((grant.line, "the grant would have ended already") for grant in ended)
            told = "; ".join(f"line {line}: {what}" for line, what in problems[:20])
            raise BatchRefusedError(f"nothing was changed: {told}", problems=problems)

    def _issued(self, grant: PlannedGrant, actor: str | None) -> tuple[BatchLine, str | None]:
        """Issue one grant; return what became of it, and why the rest must wait, if it must."""
        terms = grant.terms
        told = {
            "source": terms.source,
            "reference": terms.reference,
            "description": terms.description,
            "actor": actor,
        }
        command = IssueGrant(
            quota=grant.quota,
            grant_id=grant.grant_id,
            terms=terms,
            grants_max=self._settings.grants_max,
            details=details_text(told),
        )
        try:
            issued = self._transport.drive(flows.issued(command))
        except (EngineUnavailableError, BackpressureError) as error:
            return _line(grant, "waits", str(error)), str(error)
        except QuotaError as error:
            return _line(grant, "refused", str(error)), None
        return _line(grant, "there" if issued.replayed else "issued"), None


def _line(grant: PlannedGrant, outcome: str, reason: str | None = None) -> BatchLine:
    return BatchLine(
        line=grant.line,
        account=grant.quota.account,
        quota_type=grant.quota.quota_type,
        amount=grant.terms.amount,
        grant_id=grant.grant_id,
        outcome=outcome,
        reason=reason,
    )
