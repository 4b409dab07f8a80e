"""What must be true in every state, and where everything must be able to end."""

from __future__ import annotations

from tests.model.callers import acknowledged
from tests.model.faults import stored
from tests.model.logs import Log, first_wrong, is_prefix
from tests.model.world import Scope, State, why_to_recover


def broken_in(state: State, scope: Scope) -> str:
    """Return which promise this state breaks, or nothing."""
    ledger = state.ledger
    shown = stored(state)
    if state.persister is not None:
        shown |= {entry.log[-1] for entry in state.persister.entries if entry.log}
    missing = acknowledged(state) - state.lost - shown
    if missing:
        return f"lost: {', '.join(sorted(missing))}"
    if len(set(ledger.log)) < len(ledger.log) and not state.has_forgotten:
        return "an operation is twice in the ledger"
    wrong = first_wrong(ledger.log, scope.granted)
    if wrong and not state.has_forgotten:
        return f"the ledger has {wrong}, which it should not have admitted"
    if ledger.quarantine and not _are_two_histories(state.issued):
        return "something is quarantined, and there is one history"
    if ledger.epoch - 1 > state.faults + state.gate_faults:
        return "more epochs than faults: gates fence each other out"
    if is_settled(state, scope) and not ledger.is_frozen:
        return _unsettled(state)
    return ""


def _unsettled(state: State) -> str:
    """Return what is wrong where all is quiet."""
    server, log = state.server, state.ledger.log
    if server.quota is not None and server.issued not in (None, len(server.quota)):
        return ""  # the next caller loads it again
    if server.quota is not None and server.quota != log:
        return "Redis and the ledger differ for good"
    if server.quota is None and server.issued not in (None, len(log)):
        return "the quota can never be loaded again"
    return ""


def is_settled(state: State, scope: Scope) -> bool:
    """
    Return whether all is quiet: everybody is done, everything persisted, the server open.

    Of a frozen quota only the persisting must come to rest: callers wait for a person.
    """
    outbox = state.server.outbox
    if state.persister or any(state.gates) or state.old or not state.server.has_scripts:
        return False
    if outbox is None or why_to_recover(state.server, state.ledger):
        return False
    if outbox.last > state.ledger.cursor:
        return False
    programs = zip(state.callers, scope.programs, strict=True)
    is_done = all(caller.place == len(program) for caller, program in programs)
    return is_done or state.ledger.is_frozen


def _are_two_histories(logs: frozenset[Log]) -> bool:
    """Return whether servers have acknowledged logs of which neither begins the other."""
    ordered = sorted(logs, key=len)
    return any(
        not is_prefix(one, other)
        for place, one in enumerate(ordered)
        for other in ordered[place + 1 :]
    )
