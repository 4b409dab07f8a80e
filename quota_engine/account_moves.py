"""
Moving an account to another place, with all below it: what is asked, and what came of it. Pure.

The old account is closed, and says where it went. Its grants, overdraft limits, subscriptions,
orders and policies go with it; open holds are settled where they were placed, and what they leave
over follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import checked_account, checked_id
from quota_engine.keys import QuotaName
from quota_engine.limits import Limit

#: Quotas that one move may have: each takes a few steps.
QUOTAS_MAX = 1_000
#: Ids of the steps are made of the move's.
OPERATION_ID_LENGTH_MAX = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountMove:
    """
    An account that went from ``account`` to ``target``.

    ``finished_at`` is None while something is left at the old place, such as open holds: the
    workers bring it as soon as it is free. ``replayed``: it was asked for before.
    """

    operation_id: str
    account: str
    target: str
    operator: str | None
    reason: str | None
    begun_at: datetime
    finished_at: datetime | None = None
    replayed: bool = False

    def place_of(self, account: str) -> str:
        """Return where the account, or one below it, is now."""
        return self.target + account.removeprefix(self.account)

    def place_now(self, account: str) -> str:
        """Return the same of any account: who did not move is where it was."""
        is_moved = f"{account}/".startswith(f"{self.account}/")
        return self.place_of(account) if is_moved else account


@dataclass(frozen=True, slots=True)
class Moving:
    """A quota that moves, and its limits; ``overdraft_limit`` None: unlimited."""

    source: QuotaName
    target: QuotaName
    overdraft_limit: int | None = 0
    limits: tuple[Limit, ...] = ()


def checked_target(account: str, to: object, parent: object) -> str:
    """Return where an account is to go: ``to`` a new account, or below a ``parent``."""
    if (to is None) == (parent is None):
        raise InvalidArgumentError("say where the account goes: to= the new account, or parent=")
    if parent is not None:
        to = f"{checked_account(parent)}/{account.rpartition('/')[2]}"
    target = checked_account(to)
    if target == account or target.startswith(f"{account}/"):
        raise InvalidArgumentError(
            f"{account} cannot move to {target}: that is itself, or below it"
        )
    return target


def checked_move_id(operation_id: object) -> str:
    """Return the id of a move: ids of its steps are made of it, so it is shorter than others."""
    checked = checked_id(operation_id, name="operation id")
    if len(checked) > OPERATION_ID_LENGTH_MAX:
        raise InvalidArgumentError(
            f"a move's operation id must have at most {OPERATION_ID_LENGTH_MAX} characters, not"
            f" {len(checked)}"
        )
    return checked
