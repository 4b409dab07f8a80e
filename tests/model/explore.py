"""Every interleaving: all states that can be reached, and whether each can still end well."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import chain

from tests.model import callers, faults, gate, persisting
from tests.model.promises import broken_in, is_settled
from tests.model.world import Move, Moves, Rules, Scope, State, first_state


@dataclass(frozen=True, slots=True)
class Found:
    """What an exploration has found: nothing broken, or the shortest way to what is."""

    scope: str
    states: int
    moves: int
    #: States in which all is quiet.
    settled: int
    broken: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it on one line, and the trace below."""
        head = (
            f"{self.scope}: {self.states:,} states, {self.moves:,} moves, {self.settled:,} quiet"
        )
        if not self.broken:
            return head
        return "\n".join(
            [f"{head}; BROKEN: {self.broken}", *(f"    {step}" for step in self.trace)]
        )


def moves_of(state: State, scope: Scope, rules: Rules) -> Moves:
    """Yield everything that may happen next."""
    return chain(
        callers.moves(state, scope, rules),
        persisting.moves(state, scope, rules),
        gate.moves(state, scope, rules),
        faults.moves(state, scope, rules),
    )


class _Exploration:
    """Breadth first, so the first trace to something broken is a shortest one."""

    def __init__(self, scope: Scope, rules: Rules) -> None:
        self.scope, self.rules = scope, rules
        first = first_state(scope)
        self.states = [first]
        self.places = {first: 0}
        self.parents = array("l", [-1])
        #: Moves that are no faults, as pairs (from, to): the ways to an end.
        self.ways_from, self.ways_to = array("l"), array("l")
        self.settled: list[int] = []
        self.moves = 0

    def run(self) -> Found:
        place = 0
        while place < len(self.states):
            state = self.states[place]
            broken = broken_in(state, self.scope)
            if broken:
                return self.found(broken, place)
            if is_settled(state, self.scope):
                self.settled.append(place)
            for move in moves_of(state, self.scope, self.rules):
                if move.broken:
                    return self.found(move.broken, place, move.label)
                self.take(place, move)
            if len(self.states) > self.scope.states_max:
                return self.found(f"more than {self.scope.states_max:,} states", place)
            place += 1
        stuck = self.first_stuck()
        return self.found("" if stuck is None else "nothing can end any more", stuck)

    def take(self, place: int, move: Move) -> None:
        self.moves += 1
        known = self.places.get(move.state)
        if known is None:
            known = self.places[move.state] = len(self.states)
            self.states.append(move.state)
            self.parents.append(place)
        if not move.is_fault:
            self.ways_from.append(place)
            self.ways_to.append(known)

    def first_stuck(self) -> int | None:
        """Return the first state from which no way without a fault leads to an end."""
        before: list[list[int]] = [[] for _ in self.states]
        for start, end in zip(self.ways_from, self.ways_to, strict=True):
            before[end].append(start)
        can_end = bytearray(len(self.states))
        waiting = list(self.settled)
        for place in waiting:
            can_end[place] = 1
        while waiting:
            for start in before[waiting.pop()]:
                if not can_end[start]:
                    can_end[start] = 1
                    waiting.append(start)
        stuck = can_end.find(0)
        return None if stuck < 0 else stuck

    def found(self, broken: str, place: int | None = None, last: str = "") -> Found:
        trace = self.trace(place) if broken and place is not None else []
        trace += [last] if last else []
        return Found(
            self.scope.name, len(self.states), self.moves, len(self.settled), broken, tuple(trace)
        )

    def trace(self, place: int) -> list[str]:
        """Return the labels of the moves that lead to a state."""
        steps: list[str] = []
        while (parent := self.parents[place]) >= 0:
            reached = self.states[place]
            moves = moves_of(self.states[parent], self.scope, self.rules)
            steps.append(next(move.label for move in moves if move.state == reached))
            place = parent
        return steps[::-1]


def explore(scope: Scope, rules: Rules | None = None) -> Found:
    """Follow every interleaving of a scope, under the protocol's rules or with one turned off."""
    return _Exploration(scope, rules or Rules()).run()
