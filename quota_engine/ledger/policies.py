"""
Account policies in PostgreSQL: each method of the tables is one transaction.

A change is decided under a lock of its account, and recorded with its operation id, so it happens
once. Redis is told afterwards; which revision it knows is noted here, so whoever finds one that it
was not told tells it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Row, exists, func, insert, select, text, update
from sqlalchemy.dialects import postgresql

from quota_engine.errors import IdempotencyConflictError, MoveRefusedError
from quota_engine.keys import parents_of, shard_of
from quota_engine.ledger.account_tables import account_changes, account_moves, accounts
from quota_engine.ledger.locks import lock_named
from quota_engine.payers import parse_payers, payers_text
from quota_engine.policies import (
    ACTIVE,
    CLOSED,
    AccountChange,
    AccountPolicy,
    WantedPolicy,
    applied,
    barred_error,
    enforcement_text,
    fields_of,
    parse_enforcement,
    record_of,
    strictest,
)

if TYPE_CHECKING:
    from quota_engine.ledger.ledger import Ledger

#: Columns that a policy is made of.
POLICY = (
    *("account", "state", "since", "reason", "revision", "changed_by", "changed_at"),
    "moved_to",
)
CHANGE = (
    *("account", "revision", "operation_id", "action", "before", "after", "at", "operator"),
    "reason",
)


class AccountTables:
    """The account policies in one ledger's database. ``now`` None: PostgreSQL's clock decides."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def change(self, wanted: WantedPolicy, now: datetime | None) -> AccountPolicy:
        """Change a policy, once by its operation id; return it as it is then."""
        with self._ledger.transaction() as connection:
            lock_named(connection, f"account:{wanted.account}")
            before = read_policy(connection, wanted.account)
            table = account_changes
            known = connection.execute(
                select(table.c.fingerprint).where(table.c.operation_id == wanted.operation_id)
            ).scalar_one_or_none()
            if known is not None:
                if known != wanted.fingerprint:
                    raise IdempotencyConflictError(
                        f"operation id {wanted.operation_id} was used before with other arguments"
                    )
                return replace(before, replayed=True)
            _refuse_moving(connection, wanted.account)
            return change_policy(connection, wanted, instant_of(connection, now))

    def read(self, account: str) -> AccountPolicy:
        """Return the policy of an account itself."""
        with self._ledger.transaction() as connection:
            return read_policy(connection, account)

    def read_path(self, account: str) -> list[AccountPolicy]:
        """Return the policies of an account and of those above it, as far as there are any."""
        with self._ledger.transaction() as connection:
            return policies_on(connection, account)

    def note(self, account: str, record: str) -> bool:
        """
        Note that Redis has a record; return whether it is the account's newest.

        A record that is not ours and not older is of a history that the ledger has lost: then the
        policy gets a revision above it.
        """
        table = accounts
        with self._ledger.transaction() as connection:
            lock_named(connection, f"account:{account}")
            policy = read_policy(connection, account)
            if record == record_of(policy):
                is_newer = table.c.sent_revision < policy.revision
                connection.execute(
                    update(table)
                    .where(table.c.account == account, is_newer)
                    .values(sent_revision=policy.revision)
                )
                return True
            known = int(record.partition("\n")[0])
            if known >= policy.revision:
                connection.execute(
                    update(table).where(table.c.account == account).values(revision=known + 1)
                )
            return False

    def list_policies(self, state: str | None) -> list[AccountPolicy]:
        """Return the policies of all accounts that have one, or of those in a state."""
        query = select(accounts).order_by(accounts.c.account)
        if state is not None:
            query = query.where(accounts.c.state == state)
        with self._ledger.transaction() as connection:
            return [policy_of(row) for row in connection.execute(query)]

    def history(self, account: str) -> list[AccountChange]:
        """Return every change of an account, oldest first."""
        table = account_changes
        query = select(table).where(table.c.account == account).order_by(table.c.recorded_at)
        with self._ledger.transaction() as connection:
            return [
                AccountChange(**{name: getattr(row, name) for name in CHANGE})
                for row in connection.execute(query)
            ]


def change_policy(connection: Connection, wanted: WantedPolicy, at: datetime) -> AccountPolicy:
    """Change the policy of an account that is locked, and record that."""
    before = read_policy(connection, wanted.account)
    after = applied(before, wanted, at)
    keep_policy(connection, after)
    add_change(connection, wanted, before, after, at)
    return after


def _refuse_moving(connection: Connection, account: str) -> None:
    """Refuse to change an account that is on its way to another place."""
    table = account_moves
    query = select(table.c.target).where(table.c.account == account, table.c.finished_at.is_(None))
    target = connection.execute(query).scalar_one_or_none()
    if target is not None:
        raise MoveRefusedError(f"{account} is still moving to {target}: see when it has arrived")


def instant_of(connection: Connection, now: datetime | None) -> datetime:
    """Return the instant to decide for; None: PostgreSQL's now."""
    found: datetime = now or connection.execute(select(func.clock_timestamp())).scalar_one()
    return found


def read_policy(connection: Connection, account: str) -> AccountPolicy:
    """Return the policy of an account itself."""
    row = connection.execute(select(accounts).where(accounts.c.account == account)).one_or_none()
    return AccountPolicy(account=account) if row is None else policy_of(row)


def policies_on(connection: Connection, account: str) -> list[AccountPolicy]:
    """Return the policies on an account's path, the nearest first."""
    path = (account, *parents_of(account))
    rows = connection.execute(select(accounts).where(accounts.c.account.in_(path)))
    return sorted(map(policy_of, rows), key=lambda policy: path.index(policy.account))


def unsent(connection: Connection, limit: int) -> list[str]:
    """Return accounts whose newest policy Redis was not told."""
    table = accounts
    query = (
        select(table.c.account)
        .where(table.c.sent_revision < table.c.revision)
        .order_by(table.c.account)
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def restricting_accounts(connection: Connection) -> list[str]:
    """Return the accounts of whose policies scripts must know."""
    table = accounts
    says_more = (table.c.enforcement != "") | (table.c.pays_after != "")
    query = select(table.c.account).where((table.c.state != ACTIVE) | says_more)
    return list(connection.execute(query).scalars())


def all_policies(
    connection: Connection, names: Iterable[str] | None = None
) -> dict[str, tuple[AccountPolicy, bool]]:
    """Return every policy (or those of some accounts), and whether Redis was told it."""
    query = select(accounts)
    if names is not None:
        query = query.where(accounts.c.account.in_(list(names)))
    return {
        row.account: (policy_of(row), row.sent_revision >= row.revision)
        for row in connection.execute(query)
    }


def fields_by_shard(connection: Connection, shards: int) -> dict[int, dict[str, str]]:
    """Return, by shard, the fields of ``versions`` that tell scripts of all policies."""
    by_shard: dict[int, list[AccountPolicy]] = {}
    for policy, _ in all_policies(connection).values():
        by_shard.setdefault(shard_of(policy.account, shards), []).append(policy)
    return {shard: fields_of(policies) for shard, policies in by_shard.items()}


def add_change(
    connection: Connection,
    wanted: WantedPolicy,
    before: AccountPolicy,
    after: AccountPolicy,
    at: datetime,
) -> None:
    """Record what was done to a policy."""
    connection.execute(
        insert(account_changes).values(
            operation_id=wanted.operation_id,
            account=wanted.account,
            revision=after.revision,
            action=wanted.action,
            fingerprint=wanted.fingerprint,
            before=before.words,
            after=after.words,
            operator=wanted.operator,
            reason=wanted.reason,
            at=at,
        )
    )


# -- for who promises grants


def refuse_closed(connection: Connection, account: str) -> None:
    """Raise ``AccountClosedError`` where an account or one above it is closed."""
    deciding = strictest(policies_on(connection, account))
    if deciding is not None and deciding.state == CLOSED:
        raise barred_error(deciding)


def is_closed(account: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return the condition that an account in a query, or one above it, is closed."""
    path = func.account_path(account, type_=postgresql.ARRAY(accounts.c.account.type))
    return exists().where(accounts.c.state == CLOSED, accounts.c.account == func.any(path))


def closed_among(connection: Connection, names: Sequence[str]) -> set[str]:
    """Return those of some accounts that are closed, or below one that is."""
    rows = connection.execute(_CLOSED_AMONG, {"names": list(names)})
    return set(rows.scalars())


_CLOSED_AMONG = text("""
SELECT w.account FROM unnest(CAST(:names AS text[])) AS w(account)
WHERE EXISTS (
    SELECT FROM accounts a WHERE a.state = 'closed' AND a.account = ANY(account_path(w.account))
)
""")


def policy_of(row: Row[Any]) -> AccountPolicy:
    """Return the policy that a row keeps."""
    facts = {name: getattr(row, name) for name in POLICY}
    return AccountPolicy(
        **facts,
        enforcement=parse_enforcement(row.enforcement),
        pays_after=parse_payers(row.pays_after),
    )


def keep_policy(connection: Connection, policy: AccountPolicy) -> None:
    """Record a policy as it is now."""
    values = {name: getattr(policy, name) for name in POLICY}
    values["enforcement"] = enforcement_text(policy.enforcement)
    values["pays_after"] = payers_text(policy.pays_after)
    made = postgresql.insert(accounts).values(**values)
    connection.execute(made.on_conflict_do_update(index_elements=["account"], set_=values))
