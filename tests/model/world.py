"""Who holds what in one moment: the state that is explored. Every value is immutable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.model.logs import Log

#: ``(epoch, n)``.
Id = tuple[int, int]


class Entry(NamedTuple):
    """A message of the outbox; its log ends with its own operation. None: the gate's marker."""

    id: Id
    log: Log | None


class Outbox(NamedTuple):
    """A stream: the id it generated last, and the entries that were not trimmed."""

    last: Id
    entries: tuple[Entry, ...]


class Server(NamedTuple):
    """What one Redis process holds. None: the key is absent."""

    incarnation: int
    has_scripts: bool = False
    epoch: int | None = None
    #: The last version issued, in ``versions``.
    issued: int | None = None
    outbox: Outbox | None = None
    quota: Log | None = None
    is_frozen: bool = False
    operations: frozenset[str] = frozenset()
    #: Half a transaction at the end of the append-only file, ignored by the first start after it.
    torn: Entry | None = None


class Ledger(NamedTuple):
    """What is committed in PostgreSQL."""

    epoch: int
    incarnation: int
    cursor: Id
    log: Log = ()
    quarantine: tuple[tuple[Id, Log], ...] = ()
    is_frozen: bool = False


class Snapshot(NamedTuple):
    """What a hydrator has read of the ledger."""

    epoch: int
    log: Log
    is_frozen: bool


class Caller(NamedTuple):
    """One process that uses the engine: how far it is, and what it knows."""

    place: int = 0
    epoch: int = 1
    incarnation: int = 1
    snapshot: Snapshot | None = None
    #: The ledger has said that the hold was placed.
    is_known: bool = False
    #: Its connections still lead to the master that was replaced.
    is_on_old: bool = False


class Batch(NamedTuple):
    """What a persister has read, under the lock of the shard's row."""

    entries: tuple[Entry, ...]


class Duty(NamedTuple):
    """An unload or a drop of the quota that was decided and not done yet."""

    name: str
    epoch: int
    version: int
    issued: int | None
    quota: Log | None


class Gate(NamedTuple):
    """One run of the recovery gate: the step that it did last."""

    step: str
    incarnation: int
    epoch: int
    #: Its uncommitted transaction.
    ledger: Ledger | None = None
    #: Whether its session, and with it the lock, is still alive.
    is_alive: bool = True
    differs: bool = False


class State(NamedTuple):
    """One moment of everything, and what the checker remembers of the way here."""

    server: Server
    ledger: Ledger
    callers: tuple[Caller, ...]
    gates: tuple[Gate | None, ...]
    #: The master before the last promotion, as long as it lives.
    old: Server | None = None
    persister: Batch | None = None
    #: A trim that was decided: the epoch, and the last id to go.
    trimmer: tuple[int, Id] | None = None
    duty: Duty | None = None
    is_due: bool = False
    #: What a restart, a promotion or a restore may bring back.
    copy: Server | None = None
    copies: int = 0
    backup: Ledger | None = None
    faults: int = 0
    gate_faults: int = 0
    lost_replies: int = 0
    incarnations: int = 1
    #: Every log that was ever acknowledged by a server, and which operations faults have lost.
    issued: frozenset[Log] = frozenset()
    lost: frozenset[str] = frozenset()
    #: Whether somebody deleted the remembered operations.
    has_forgotten: bool = False


class Move(NamedTuple):
    """Something that may happen next."""

    label: str
    state: State
    is_fault: bool = False
    #: A promise that this very move breaks.
    broken: str = ""


Moves = Iterator[Move]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of the protocol. Turned off one by one, they are the seeded faults."""

    scripts_compare_the_epoch: bool = True
    scripts_compare_the_version: bool = True
    scripts_need_the_outbox: bool = True
    the_outbox_refuses_older_epochs: bool = True
    operations_are_remembered: bool = True
    held_units_are_not_spendable: bool = True
    expiries_are_entries: bool = True
    captures_after_expiry_are_charged: bool = True
    only_the_gate_loads_scripts: bool = True
    connections_compare_the_incarnation: bool = True
    hydration_compares_the_version: bool = True
    hydration_compares_the_epoch: bool = True
    hydration_brings_operations_back: bool = True
    drops_compare_the_state: bool = True
    cursor_moves_with_the_entries: bool = True
    chains_are_compared: bool = True
    trims_compare_the_epoch: bool = True
    trims_wait_for_the_commit: bool = True
    gate_locks: bool = True
    gate_rewrites_the_file: bool = True
    gate_goes_above_the_outbox: bool = True
    gate_absorbs: bool = True
    gate_reads_below_the_cursor: bool = True
    gate_drops_what_differs: bool = True
    gate_empties_versions: bool = True
    gate_opens_only_at_its_marker: bool = True


@dataclass(frozen=True, slots=True)
class Scope:
    """How much is explored: who does what, which faults, how often."""

    name: str
    #: Each caller's operations, in order.
    programs: tuple[tuple[str, ...], ...]
    granted: int = 2
    faults: frozenset[str] = frozenset()
    faults_max: int = 0
    #: Crashes of the gate, and sessions of it that PostgreSQL ends.
    gate_crashes_max: int = 0
    zombies_max: int = 0
    gates: int = 1
    copies_max: int = 1
    lost_replies_max: int = 0
    has_expiry: bool = False
    duties: frozenset[str] = field(default_factory=frozenset[str])
    has_trim: bool = True
    states_max: int = 1_500_000


def first_state(scope: Scope) -> State:
    """Return a shard that has just been opened in epoch 1, empty."""
    outbox = Outbox((1, 0), (Entry((1, 0), None),))
    server = Server(incarnation=1, has_scripts=True, epoch=1, outbox=outbox)
    ledger = Ledger(epoch=1, incarnation=1, cursor=(1, 0))
    return State(
        server=server,
        ledger=ledger,
        callers=(Caller(),) * len(scope.programs),
        gates=(None,) * scope.gates,
        copy=server if scope.copies_max else None,
        backup=ledger if "ledger restored" in scope.faults else None,
    )


def is_unlocked(state: State, rules: Rules) -> bool:
    """Return whether nobody has the lock of the shard's row."""
    if not rules.gate_locks:
        return True
    return state.persister is None and not any(gate and gate.is_alive for gate in state.gates)


def why_to_recover(server: Server, ledger: Ledger) -> bool:
    """Return whether the gate must recover the server before it is used."""
    return (
        server.incarnation != ledger.incarnation
        or server.outbox is None
        or not ledger.epoch == server.epoch == server.outbox.last[0]
        or server.outbox.last < ledger.cursor
    )
