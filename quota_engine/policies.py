"""
Account policies: what is said of an account, for all its quotas and for every account below it.

A policy has a state (``active``, ``suspended``, ``closed``) and a revision that counts up. The
ledger has the truth; Redis has a record of each, which scripts read. Pure: this module must not
know how either is reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from quota_engine.errors import (
    AccountBarredError,
    AccountClosedError,
    AccountSuspendedError,
    InvalidArgumentError,
)
from quota_engine.instants import from_ms, to_ms
from quota_engine.keys import QuotaName, parents_of

ACTIVE, SUSPENDED, CLOSED = "active", "suspended", "closed"
STATES = (ACTIVE, SUSPENDED, CLOSED)

SUSPEND, ACTIVATE, CLOSE, MOVE, REPAIR = "suspend", "activate", "close", "move", "repair"
#: What each act makes of an account.
STATE_AFTER = {SUSPEND: SUSPENDED, ACTIVATE: ACTIVE, CLOSE: CLOSED, MOVE: CLOSED}

_BARS: Mapping[str, type[AccountBarredError]] = {
    SUSPENDED: AccountSuspendedError,
    CLOSED: AccountClosedError,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPolicy:
    """
    What is said of one account itself; what is said of those above it counts, too.

    ``since``: when it came into its state, and ``reason``: why; None: it was never changed.
    """

    account: str
    state: str = ACTIVE
    since: datetime | None = None
    reason: str | None = None
    revision: int = 0
    changed_by: str | None = None
    changed_at: datetime | None = None
    #: Where the account is instead.
    moved_to: str | None = None
    #: The same operation again: this is how the account is now.
    replayed: bool = False

    @property
    def words(self) -> str:
        """What is said of it, as the history tells it."""
        return self.state if self.moved_to is None else f"moved to {self.moved_to}"

    @property
    def is_restricting(self) -> bool:
        """Whether a call may be decided otherwise than without it."""
        return self.state != ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStanding:
    """
    How an account stands: its ``own`` policy, and what counts for its calls.

    ``state`` is the strictest on its path, ``decided_by`` the account whose it is, with its
    ``reason`` and ``since``; None where all are active. ``above``: policies of accounts above it,
    the nearest first.
    """

    account: str
    own: AccountPolicy
    state: str = ACTIVE
    decided_by: str | None = None
    reason: str | None = None
    since: datetime | None = None
    above: tuple[AccountPolicy, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountChange:
    """One change of a policy: who did what, when and why, and how it was before."""

    account: str
    revision: int
    operation_id: str
    action: str
    before: str
    after: str
    at: datetime
    operator: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedPolicy:
    """What somebody asks to be done to a policy, once by its ``operation_id``."""

    account: str
    action: str
    operation_id: str
    operator: str | None = None
    reason: str | None = None
    #: Of a move: where to.
    target: str | None = None

    @property
    def fingerprint(self) -> str:
        """What makes this act this act; who does it, and why, may be told otherwise."""
        act = f"{self.action} {self.account}"
        return act if self.target is None else f"{act}\n{self.target}"


def applied(policy: AccountPolicy, wanted: WantedPolicy, at: datetime) -> AccountPolicy:
    """Return a policy after an act; raise ``InvalidArgumentError`` for one that it cannot take."""
    state = STATE_AFTER[wanted.action]
    if policy.state == CLOSED and state == SUSPENDED:
        raise InvalidArgumentError(
            f"{policy.account} is closed, which refuses more than a suspension; activate it first"
        )
    return replace(
        policy,
        state=state,
        since=policy.since if policy.state == state and policy.since else at,
        reason=_told(wanted),
        revision=policy.revision + 1,
        changed_by=wanted.operator,
        changed_at=at,
        moved_to=wanted.target if wanted.action == MOVE else None,
    )


def _told(wanted: WantedPolicy) -> str | None:
    """Return the reason that callers are told."""
    if wanted.target is None:
        return wanted.reason
    return f"moved to {wanted.target}" + (f" ({wanted.reason})" if wanted.reason else "")


def standing_of(account: str, policies: Sequence[AccountPolicy]) -> AccountStanding:
    """Return how an account stands, from the policies on its path."""
    known = {policy.account: policy for policy in policies}
    own = known.get(account, AccountPolicy(account=account))
    above = tuple(known[name] for name in parents_of(account) if name in known)
    deciding = strictest((own, *above))
    if deciding is None:
        return AccountStanding(account=account, own=own, above=above)
    return AccountStanding(
        account=account,
        own=own,
        state=deciding.state,
        decided_by=deciding.account,
        reason=deciding.reason,
        since=deciding.since,
        above=above,
    )


def strictest(policies: Sequence[AccountPolicy]) -> AccountPolicy | None:
    """Return the first closed one, else the first suspended one, of a path's policies."""
    for state in (CLOSED, SUSPENDED):
        for policy in policies:
            if policy.state == state:
                return policy
    return None


def barred_error(policy: AccountPolicy) -> AccountBarredError:
    """Return the refusal of what an account that is not active does not admit."""
    since = policy.since or from_ms(0)
    return _BARS[policy.state](policy.account, reason=policy.reason or "", since=since)


class LastKnown:
    """Which accounts one client last knew not to be active, for when nobody can be asked."""

    def __init__(self) -> None:
        self._barred: dict[str, AccountBarredError] = {}

    def note(self, error: AccountBarredError) -> None:
        """Keep that an account was refused."""
        self._barred[error.account] = error

    def forget(self, account: str) -> None:
        """Let go of all on the path of an account that was admitted."""
        if self._barred:
            for name in (account, *parents_of(account)):
                self._barred.pop(name, None)

    def learn(self, account: str, policies: Sequence[AccountPolicy]) -> None:
        """Keep what was told of an account's path."""
        self.forget(account)
        for policy in policies:
            if policy.state != ACTIVE:
                self.note(barred_error(policy))

    def barred(self, account: str) -> AccountBarredError | None:
        """Return the refusal of an account, as far as is known."""
        path = (account, *parents_of(account))
        return next((self._barred[name] for name in path if name in self._barred), None)


# -- what Redis has

#: The field of ``versions`` that says that some account's record may restrict.
MARK = "@accounts"


def field_of(account: str) -> QuotaName:
    """Return the name under which ``versions`` has an account's record: the quota of no type."""
    return QuotaName(account, "")


def record_of(policy: AccountPolicy) -> str:
    """Return a policy as scripts read it: lines revision, state, since (ms), reason."""
    since_ms = 0 if policy.since is None else to_ms(policy.since, name="since")
    reason = " ".join((policy.reason or "").split())
    return f"{policy.revision}\n{policy.state}\n{since_ms}\n{reason}"


def fields_of(policies: Iterable[AccountPolicy]) -> dict[str, str]:
    """Return the fields of ``versions`` that tell scripts of these policies."""
    known = list(policies)
    fields = {str(field_of(policy.account)): record_of(policy) for policy in known}
    return fields | ({MARK: "1"} if any(policy.is_restricting for policy in known) else {})


def parse_record(account: str, record: str) -> AccountPolicy:
    """Return what a record says; raise ``ValueError`` for a text that is none."""
    revision, state, since_ms, reason = record.split("\n")
    if state not in STATES:
        raise ValueError(f"no account is {state!r}")
    return AccountPolicy(
        account=account,
        state=state,
        since=from_ms(int(since_ms)) if int(since_ms) else None,
        reason=reason or None,
        revision=int(revision),
    )
