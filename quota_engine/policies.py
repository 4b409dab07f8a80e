"""
Account policies: what is said of an account, for all its quotas and for every account below it.

A policy has a state (``active``, ``suspended``, ``closed``) and a revision that counts up. The
ledger has the truth; Redis has a record of each, which scripts read. Pure: this module must not
know how either is reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from quota_engine.errors import (
    AccountBarredError,
    AccountClosedError,
    AccountSuspendedError,
    InvalidArgumentError,
)
from quota_engine.instants import from_ms, to_ms
from quota_engine.keys import QuotaName, parents_of, root_of
from quota_engine.payers import PAYERS_MAX, parse_payers, payers_text

T = TypeVar("T")

ACTIVE, SUSPENDED, CLOSED = "active", "suspended", "closed"
STATES = (ACTIVE, SUSPENDED, CLOSED)

ENFORCE, SHADOW, INHERIT = "enforce", "shadow", "inherit"
#: All quota types of which nothing else is said.
ALL_TYPES = "*"

SUSPEND, ACTIVATE, CLOSE, MOVE, REPAIR = "suspend", "activate", "close", "move", "repair"
SET_ENFORCEMENT, SET_PAYERS = "enforcement", "pays_after"
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
    #: By quota type, ``*`` for all: ``enforce`` or ``shadow``. Empty: as the account above.
    enforcement: Mapping[str, str] = field(default_factory=dict)
    #: By quota type, ``*`` for all: who pays when its own quota cannot, in order; none: nobody.
    pays_after: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: The same operation again: this is how the account is now.
    replayed: bool = False

    @property
    def words(self) -> str:
        """What is said of it, as the history tells it."""
        state = self.state if self.moved_to is None else f"moved to {self.moved_to}"
        said = [enforcement_text(self.enforcement)] if self.enforcement else []
        if self.pays_after:
            said.append(f"pays after: {payers_text(self.pays_after)}")
        return "; ".join((state, *said))

    @property
    def is_restricting(self) -> bool:
        """Whether a call may be decided otherwise than without it."""
        return self.state != ACTIVE or bool(self.enforcement or self.pays_after)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStanding:
    """
    How an account stands: its ``own`` policy, and what counts for its calls.

    ``state`` is the strictest on its path, ``decided_by`` the account whose it is, with its
    ``reason`` and ``since``; None where all are active. ``above``: policies of accounts above it,
    the nearest first. ``enforcement``: what counts for each quota type that something is said of,
    ``*`` for all others; where there is none, the deployment decides. ``pays_after`` in the same
    way: who pays when its own quota cannot.
    """

    account: str
    own: AccountPolicy
    state: str = ACTIVE
    decided_by: str | None = None
    reason: str | None = None
    since: datetime | None = None
    above: tuple[AccountPolicy, ...] = ()
    enforcement: Mapping[str, str] = field(default_factory=dict)
    pays_after: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


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
    #: Of quota types (none: of all): what to do with what would be refused.
    enforcement: str = ""
    #: Of quota types: who pays when the own quota cannot; empty: nobody; None: nothing is said.
    payers: tuple[str, ...] | None = None
    quota_types: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """What makes this act this act; who does it, and why, may be told otherwise."""
        act = f"{self.action} {self.account}"
        if self.action == SET_ENFORCEMENT:
            return f"{act}\n{self.enforcement} {' '.join(self.quota_types)}"
        if self.action == SET_PAYERS:
            said = "" if self.payers is None else payers_text({ALL_TYPES: self.payers})
            return f"{act}\n{said} {' '.join(self.quota_types)}"
        return act if self.target is None else f"{act}\n{self.target}"


def applied(policy: AccountPolicy, wanted: WantedPolicy, at: datetime) -> AccountPolicy:
    """Return a policy after an act; raise ``InvalidArgumentError`` for one that it cannot take."""
    done = replace(policy, revision=policy.revision + 1, changed_by=wanted.operator, changed_at=at)
    if wanted.action == SET_ENFORCEMENT:
        said = None if wanted.enforcement == INHERIT else wanted.enforcement
        return replace(done, enforcement=_said(policy.enforcement, said, wanted.quota_types))
    if wanted.action == SET_PAYERS:
        return replace(
            done, pays_after=_said(policy.pays_after, wanted.payers, wanted.quota_types)
        )
    state = STATE_AFTER[wanted.action]
    if policy.state == CLOSED and state == SUSPENDED:
        raise InvalidArgumentError(
            f"{policy.account} is closed, which refuses more than a suspension; activate it first"
        )
    return replace(
        done,
        state=state,
        since=policy.since if policy.state == state and policy.since else at,
        reason=_told(wanted),
        moved_to=wanted.target if wanted.action == MOVE else None,
    )


def _said(before: Mapping[str, T], said: T | None, quota_types: Sequence[str]) -> dict[str, T]:
    """Return what is said of quota types after an act: of all, if it names none."""
    after = dict(before) if quota_types else {}
    for name in quota_types or (ALL_TYPES,):
        after.pop(name, None)
        if said is not None:
            after[name] = said
    return after


def checked_payers(account: str, payers: Sequence[str]) -> tuple[str, ...]:
    """Return who is to pay after an account; raise ``InvalidArgumentError`` for who cannot."""
    if len(payers) > PAYERS_MAX or len(set(payers)) < len(payers):
        raise InvalidArgumentError(
            f"give at most {PAYERS_MAX} payers, each once, not {len(payers)}: {', '.join(payers)}"
        )
    for payer in payers:
        if payer == account:
            raise InvalidArgumentError(f"{account} pays first; name others that pay after it")
        if root_of(payer) != root_of(account):
            raise InvalidArgumentError(
                f"{payer} cannot pay for {account}: they have different roots"
            )
    return tuple(payers)


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
    standing = AccountStanding(
        account=account,
        own=own,
        above=above,
        enforcement=_nearest([policy.enforcement for policy in (own, *above)]),
        pays_after=_nearest([policy.pays_after for policy in (own, *above)]),
    )
    deciding = strictest((own, *above))
    if deciding is None:
        return standing
    return replace(
        standing,
        state=deciding.state,
        decided_by=deciding.account,
        reason=deciding.reason,
        since=deciding.since,
    )


def _nearest(path: Sequence[Mapping[str, T]]) -> dict[str, T]:
    """Return what counts for each quota type: what the nearest says of those who say something."""
    found: dict[str, T] = {}
    for said in reversed(path):
        if ALL_TYPES in said:
            found = {}
        found |= said
    return found


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
    """Return a policy as scripts read it: see ``lua/lib/policies.lua``."""
    since_ms = 0 if policy.since is None else to_ms(policy.since, name="since")
    reason = " ".join((policy.reason or "").split())
    record = f"{policy.revision}\n{policy.state}\n{since_ms}\n{reason}"
    lines = [record, enforcement_text(policy.enforcement), payers_text(policy.pays_after)]
    return "\n".join(lines).rstrip("\n") if any(lines[1:]) else record


def fields_of(policies: Iterable[AccountPolicy]) -> dict[str, str]:
    """Return the fields of ``versions`` that tell scripts of these policies."""
    known = list(policies)
    fields = {str(field_of(policy.account)): record_of(policy) for policy in known}
    return fields | ({MARK: "1"} if any(policy.is_restricting for policy in known) else {})


def parse_record(account: str, record: str) -> AccountPolicy:
    """Return what a record says; raise ``ValueError`` for a text that is none."""
    revision, state, since_ms, reason, *said = record.split("\n")
    if state not in STATES:
        raise ValueError(f"no account is {state!r}")
    return AccountPolicy(
        account=account,
        state=state,
        since=from_ms(int(since_ms)) if int(since_ms) else None,
        reason=reason or None,
        revision=int(revision),
        enforcement=parse_enforcement(said[0] if said else ""),
        pays_after=parse_payers(said[1] if len(said) > 1 else ""),
    )


def enforcement_text(enforcement: Mapping[str, str]) -> str:
    """Return what is said of enforcement as one line: ``credit=enforce text_token=shadow``."""
    return " ".join(f"{name}={enforcement[name]}" for name in sorted(enforcement))


def parse_enforcement(text: str) -> dict[str, str]:
    """Return what such a line says."""
    return dict(word.split("=") for word in text.split())
