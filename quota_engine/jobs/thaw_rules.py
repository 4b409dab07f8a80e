"""
What becomes of a quarantined entry when its quota is thawed: pure rules, no I/O.

The ledger's history is the one that counts. Of the others every charge is kept that somebody was
told of, and what was put in or taken back; what only set quota aside is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from quota_engine import drift, events
from quota_engine.chain import Cause
from quota_engine.commands import (
    CancelOperation,
    CaptureHold,
    Command,
    DebitUsed,
    GrantTerms,
    IssueGrant,
    RecordUsage,
    ReleaseHold,
    SetOverdraftLimit,
    TransferOut,
    VoidGrant,
)
from quota_engine.commands.limits import change_told
from quota_engine.commands.transfers import transfer_of
from quota_engine.events import NEVER_MS, UNLIMITED, Entry, parse_entry
from quota_engine.keys import QuotaName
from quota_engine.ledger.intents import GrantIntent
from quota_engine.ledger.quarantine import Quarantined
from quota_engine.payers import payer_in

OPERATOR = "operator"
#: Causes of a repair: a closed list, for people and for alarms.
CAUSES = frozenset({*(cause.value for cause in (*Cause, *drift.Cause)), OPERATOR, "unknown"})


class Fate(StrEnum):
    """What becomes of a quarantined entry."""

    KNOWN = "known"
    """The ledger has its operation: nothing is to be done."""
    AGAIN = "again"
    """It is applied again, under its own operation id."""
    NOTHING = "nothing"
    """It only set quota aside, or follows from what is applied again."""
    UNREADABLE = "unreadable"
    """It is no entry, so nobody knows what it was: a person must discard it."""
    DISCARDED = "discarded"
    """A person decided that it never counted."""
    REFUSED = "refused"
    """It was applied again and could not be: a person must look."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one quarantined entry, and why."""

    quarantined: Quarantined
    fate: Fate
    why: str
    entry: Entry | None = None
    command: Command[Any] | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows that decides about quarantined entries."""

    operations: frozenset[str]
    #: When the ledger's last overdraft limit was set, and its last limit.
    last_overdraft_ms: int
    last_limit_ms: int
    #: Grants that were promised or issued, by id.
    intents: dict[str, GrantIntent]


def entry_of(quarantined: Quarantined) -> Entry | None:
    """Return the entry that the bytes are, None if they are none."""
    if quarantined.kind is None and quarantined.cause == Cause.MALFORMED:
        return None
    try:
        return parse_entry(quarantined.raw_entry.decode())
    except (UnicodeDecodeError, events.MalformedEntryError, events.UnknownFormatError):
        return None


def decide(quarantined: Quarantined, known: Known) -> Decision:
    """Return what becomes of an entry that no person has decided about."""
    entry = entry_of(quarantined)
    if entry is None or quarantined.quota is None:
        return Decision(quarantined, Fate.UNREADABLE, "its bytes are no entry")
    if entry.operation_id in known.operations:
        return Decision(quarantined, Fate.KNOWN, "the ledger has this operation", entry)
    if not entry.fingerprint:
        return Decision(quarantined, Fate.NOTHING, "the engine's own: it follows by itself", entry)
    command, why = _again(quarantined.quota, entry, known)
    fate = Fate.NOTHING if command is None else Fate.AGAIN
    return Decision(quarantined, fate, why, entry, command)


def _again(quota: QuotaName, entry: Entry, known: Known) -> tuple[Command[Any] | None, str]:
    """Return the command that applies an entry again, and why; None: nothing does."""
    given: dict[str, Any] = {"quota": quota, "details": entry.details}
    # Who paid in its place has an entry of its own for that, and is not asked again.
    told: dict[str, Any] = {
        "fingerprint_before": entry.fingerprint,
        "paid_by": payer_in(entry.flags),
    }
    if entry.kind == events.QUOTA_DEBITED:
        debit = DebitUsed(operation_id=entry.operation_id, amount=entry.amount, **told, **given)
        return debit, "a charge that somebody was told of"
    if entry.kind == events.HOLD_CAPTURED:
        capture = CaptureHold(
            hold_id=entry.subject,
            operation_id=entry.operation_id,
            amount=entry.amount,
            is_final=entry.operation_id == f"{entry.subject}:capture",
            is_known=True,
            **told,
            **given,
        )
        return capture, "a charge that somebody was told of"
    if entry.kind == events.HOLD_RELEASED:
        return ReleaseHold(hold_id=entry.subject, **given), "if its hold is open still"
    if entry.kind == events.USAGE_RECORDED:
        record = RecordUsage(operation_id=entry.operation_id, **given)
        return record, "a record that charges nothing"
    if entry.kind == events.OPERATION_CANCELLED:
        cancel = CancelOperation(operation_id=entry.operation_id, is_absent=True, **given)
        return cancel, "it must never happen"
    if entry.kind == events.QUOTA_TRANSFERRED_OUT:
        transfer = transfer_of(quota, entry.operation_id, entry.amount, entry.details)
        return TransferOut(quota=quota, transfer=transfer), "units that left for another account"
    if entry.kind == events.GRANT_ISSUED:
        return _grant_again(quota, entry, known), "a grant that somebody was told of"
    if entry.kind == events.GRANT_VOIDED:
        return VoidGrant(grant_id=entry.subject, **given), "if anything of the grant is left"
    if entry.kind == events.OVERDRAFT_LIMIT_SET and entry.at_ms > known.last_overdraft_ms:
        limit = None if entry.terms == UNLIMITED else int(entry.terms)
        command = SetOverdraftLimit(
            operation_id=entry.operation_id, overdraft_limit=limit, **given
        )
        return command, "the newest overdraft limit"
    if entry.kind == events.LIMIT_SET and entry.at_ms > known.last_limit_ms:
        return change_told(quota, entry), "a newer change of a limit"
    return None, _WHY_NOTHING.get(entry.kind, "it changes nothing that counts")


_WHY_NOTHING = {
    events.HOLD_PLACED: "a hold is not restored: what was used of it is charged late",
    events.HOLD_EXTENDED: "a hold is not restored: what was used of it is charged late",
    events.QUOTA_REFUNDED: "its promise is kept: workers make it again",
    events.QUOTA_TRANSFERRED_IN: "what left is in the ledger: workers bring it again",
    events.OVERDRAFT_LIMIT_SET: "the ledger has a newer overdraft limit",
    events.LIMIT_SET: "the ledger has a newer change of limits",
    events.QUOTA_REPAIRED: "this repair tells it",
}


def _grant_again(quota: QuotaName, entry: Entry, known: Known) -> IssueGrant:
    """Return the issuing of a grant: as it was promised, or by what its entry says."""
    intent = known.intents.get(entry.subject)
    if intent is not None:
        return IssueGrant(
            quota=quota, grant_id=entry.subject, terms=intent.terms, details=intent.details
        )
    candidates = list(_terms_of(entry))
    same = (terms for terms in candidates if terms.fingerprint == entry.fingerprint)
    terms = next(same, candidates[0])
    return IssueGrant(quota=quota, grant_id=entry.subject, terms=terms, details=entry.details)


def _terms_of(entry: Entry) -> Iterable[GrantTerms]:
    """Yield what the issuer may have said: an entry does not tell ``now`` from an instant."""
    words = [int(word) for word in entry.terms.split(" ")]
    priority, starts_at_ms, expires_at_ms, created_at_ms = (*words, *(0, 0, NEVER_MS, 0))[:4]
    told = _object(entry.details)
    for starts in (0 if starts_at_ms == created_at_ms else starts_at_ms, starts_at_ms):
        yield GrantTerms(
            amount=entry.amount,
            source=told.get("source") or "",
            reference=told.get("reference"),
            description=told.get("description"),
            priority=priority,
            starts_at_ms=starts,
            expires_at_ms=expires_at_ms,
        )


def _object(details: str) -> dict[str, Any]:
    try:
        found = json.loads(details or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def cause_of(frozen: str, quarantined: Iterable[Quarantined]) -> str:
    """Return why a quota is frozen, as one of ``CAUSES``."""
    word, _, rest = frozen.partition(": ")
    if word == "reconcile":
        word = rest.partition(",")[0]
    if word not in CAUSES:
        word = next((one.cause for one in quarantined), "unknown")
    return word if word in CAUSES else "unknown"
