# Written by tools/unasync.py from quota_engine/_async/explaining.py. Edit that file instead.
"""The call that says why others are admitted or refused."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from quota_engine._sync.books import Books
from quota_engine.commands import PlaceHold
from quota_engine.errors import EngineUnavailableError
from quota_engine.explaining import Explanation, explained
from quota_engine.scopes import TypeArgument, asked_of
from quota_engine.waiting import in_place

#: So many entries are told of what made a balance.
ENTRIES_TOLD = 10


class Explaining(Books):
    """Explanations."""

    def explain(
        self,
        account: str,
        quota_type: TypeArgument,
        amount: int | None = None,
        *,
        scopes: Iterable[str] | None = None,
    ) -> Explanation:
        """
        Return why a hold of ``amount`` would be admitted or refused now, and what would help.

        By which quota (of the account, or of one above it), what each could admit, which grants
        would pay, what comes back by itself and when, and what made the account's balance: sums
        (``.statement``) and its last entries (``.entries``), neither while PostgreSQL is away.
        Changes nothing; arguments as of ``place_hold``. Costs a few round trips per quota, and a
        look at the entries of the account's own.
        """
        asked = asked_of(account, quota_type, amount, scopes, self._settings)
        command = PlaceHold(
            quota=asked.quota,
            hold_id=self._id(None, "hold"),
            amount=asked.amount,
            ttl_ms=1,
            shares=asked.shares,
            is_dry=True,
        )
        found = self._transport.drive(explained(command), "explain")
        with suppress(EngineUnavailableError):
            made_of = self.statement(asked.quota.account, asked.quota.quota_type)
            store = self._backing.statement_store
            entries = in_place(store.last_entries, asked.quota, ENTRIES_TOLD)
            return replace(found, statement=made_of, entries=tuple(entries))
        return found
