"""What a seeded fault is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """One seeded fault and the tests that must see it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
