"""
The Lua scripts on one server: lua/lib/quotas.lua, debit, place_hold, capture_hold, release_hold,
hydrate_quota, unload_quota, drop_quota and trim_outbox. Each is one atomic step.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.model.logs import Log, cost, spendable, sums
from tests.model.world import Duty, Entry, Id, Outbox, Rules, Scope, Server, Snapshot

#: The script did nothing and the caller must do something first, or cannot go on at all.
REFUSED = "refused"


class Answer(NamedTuple):
    """What a script said, the server after it, and the logs of the entries that it made."""

    outcome: str
    server: Server
    logs: tuple[Log, ...] = ()


def is_loaded(server: Server, rules: Rules) -> bool:
    """Return whether scripts would take the quota as it is."""
    if server.quota is None:
        return False
    is_newest = server.issued in (None, len(server.quota))
    return is_newest or not rules.scripts_compare_the_version


def call(
    server: Server,
    operation: str,
    epoch: int,
    scope: Scope,
    rules: Rules,
    *,
    is_due: bool,
    is_known: bool = False,
) -> Answer:
    """Run one operation's script, or with "catch up" only what is due."""
    refused = Answer(REFUSED, server)
    if rules.scripts_compare_the_epoch and server.epoch != epoch:
        return refused
    if not is_loaded(server, rules):
        return Answer("not loaded", server)
    assert server.quota is not None
    if operation in server.operations and rules.operations_are_remembered:
        is_there = server.outbox is not None or not rules.scripts_need_the_outbox
        return Answer("replayed", server) if is_there else refused
    verb, _, subject = operation.partition(" ")
    if server.is_frozen and cost(operation):
        return Answer("frozen", server)
    log = server.quota
    due = tuple(f"expire {hold}" for hold in sums(log, scope.granted).open_holds if is_due)
    log += due
    if operation == "catch up":
        return _commit(server, due, epoch, rules) if due else refused
    room = spendable(log, scope.granted)
    if not rules.held_units_are_not_spendable:
        room += sums(log, scope.granted).held
    if cost(operation) > max(room, 0):
        return Answer("denied", server)
    if verb in ("capture", "release") and subject not in sums(log, scope.granted).open_holds:
        known = {f"{verb_} {subject}" for verb_ in ("place", "capture", "release", "expire")}
        if not is_known and not known & (server.operations | set(due)):
            return Answer("hold not found", server)
        if verb == "release" or not rules.captures_after_expiry_are_charged:
            return Answer("refused for good" if verb == "capture" else "closed", server)
    if not rules.expiries_are_entries and cost(operation):
        due = ()
    return _commit(server, (*due, operation), epoch, rules)


def _commit(server: Server, operations: tuple[str, ...], epoch: int, rules: Rules) -> Answer:
    """Append the entries, which the outbox may refuse; then write the state."""
    assert server.quota is not None
    outbox, log = server.outbox, server.quota
    if outbox is None:
        if rules.scripts_need_the_outbox:
            return Answer(REFUSED, server)
        outbox = Outbox((0, 0), ())
    if epoch < outbox.last[0]:
        if rules.the_outbox_refuses_older_epochs:
            return Answer(REFUSED, server)
        epoch = outbox.last[0]
    logs = []
    for operation in operations:
        log = (*log, operation)
        logs.append(log)
        n = outbox.last[1] + 1 if outbox.last[0] == epoch else 0
        outbox = Outbox((epoch, n), (*outbox.entries, Entry((epoch, n), log)))
    after = server._replace(
        outbox=outbox,
        quota=log,
        issued=len(log),
        operations=server.operations | set(operations),
    )
    return Answer("applied", after, tuple(logs))


def hydrate(server: Server, snapshot: Snapshot, rules: Rules) -> Server | None:
    """Load the quota, or return None: fenced, present already, or entries wait to be persisted."""
    if rules.hydration_compares_the_epoch and server.epoch != snapshot.epoch:
        return None
    if is_loaded(server, rules):
        return None
    if rules.hydration_compares_the_version and server.issued not in (None, len(snapshot.log)):
        return None
    back = frozenset(snapshot.log) if rules.hydration_brings_operations_back else frozenset()
    return server._replace(quota=snapshot.log, is_frozen=snapshot.is_frozen, operations=back)


def unload(server: Server, duty: Duty, granted: int) -> Server | None:
    """Forget an idle quota, or return None: fenced, absent, frozen, held or not drained."""
    if server.epoch != duty.epoch or server.quota is None or server.is_frozen:
        return None
    if len(server.quota) != duty.version or server.issued not in (None, duty.version):
        return None
    if sums(server.quota, granted).open_holds:
        return None
    return server._replace(quota=None, operations=frozenset())


def drop(server: Server, duty: Duty, rules: Rules) -> Server | None:
    """Forget a quota that the ledger has whole, or return None: fenced, or it has changed."""
    if server.epoch != duty.epoch:
        return None
    is_same = (server.issued, server.quota) == (duty.issued, duty.quota)
    if rules.drops_compare_the_state and not is_same:
        return None
    issued = None if server.issued is None else duty.version
    return server._replace(quota=None, operations=frozenset(), is_frozen=False, issued=issued)


def trim(server: Server, epoch: int, last: Id, rules: Rules) -> Server | None:
    """Cut the outbox after ``last``, or return None: fenced, or nothing would go."""
    if server.outbox is None:
        return None
    if rules.trims_compare_the_epoch and not (server.has_scripts and server.epoch == epoch):
        return None
    entries = tuple(entry for entry in server.outbox.entries if entry.id > last)
    return server._replace(outbox=server.outbox._replace(entries=entries))
