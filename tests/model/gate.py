"""
The recovery gate, step by step: quota_engine/jobs/gate.py, gate_server.py, recognition.py.

Each step may be the last before a crash, and PostgreSQL may end the session of a gate that was
stopped: what it then still does to Redis, it does without a lock.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.model.persisting import append, in_ledger, refound
from tests.model.world import (
    Entry,
    Gate,
    Ledger,
    Move,
    Moves,
    Outbox,
    Rules,
    Scope,
    Server,
    State,
    is_unlocked,
    why_to_recover,
)


def moves(state: State, scope: Scope, rules: Rules) -> Moves:
    """Yield the next step of each gate, its crash, and the beginning of another."""
    for number, gate in enumerate(state.gates):
        if gate is None:
            yield from _begin(state, number, rules)
        else:
            yield from _Steps(state, number, gate, rules).all()
            yield from _harm(state, number, gate, scope)


def _begin(state: State, number: int, rules: Rules) -> Moves:
    server, ledger = state.server, state.ledger
    if not why_to_recover(server, ledger):
        if not server.has_scripts:
            loaded = server._replace(has_scripts=True)
            yield Move(
                "the gate loads the scripts, and that is all", state._replace(server=loaded)
            )
        return
    if not is_unlocked(state, rules):
        return
    seen = [ledger.epoch, server.epoch or 0]
    if server.outbox is not None and rules.gate_goes_above_the_outbox:
        seen.append(server.outbox.last[0])
    gate = Gate("locked", server.incarnation, max(seen) + 1)
    yield Move(f"gate {number + 1} begins epoch {gate.epoch}", _with(state, number, gate))


def _with(state: State, number: int, gate: Gate | None) -> State:
    gates = (*state.gates[:number], gate, *state.gates[number + 1 :])
    return state._replace(gates=gates)


def _harm(state: State, number: int, gate: Gate, scope: Scope) -> Moves:
    if state.gate_faults < scope.gate_crashes_max:
        crashed = _with(state, number, None)._replace(gate_faults=state.gate_faults + 1)
        yield Move(f"gate {number + 1} crashes, {gate.step}", crashed, is_fault=True)
    if gate.is_alive and state.gate_faults < scope.zombies_max:
        zombie = _with(state, number, gate._replace(is_alive=False))
        zombie = zombie._replace(gate_faults=state.gate_faults + 1)
        yield Move(f"gate {number + 1} is paused and loses its session", zombie, is_fault=True)


@dataclass(slots=True)
class _Steps:
    state: State
    number: int
    gate: Gate
    rules: Rules

    def all(self) -> Moves:
        name = f"gate {self.number + 1}"
        if self.state.server.incarnation != self.gate.incarnation:
            yield Move(f"{name}: another server answers", self.over())
            return
        step = {
            "locked": self.rewrite,
            "rewritten": self.mark,
            "marked": self.absorb,
            "absorbed": self.compare,
            "compared": self.drop,
            "dropped": self.open,
            "opened": self.commit,
            "committed": self.load,
        }[self.gate.step]
        after = step()
        if after is None:
            yield Move(f"{name} gives up, {self.gate.step}", self.over())
        else:
            gate = after.gates[self.number]
            yield Move(f"{name} has {gate.step if gate else 'loaded the scripts'}", after)

    def over(self) -> State:
        return _with(self.state, self.number, None)

    def next(self, step: str, server: Server | None = None, **changes: object) -> State:
        """Return the state after a step that changed the server, or the gate itself."""
        gate = self.gate._replace(step=step, **changes)  # type: ignore[arg-type]
        state = self.state if server is None else self.state._replace(server=server)
        return _with(state, self.number, gate)

    def rewrite(self) -> State:
        if not self.rules.gate_rewrites_the_file:
            return self.next("rewritten")
        return self.next("rewritten", self.state.server._replace(torn=None))

    def mark(self) -> State | None:
        """Begin the epoch in the outbox, and take ``@epoch`` away, in one transaction."""
        server, marker = self.state.server, Entry((self.gate.epoch, 0), None)
        entries: tuple[Entry, ...] = ()
        if server.outbox is not None:
            if server.outbox.last >= marker.id:
                return None
            entries = server.outbox.entries
        outbox = Outbox(marker.id, (*entries, marker))
        return self.next("marked", server._replace(outbox=outbox, epoch=None))

    def absorb(self) -> State | None:
        """Append to the ledger what the outbox holds and it lacks; in the gate's transaction."""
        outbox = self.state.server.outbox
        if not self.gate.is_alive or outbox is None:
            return None
        ledger = self.state.ledger
        found = [
            entry
            for entry in outbox.entries
            if entry.log is not None and entry.id < (self.gate.epoch, 0)
        ]
        if not self.rules.gate_reads_below_the_cursor:
            found = [entry for entry in found if entry.id > ledger.cursor]
        unknown = [entry for entry in found if not _is_known(ledger, entry, self.rules)]
        if self.rules.gate_absorbs:
            ledger = append(ledger, unknown, self.rules)
        return self.next("absorbed", ledger=ledger)

    def compare(self) -> State | None:
        """Compare the loaded quota with the head that this transaction sees."""
        ledger, log = self.gate.ledger, self.state.server.quota
        if not self.gate.is_alive or ledger is None:
            return None
        if self.rules.chains_are_compared:
            is_equal = log == ledger.log
        else:
            is_equal = log is not None and len(log) == len(ledger.log)
        may_stay = log is None or is_equal or (ledger.is_frozen and len(log) >= len(ledger.log))
        return self.next("compared", differs=not may_stay)

    def drop(self) -> State:
        server, ledger = self.state.server, self.gate.ledger
        assert ledger is not None
        if self.gate.differs and self.rules.gate_drops_what_differs:
            server = server._replace(quota=None, operations=frozenset(), is_frozen=False)
        elif ledger.is_frozen and server.quota is not None:
            server = server._replace(is_frozen=True)
        return self.next("dropped", server)

    def open(self) -> State | None:
        """Empty ``versions`` and set ``@epoch``, if the marker is the newest entry."""
        server = self.state.server
        is_newest = server.outbox is not None and server.outbox.last == (self.gate.epoch, 0)
        if not is_newest and self.rules.gate_opens_only_at_its_marker:
            return None
        issued = None if self.rules.gate_empties_versions else server.issued
        return self.next("opened", server._replace(epoch=self.gate.epoch, issued=issued))

    def commit(self) -> State | None:
        ledger = self.gate.ledger
        if not self.gate.is_alive or ledger is None:
            return None
        ledger = ledger._replace(
            epoch=self.gate.epoch,
            incarnation=self.gate.incarnation,
            cursor=(self.gate.epoch, 0),
        )
        after = self.next("committed", ledger=None, is_alive=False, differs=False)
        return refound(after._replace(ledger=ledger))

    def load(self) -> State:
        loaded = self.state.server._replace(has_scripts=True)
        return self.over()._replace(server=loaded)


def _is_known(ledger: Ledger, entry: Entry, rules: Rules) -> bool:
    """Return whether the ledger or the quarantine has it; below the cursor, also its operation."""
    log = entry.log
    assert log is not None
    if (entry.id, log) in ledger.quarantine:
        return True
    if rules.chains_are_compared:
        is_recorded = log == ledger.log[: len(log)]
    else:
        is_recorded = len(log) <= len(ledger.log)
    return is_recorded or (entry.id <= ledger.cursor and log[-1] in in_ledger(ledger))
