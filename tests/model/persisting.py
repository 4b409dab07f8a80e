"""
What carries entries to the ledger, and lets go of them: quota_engine/jobs/persist.py, trim.py and
ledger/appending.py; and the duties that take quotas out of Redis, jobs/unload.py and reconcile.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.model import scripts
from tests.model.logs import Log, sums
from tests.model.world import (
    Batch,
    Duty,
    Entry,
    Id,
    Ledger,
    Move,
    Moves,
    Rules,
    Scope,
    Server,
    State,
    is_unlocked,
)


def append(ledger: Ledger, entries: Iterable[Entry], rules: Rules) -> Ledger:
    """Return the ledger with these entries, in order: recorded if they fit, else quarantined."""
    for entry in entries:
        if entry.log is None:
            continue
        if ledger.is_frozen or not fits(ledger.log, entry.log, rules):
            kept = (*ledger.quarantine, (entry.id, entry.log))
            ledger = ledger._replace(quarantine=kept, is_frozen=True)
        else:
            ledger = ledger._replace(log=(*ledger.log, entry.log[-1]))
    return ledger


def fits(log: Log, extended: Log, rules: Rules) -> bool:
    """Return whether an entry extends a log: by its chain, or only by version and balance."""
    if rules.chains_are_compared:
        return extended[:-1] == log
    return len(extended) - 1 == len(log)


def refound(state: State) -> State:
    """Return the state when what the ledger has got is no longer counted as lost."""
    return state._replace(lost=state.lost - in_ledger(state.ledger))


def in_ledger(ledger: Ledger) -> set[str]:
    """Return the operations that the ledger has, recorded or quarantined."""
    return set(ledger.log) | {log[-1] for _, log in ledger.quarantine}


def moves(state: State, scope: Scope, rules: Rules) -> Moves:
    """Yield the next steps of the persister, of a trim and of a duty."""
    if state.persister is None:
        if is_unlocked(state, rules):
            yield from _read(state)
    else:
        yield from _commit(state, state.persister, rules)
    if scope.has_trim:
        yield from _trim(state, rules)
    if scope.duties:
        yield from _duty(state, scope, rules)
    yield from _sweep(state, scope, rules)


def _servers(state: State) -> Iterable[tuple[str, Server]]:
    yield "server", state.server
    if state.old is not None:
        yield "old", state.old


def _read(state: State) -> Moves:
    for which, server in _servers(state):
        batch = _batch(server, state.ledger)
        if batch:
            label = f"the persister reads {which} up to {batch[-1].id}"
            yield Move(label, state._replace(persister=Batch(batch)))


def _batch(server: Server, ledger: Ledger) -> tuple[Entry, ...]:
    """Return what follows the cursor without a gap; nothing where the shard is stopped."""
    outbox = server.outbox
    if outbox is None:
        return ()
    if server.incarnation != ledger.incarnation or outbox.last[0] != ledger.epoch:
        return ()
    if outbox.last < ledger.cursor:
        return ()
    batch: list[Entry] = []
    cursor: Id = ledger.cursor
    for entry in outbox.entries:
        if entry.id <= ledger.cursor:
            continue
        is_next = entry.id in ((cursor[0], cursor[1] + 1), (entry.id[0], 0))
        if not is_next:
            break
        batch.append(entry)
        cursor = entry.id
    return tuple(batch)


def _commit(state: State, batch: Batch, rules: Rules) -> Moves:
    yield Move("the persister dies before it commits", state._replace(persister=None))
    after = append(state.ledger, batch.entries, rules)
    if not rules.cursor_moves_with_the_entries:
        label = "the persister commits entries, and dies before the cursor"
        yield Move(label, refound(state._replace(ledger=after, persister=None)))
    after = after._replace(cursor=batch.entries[-1].id)
    committed = state._replace(ledger=after, persister=None)
    if committed.server.is_frozen != after.is_frozen and after.is_frozen:
        frozen = committed.server._replace(is_frozen=committed.server.quota is not None)
        label = "the persister commits and marks the quota frozen"
        yield Move(label, refound(committed._replace(server=frozen)))
    yield Move(f"the persister commits up to {after.cursor}", refound(committed))


def _trim(state: State, rules: Rules) -> Moves:
    if state.trimmer is None:
        cursor = state.ledger.cursor
        if not rules.trims_wait_for_the_commit and state.server.outbox is not None:
            cursor = max(cursor, state.server.outbox.last)
        if state.backup is not None:  # what a restored ledger may lack is kept for long enough
            cursor = min(cursor, state.backup.cursor)
        if any(_has_up_to(server, cursor) for _, server in _servers(state)):
            decided = state._replace(trimmer=(state.ledger.epoch, cursor))
            yield Move(f"a trim up to {cursor} is decided", decided)
        return
    epoch, last = state.trimmer
    done = state._replace(trimmer=None)
    yield Move("the trim is given up", done)
    for which, server in _servers(state):
        after = scripts.trim(server, epoch, last, rules)
        if after is not None and after != server:
            trimmed = (
                done._replace(server=after) if which == "server" else done._replace(old=after)
            )
            yield Move(f"the trim up to {last} of epoch {epoch} is done on {which}", trimmed)


def _has_up_to(server: Server, last: Id) -> bool:
    """Return whether more than a marker would go."""
    entries = server.outbox.entries if server.outbox is not None else ()
    return any(entry.log is not None and entry.id <= last for entry in entries)


def _duty(state: State, scope: Scope, rules: Rules) -> Moves:
    server, ledger = state.server, state.ledger
    if state.duty is not None:
        done = state._replace(duty=None)
        yield Move(f"the {state.duty.name} is given up", done)
        if server.has_scripts:
            if state.duty.name == "unload":
                after = scripts.unload(server, state.duty, scope.granted)
            else:
                after = scripts.drop(server, state.duty, rules)
            if after is not None:
                label = f"the {state.duty.name} of version {state.duty.version} is done"
                yield Move(label, done._replace(server=after))
        return
    if server.quota is None or not server.quota:
        return
    duty = Duty("unload", ledger.epoch, len(ledger.log), None, None)
    if "unload" in scope.duties and not sums(server.quota, scope.granted).open_holds:
        yield Move("an unload is decided", state._replace(duty=duty))
    is_drained = server.outbox is not None and server.outbox.last <= ledger.cursor
    if "drop" in scope.duties and is_drained and not ledger.is_frozen:
        duty = Duty("drop", ledger.epoch, len(ledger.log), server.issued, server.quota)
        yield Move("a drop is decided", state._replace(duty=duty))


def _sweep(state: State, scope: Scope, rules: Rules) -> Moves:
    """A worker applies what is due, with the catch-up script."""
    server, ledger = state.server, state.ledger
    if not (state.is_due and server.has_scripts and server.incarnation == ledger.incarnation):
        return
    answer = scripts.call(server, "catch up", ledger.epoch, scope, rules, is_due=True)
    if answer.outcome == "applied":
        issued = state.issued | set(answer.logs)
        lost = state.lost - {log[-1] for log in answer.logs}
        swept = state._replace(server=answer.server, issued=issued, lost=lost)
        yield Move("the sweep expires the hold", swept)
