"""
Entries as text: what one numbered line of a quota's log says, on its way and in the ledger.

An outbox entry has two fields: ``entry``, the lines below joined by newlines, and ``chain``, the
hash that ties it to all entries before it. The persister stores every line, so the same bytes, and
with them the same chain, can be computed again from SQL. It must not know where entries come from.

The lines, in order::

    format        "1"
    kind          what happened: hold.placed, quota.debited ...
    quota         <account>|<quota type>
    version       1, 2, 3 ... of this quota, no gaps
    at_ms         the instant of the decision
    operation_id  unique per quota
    fingerprint   hash of the operation's arguments; empty where the engine itself acted;
                  "cancelled" where an operation was cancelled before it happened
    amount        units: issued, held (the total), captured, debited, expired ...
    delta         change of the balance
    held_delta    change of held
    balance       after this entry
    held          after this entry
    debt          after this entry
    shortfall     charged but not collectable
    subject       the hold or grant it is about, or empty
    flags         words: "late", "part", "used" ...; "counted": it moves nothing; it counts in
                  limits only, or "by:<account, percent-encoded>" has paid; quota.refunded:
                  "unreturned <units>", of its amount, that the quota had not collected
    terms         grant.issued: priority starts_at expires_at created_at (ms);
                  hold.placed, hold.extended: expires_at (ms); overdraft_limit.set: limit;
                  limit.set: all limits of the quota now (``quota_engine.limits``);
                  quota.repaired: the cause;
                  quota.refunded: units forfeited, those unreturned among them, and units that
                  became grants of their own;
                  quota.transferred_out, quota.transferred_in: units priority expires_at of each
                  part, which arrives as a grant of its own
    movements     triples: grant id, change of its remaining, change of what holds reserve of it
    details       JSON of the caller: reference, description, source, usage ...

For every entry: sum of both changes over all movements - change of debt = delta.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import NamedTuple

from quota_engine.amounts import AMOUNT_MAX
from quota_engine.keys import QuotaName

FORMAT = "1"
#: The chain before a quota's first entry.
GENESIS = "0" * 40
#: ``expires_at`` of what never ends, and a limit that is none.
NEVER_MS = AMOUNT_MAX
UNLIMITED = "unlimited"
#: What stands for the fingerprint of an operation that was cancelled before it happened.
CANCELLED = "cancelled"

GRANT_ISSUED = "grant.issued"
GRANT_STARTED = "grant.started"
GRANT_EXPIRED = "grant.expired"
GRANT_VOIDED = "grant.voided"
HOLD_PLACED = "hold.placed"
HOLD_EXTENDED = "hold.extended"
HOLD_CAPTURED = "hold.captured"
HOLD_RELEASED = "hold.released"
HOLD_EXPIRED = "hold.expired"
QUOTA_DEBITED = "quota.debited"
QUOTA_REFUNDED = "quota.refunded"
QUOTA_TRANSFERRED_OUT = "quota.transferred_out"
QUOTA_TRANSFERRED_IN = "quota.transferred_in"
OVERDRAFT_LIMIT_SET = "overdraft_limit.set"
LIMIT_SET = "limit.set"
USAGE_RECORDED = "usage.recorded"
QUOTA_REPAIRED = "quota.repaired"
OPERATION_CANCELLED = "operation.cancelled"

KINDS = frozenset(
    {
        GRANT_ISSUED,
        GRANT_STARTED,
        GRANT_EXPIRED,
        GRANT_VOIDED,
        HOLD_PLACED,
        HOLD_EXTENDED,
        HOLD_CAPTURED,
        HOLD_RELEASED,
        HOLD_EXPIRED,
        QUOTA_DEBITED,
        QUOTA_REFUNDED,
        QUOTA_TRANSFERRED_OUT,
        QUOTA_TRANSFERRED_IN,
        OVERDRAFT_LIMIT_SET,
        LIMIT_SET,
        USAGE_RECORDED,
        QUOTA_REPAIRED,
        OPERATION_CANCELLED,
    }
)

#: Kinds that take units for good.
CHARGES = frozenset({HOLD_CAPTURED, QUOTA_DEBITED})
#: Kinds whose details may tell of a model call: charged, failed, unbilled or corrected.
TELL_USAGE = CHARGES | {HOLD_RELEASED, QUOTA_REFUNDED, USAGE_RECORDED}


#: What an entry's flags say where it counts in limits alone: the quota does not gate.
COUNTED = "counted"
#: What the flags of a refund say before the units of its amount that do not come back.
UNRETURNED = "unreturned"


def unreturned_in(flags: str, amount: int) -> int:
    """Return how many of a refund's units its quota had not collected; all, where it counts."""
    words = flags.split()
    if COUNTED in words:
        return amount
    return int(words[words.index(UNRETURNED) + 1]) if UNRETURNED in words else 0


class MalformedEntryError(Exception):
    """The bytes are no entry: which line is wrong, and how."""


class UnknownFormatError(Exception):
    """An entry of a format version that this release does not know."""


class EventId(NamedTuple):
    """An outbox id: ``<epoch>-<n>``. Later ids are greater."""

    epoch: int
    n: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.n}"

    @classmethod
    def parse(cls, text: str | bytes) -> EventId:
        """Return the id that a stream id says."""
        epoch, _, n = (text.decode() if isinstance(text, bytes) else text).partition("-")
        return cls(int(epoch), int(n))


@dataclass(frozen=True, slots=True)
class Event:
    """
    One message of an outbox, as bytes: nothing is known of them but where they stood.

    Of a message that is no entry, ``entry`` keeps all fields and values, joined by newlines.
    ``is_followed``: the next one is of the same call, which the ledger gets whole.
    """

    event_id: EventId
    entry: bytes
    chain: bytes
    is_marker: bool = False
    is_followed: bool = False


@dataclass(frozen=True, slots=True)
class Movement:
    """What one entry changed of one grant: its remaining, and what holds reserve of it."""

    grant_id: str
    remaining: int
    reserved: int

    @property
    def consumed(self) -> int:
        """Units that left the grant for good."""
        return -(self.remaining + self.reserved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One numbered line of a quota's log. Field order is line order."""

    format: str
    kind: str
    quota: str
    version: int
    at_ms: int
    operation_id: str
    fingerprint: str
    amount: int
    delta: int
    held_delta: int
    balance: int
    held: int
    debt: int
    shortfall: int
    subject: str
    flags: str
    terms: str
    movements: tuple[Movement, ...]
    details: str

    @property
    def is_counted(self) -> bool:
        """Whether it counts in limits alone."""
        return COUNTED in self.flags.split()

    @property
    def charged(self) -> int:
        """
        Units taken for good, what could not be collected included; negative: given back.

        What was only counted is what the call used.
        """
        if self.kind in CHARGES:
            return self.amount
        return -self.amount if self.kind == QUOTA_REFUNDED else 0

    @property
    def name(self) -> QuotaName:
        """The account and quota type this entry is about."""
        return QuotaName.parse(self.quota)

    def text(self) -> str:
        """Return the exact text that the chain was computed over."""
        return (
            f"{self.format}\n{self.kind}\n{self.quota}\n{self.version}\n{self.at_ms}\n"
            f"{self.operation_id}\n{self.fingerprint}\n{self.amount}\n{self.delta}\n"
            f"{self.held_delta}\n{self.balance}\n{self.held}\n{self.debt}\n{self.shortfall}\n"
            f"{self.subject}\n{self.flags}\n{self.terms}\n{movements_text(self.movements)}\n"
            f"{self.details}"
        )


_LINES = tuple(field.name for field in fields(Entry))


def movements_text(movements: tuple[Movement, ...]) -> str:
    """Return movements as one line: ``grant remaining reserved grant remaining reserved ...``."""
    return " ".join(f"{move.grant_id} {move.remaining} {move.reserved}" for move in movements)


def parse_movements(text: str) -> tuple[Movement, ...]:
    """Return the movements of one line."""
    if not text:
        return ()
    words = text.split(" ")
    if len(words) % 3:
        raise MalformedEntryError(f"movements are triples, not {len(words)} words")
    return tuple(
        Movement(words[at], int(words[at + 1]), int(words[at + 2]))
        for at in range(0, len(words), 3)
    )


def arriving_parts(terms: str) -> list[tuple[int, int, int]] | None:
    """Return units, priority and end (ms) of each part of a transfer; None: no parts."""
    words = terms.split(" ")
    if len(words) % 3 or not all(word.removeprefix("-").isdecimal() for word in words):
        return None
    numbers = [int(word) for word in words]
    return [(numbers[at], numbers[at + 1], numbers[at + 2]) for at in range(0, len(numbers), 3)]


def parse_entry(text: str) -> Entry:
    """
    Return the entry that ``text`` says, so that its ``text()`` gives the same text again.

    Raises ``UnknownFormatError`` for another format version, ``MalformedEntryError`` for bytes
    that are no entry at all.
    """
    lines = text.split("\n")
    if lines[0] != FORMAT:
        if lines[0].isdecimal():
            raise UnknownFormatError(f"entry format {lines[0]}; this release reads {FORMAT}")
        raise MalformedEntryError("the first line is no format version")
    if len(lines) != len(_LINES):
        raise MalformedEntryError(f"{len(lines)} lines instead of {len(_LINES)}")
    if lines[1] not in KINDS:
        raise MalformedEntryError(f"unknown kind {lines[1]!r}")
    try:
        entry = Entry(
            format=lines[0],
            kind=lines[1],
            quota=lines[2],
            version=int(lines[3]),
            at_ms=int(lines[4]),
            operation_id=lines[5],
            fingerprint=lines[6],
            amount=int(lines[7]),
            delta=int(lines[8]),
            held_delta=int(lines[9]),
            balance=int(lines[10]),
            held=int(lines[11]),
            debt=int(lines[12]),
            shortfall=int(lines[13]),
            subject=lines[14],
            flags=lines[15],
            terms=lines[16],
            movements=parse_movements(lines[17]),
            details=lines[18],
        )
    except ValueError as error:
        raise MalformedEntryError(str(error)) from error
    if entry.text() != text:
        raise MalformedEntryError("its numbers are not written plainly")
    return entry


def next_chain(chain: str, text: str) -> str:
    """Return the chain after an entry: SHA-1 over the chain before it, a newline and its text."""
    return hashlib.sha1(f"{chain}\n{text}".encode(), usedforsecurity=False).hexdigest()
