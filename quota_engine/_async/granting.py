"""The calls that put quota in, take it back, and say how far below zero it may go."""

from __future__ import annotations

from datetime import datetime

from quota_engine import flows
from quota_engine._async.calling import AsyncCalling
from quota_engine.arguments import checked_overdraft_limit, checked_terms, checked_text
from quota_engine.commands import (
    IssuedGrant,
    IssueGrant,
    OverdraftLimit,
    SetOverdraftLimit,
    VoidedGrant,
    VoidGrant,
)
from quota_engine.commands.arguments import details_text
from quota_engine.ids import checked_id


class AsyncGranting(AsyncCalling):
    """Grants, and the overdraft limit."""

    async def issue_grant(
        self,
        account: str,
        quota_type: str,
        amount: int,
        *,
        source: str = "admin_grant",
        reference: str | None = None,
        description: str | None = None,
        grant_id: str | None = None,
        priority: int = 50,
        starts_at: datetime | None = None,
        expires_at: datetime | None = None,
        actor: str | None = None,
    ) -> IssuedGrant:
        """
        Put quota in, live from ``starts_at`` (now) until ``expires_at`` (never), exactly.

        ``actor``: who did it, kept with the entry. Idempotent by ``grant_id``; other terms raise
        ``IdempotencyConflictError``. Promised in PostgreSQL first: after
        ``EngineUnavailableError`` or ``BackpressureError`` the workers issue it by that promise.
        """
        quota = self._quota(account, quota_type)
        terms = checked_terms(
            amount,
            source=source,
            reference=reference,
            description=description,
            priority=priority,
            starts_at=starts_at,
            expires_at=expires_at,
        )
        details = {
            "source": terms.source,
            "reference": reference,
            "description": description,
            "actor": checked_text(actor, name="actor"),
        }
        command = IssueGrant(
            quota=quota,
            grant_id=self._id(grant_id, "grant"),
            terms=terms,
            grants_max=self._settings.grants_max,
            details=details_text(details),
        )
        return await self._transport.drive(flows.issued(command), "issue_grant")

    async def void_grant(
        self,
        account: str,
        quota_type: str,
        grant_id: str,
        *,
        reference: str | None = None,
        actor: str | None = None,
    ) -> VoidedGrant:
        """
        Cancel what remains of a grant; what was used, or is held, stays with who has it.

        Raises ``GrantNotFoundError`` when there is no such grant or nothing of it is left.
        """
        command = VoidGrant(
            quota=self._quota(account, quota_type),
            grant_id=checked_id(grant_id, name="grant id"),
            details=details_text(
                {
                    "reference": checked_text(reference, name="reference"),
                    "actor": checked_text(actor, name="actor"),
                }
            ),
        )
        return await self._transport.drive(flows.settled(command), "void_grant")

    async def set_overdraft_limit(
        self,
        account: str,
        quota_type: str,
        limit: int | None,
        *,
        operation_id: str | None = None,
        reference: str | None = None,
    ) -> OverdraftLimit:
        """Say how far below zero a quota may go. None: record, never refuse."""
        command = SetOverdraftLimit(
            quota=self._quota(account, quota_type),
            operation_id=self._id(operation_id, "op"),
            overdraft_limit=checked_overdraft_limit(limit),
            details=details_text({"reference": checked_text(reference, name="reference")}),
        )
        return await self._transport.drive(flows.settled(command), "set_overdraft_limit")
