"""What may go wrong, once per fault of the scope, between any two steps of anybody."""

from __future__ import annotations

from collections.abc import Iterable

from tests.model import scripts
from tests.model.callers import acknowledged
from tests.model.logs import Log
from tests.model.persisting import in_ledger
from tests.model.world import Entry, Move, Moves, Outbox, Rules, Scope, Server, State, is_unlocked

#: Faults after which a server may come back with an older copy of its data.
BRING_BACK = frozenset({"restart", "promotion", "re-promotion"})
ALL = BRING_BACK | {
    "power cut in a script",
    "wipe",
    "script flush",
    "failback",
    "quota deleted",
    "outbox deleted",
    "versions deleted",
    "operations deleted",
    "ledger restored",
}


def moves(state: State, scope: Scope, rules: Rules) -> Moves:
    """Yield every fault that may happen now, and the copies that a later one brings back."""
    if state.faults >= scope.faults_max:
        return
    is_copied = scope.faults & BRING_BACK and state.copies < scope.copies_max
    if is_copied and state.copy != state.server:
        copied = state._replace(copy=state.server, copies=state.copies + 1)
        yield Move("(a copy of the server's data is kept)", copied)
    is_backed_up = state.backup is not None and state.backup != state.ledger
    if is_backed_up and state.copies < scope.copies_max and is_unlocked(state, rules):
        backed_up = state._replace(backup=state.ledger, copies=state.copies + 1)
        yield Move("(a backup of the ledger is kept)", backed_up)
    begun = state._replace(faults=state.faults + 1)
    for fault in sorted(scope.faults):
        for label, after in _FAULTS[fault](begun, scope, rules):
            yield Move(label.upper(), after, is_fault=True)


Happened = Iterable[tuple[str, State]]


def stored(state: State) -> set[str]:
    """Return the operations that the ledger or the server in use can still show."""
    entries = state.server.outbox.entries if state.server.outbox is not None else ()
    return in_ledger(state.ledger) | {entry.log[-1] for entry in entries if entry.log}


def _lost(state: State) -> State:
    """Count as lost, permitted, what nothing can show any more; what came back is not lost."""
    there = stored(state)
    return state._replace(lost=(state.lost | acknowledged(state)) - there)


def _restarted(state: State, data: Server, *, has_scripts: bool = False) -> State:
    """Return the state when the server came back with these data, as another incarnation."""
    incarnation = state.incarnations + 1
    server = _replayed(data)._replace(incarnation=incarnation, has_scripts=has_scripts)
    return _lost(state._replace(server=server, incarnations=incarnation))


def _replayed(data: Server) -> Server:
    """Replay the append-only file: half a transaction counts once something stands behind it."""
    torn, outbox = data.torn, data.outbox
    if torn is None or outbox is None or outbox.last[0] == torn.id[0]:
        return data
    entries = tuple(sorted((*outbox.entries, torn), key=lambda entry: entry.id))
    return data._replace(outbox=Outbox(outbox.last, entries), torn=None)


def _sources(state: State) -> Iterable[tuple[str, Server]]:
    yield "with all its data", state.server
    if state.copy is not None and _data(state.copy) != _data(state.server):
        yield "with older data", state.copy


def _data(server: Server) -> Server:
    return server._replace(incarnation=0, has_scripts=False)


def _restart(state: State, scope: Scope, rules: Rules) -> Happened:
    for which, data in _sources(state):
        yield f"restart {which}", _restarted(state, data)


def _power_cut(state: State, scope: Scope, rules: Rules) -> Happened:
    """Cut the power while a script's transaction is written to the file."""
    server = state.server
    for number, caller in enumerate(state.callers):
        program = scope.programs[number]
        if caller.place == len(program) or caller.epoch != server.epoch or server.torn:
            continue
        options = {"is_due": state.is_due, "is_known": caller.is_known}
        operation = program[caller.place]
        answer = scripts.call(server, operation, caller.epoch, scope, rules, **options)
        if server.has_scripts and answer.outcome == "applied":
            outbox = answer.server.outbox
            assert outbox is not None
            torn = Entry(outbox.last, answer.logs[-1])
            yield (
                f"power cut in {operation} of caller {number + 1}",
                _restarted(state, server._replace(torn=torn)),
            )


def _wipe(state: State, scope: Scope, rules: Rules) -> Happened:
    server = Server(state.server.incarnation, state.server.has_scripts)
    yield "flushall", _lost(state._replace(server=server))


def _script_flush(state: State, scope: Scope, rules: Rules) -> Happened:
    if state.server.has_scripts:
        yield "script flush", state._replace(server=state.server._replace(has_scripts=False))


def _promotion(state: State, scope: Scope, rules: Rules) -> Happened:
    """Promote a replica; the old master lives on, and callers are still connected to it."""
    if state.old is not None:
        return
    for which, data in _sources(state):
        promoted = _restarted(state, data._replace(torn=None))
        callers = tuple(caller._replace(is_on_old=True) for caller in state.callers)
        yield (
            f"a replica is promoted {which}",
            promoted._replace(old=state.server, callers=callers),
        )


def _re_promotion(state: State, scope: Scope, rules: Rules) -> Happened:
    """Demote the master and promote it again, maybe with older data: it keeps its scripts."""
    for which, data in _sources(state):
        again = _restarted(state, data._replace(torn=None), has_scripts=state.server.has_scripts)
        yield f"demoted and promoted again {which}", again


def _failback(state: State, scope: Scope, rules: Rules) -> Happened:
    """Go back to the old master, as its operator says (--adopt)."""
    if state.old is not None:
        callers = tuple(caller._replace(is_on_old=False) for caller in state.callers)
        back = state._replace(server=state.old, old=None, callers=callers)
        yield "failback to the old master", _lost(back)


def _quota_deleted(state: State, scope: Scope, rules: Rules) -> Happened:
    if state.server.quota is not None:
        server = state.server._replace(quota=None, is_frozen=False)
        yield "del quota", state._replace(server=server)


def _outbox_deleted(state: State, scope: Scope, rules: Rules) -> Happened:
    if state.server.outbox is not None:
        yield "del outbox", _lost(state._replace(server=state.server._replace(outbox=None)))


def _versions_deleted(state: State, scope: Scope, rules: Rules) -> Happened:
    if state.server.epoch is not None:
        server = state.server._replace(epoch=None, issued=None)
        yield "del versions", state._replace(server=server)


def _operations_deleted(state: State, scope: Scope, rules: Rules) -> Happened:
    if state.server.operations:
        server = state.server._replace(operations=frozenset())
        yield "del operations", state._replace(server=server, has_forgotten=True)


def _ledger_restored(state: State, scope: Scope, rules: Rules) -> Happened:
    """Restore a backup of the ledger, as old as what trims keep is long."""
    backup, outbox = state.backup, state.server.outbox
    if backup is None or backup == state.ledger or outbox is None or not is_unlocked(state, rules):
        return
    kept: set[Log] = {entry.log for entry in outbox.entries if entry.log is not None}
    heads = (state.ledger.log[:n] for n in range(len(backup.log) + 1, len(state.ledger.log) + 1))
    if all(head in kept for head in heads) and state.ledger.quarantine == backup.quarantine:
        yield "the ledger is restored from its backup", state._replace(ledger=backup)


_FAULTS = {
    "restart": _restart,
    "power cut in a script": _power_cut,
    "wipe": _wipe,
    "script flush": _script_flush,
    "promotion": _promotion,
    "re-promotion": _re_promotion,
    "failback": _failback,
    "quota deleted": _quota_deleted,
    "outbox deleted": _outbox_deleted,
    "versions deleted": _versions_deleted,
    "operations deleted": _operations_deleted,
    "ledger restored": _ledger_restored,
}
