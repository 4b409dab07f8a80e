"""
Callers of the engine: quota_engine/flows.py over _async/transport.py.

Each repeats an operation, under the same id, until it has an answer.
"""

from __future__ import annotations

from tests.model import scripts
from tests.model.logs import cost, spendable_of_union
from tests.model.world import Caller, Move, Moves, Rules, Scope, Server, Snapshot, State


def moves(state: State, scope: Scope, rules: Rules) -> Moves:
    """Yield every caller's next steps."""
    for number, caller in enumerate(state.callers):
        if caller.place < len(scope.programs[number]):
            yield from _Steps(state, number, scope, rules).all()
    if scope.has_expiry and not state.is_due and _is_placed(state):
        yield Move("the hold's time is over", state._replace(is_due=True))
    if state.old is not None:
        callers = tuple(caller._replace(is_on_old=False) for caller in state.callers)
        yield Move("the old master dies", state._replace(old=None, callers=callers))


def _is_placed(state: State) -> bool:
    return any(log[-1].startswith("place") for log in state.issued)


def acknowledged(state: State) -> set[str]:
    """Return the operations that a server has ever applied."""
    return {log[-1] for log in state.issued}


class _Steps:
    """What one caller may do next."""

    def __init__(self, state: State, number: int, scope: Scope, rules: Rules) -> None:
        self.state, self.number, self.scope, self.rules = state, number, scope, rules
        self.caller: Caller = state.callers[number]
        self.name = f"caller {number + 1}"
        self.operation = scope.programs[number][self.caller.place]

    def all(self) -> Moves:
        caller, ledger = self.caller, self.state.ledger
        if (caller.epoch, caller.incarnation) != (ledger.epoch, ledger.incarnation):
            # the gate says which epoch is open, and on which server
            knows = self.with_caller(epoch=ledger.epoch, incarnation=ledger.incarnation)
            yield Move(f"{self.name} asks the gate: epoch {ledger.epoch}", knows)
        if caller.is_on_old:
            moved = self.with_caller(is_on_old=False)
            yield Move(f"{self.name} connects to the new master", moved)
        server = self.state.old if caller.is_on_old else self.state.server
        if server is None or not (
            server.has_scripts or not self.rules.only_the_gate_loads_scripts
        ):
            return
        is_checked = self.rules.connections_compare_the_incarnation and not caller.is_on_old
        if is_checked and server.incarnation != caller.incarnation:
            return
        if caller.snapshot is not None:
            yield from self.hydrate(server, caller.snapshot)
        else:
            yield from self.call(server)

    def with_caller(self, base: State | None = None, **changes: object) -> State:
        """Return the state with this caller changed."""
        state = self.state if base is None else base
        caller = self.caller._replace(**changes)  # type: ignore[arg-type]
        callers = (*state.callers[: self.number], caller, *state.callers[self.number + 1 :])
        return state._replace(callers=callers)

    def with_server(self, server: Server) -> State:
        return (
            self.state._replace(old=server)
            if self.caller.is_on_old
            else self.state._replace(server=server)
        )

    def done(self, base: State | None = None, *, ends: bool = False) -> State:
        """Return the state when this operation has its answer; ``ends``: the rest is pointless."""
        length = len(self.scope.programs[self.number])
        place = length if ends else self.caller.place + 1
        return self.with_caller(base, place=place, is_known=False)

    def hydrate(self, server: Server, snapshot: Snapshot) -> Moves:
        after = scripts.hydrate(server, snapshot, self.rules)
        if after is None:
            yield Move(f"{self.name}'s hydration is refused", self.with_caller(snapshot=None))
        else:
            loaded = self.with_caller(self.with_server(after), snapshot=None)
            yield Move(f"{self.name} hydrates version {len(snapshot.log)}", loaded)

    def call(self, server: Server) -> Moves:
        answer = scripts.call(
            server,
            self.operation,
            self.caller.epoch,
            self.scope,
            self.rules,
            is_due=self.state.is_due,
            is_known=self.caller.is_known,
        )
        said = f"{self.name}: {self.operation} {answer.outcome}"
        match answer.outcome:
            case "not loaded":
                ledger = self.state.ledger
                snapshot = Snapshot(ledger.epoch, ledger.log, ledger.is_frozen)
                read = self.with_caller(snapshot=snapshot)
                yield Move(f"{self.name} reads the ledger at {len(ledger.log)}", read)
            case "hold not found":
                yield from self.ask_the_ledger(server)
            case "applied":
                yield from self.applied(server, answer, said)
            case "replayed":
                # what the server in use answers for must be there, whatever was lost before
                again = set() if self.caller.is_on_old else {self.operation}
                lost = self.state.lost - again
                yield Move(said, self.done(self.state._replace(lost=lost)))
            case "refused for good":
                yield Move(said, self.done(), broken="a capture is refused")
            case "denied" | "frozen" | "closed":
                yield Move(said, self.done(ends=bool(cost(self.operation))))

    def ask_the_ledger(self, server: Server) -> Moves:
        """Ask whether the hold was ever placed; "no" counts once the ledger knows all."""
        assert server.quota is not None
        ledger, subject = self.state.ledger, self.operation.split()[1]
        if self.operation in ledger.log:
            yield Move(f"{self.name}: {self.operation} is answered by the ledger", self.done())
        elif f"place {subject}" in ledger.log:
            known = self.with_caller(is_known=True)
            yield Move(f"{self.name} learns that the hold was placed", known)
        elif len(ledger.log) >= len(server.quota):
            is_lost = f"place {subject}" in self.state.lost
            broken = "" if is_lost else "a hold is forgotten that no fault has lost"
            yield Move(f"{self.name}: hold not found", self.done(ends=True), broken=broken)

    def applied(self, server: Server, answer: scripts.Answer, said: str) -> Moves:
        state, broken = self.state, ""
        operations = {log[-1] for log in answer.logs}
        if self.caller.is_on_old or server.incarnation < state.ledger.incarnation:
            # a master that was superseded: only the other one counts, until the gate has absorbed
            # what this one holds
            lost = state.lost | operations
        else:
            broken = self.broken_by(operations)
            lost = state.lost - operations
        said += f" as version {len(answer.logs[-1])}" + (" on old" * self.caller.is_on_old)
        base = self.with_server(answer.server)._replace(
            issued=state.issued | set(answer.logs), lost=lost
        )
        yield Move(said, self.done(base), broken=broken)
        if state.lost_replies < self.scope.lost_replies_max:
            unanswered = base._replace(lost_replies=state.lost_replies + 1)
            yield Move(f"{said}, the answer is lost", unanswered, broken=broken)

    def broken_by(self, operations: set[str]) -> str:
        """Return which promise an admission breaks, seen from outside: all that was ever acked."""
        truth = acknowledged(self.state) - self.state.lost
        if operations & truth:
            return "" if self.state.has_forgotten else "an operation is applied twice"
        others = truth | (operations - {self.operation})
        room = spendable_of_union(others, self.scope.granted, is_due=self.state.is_due)
        if cost(self.operation) > max(room, 0):
            return "units are given back: more is admitted than is left"
        return ""
