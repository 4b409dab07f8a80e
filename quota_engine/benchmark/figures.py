"""
Figures: what was measured, with its spread, and how it compares with the base of its section.

A ratio is the median of the ratios of each round: both were measured within moments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One thing measured: the median, the least and the greatest of its rounds."""

    name: str
    unit: str
    median: float
    low: float
    high: float
    rounds: int
    #: This divided by the base of the section; None for the base, and where there is none.
    ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Figures that belong together. ``base``: the figure that the ratios are to."""

    title: str
    note: str
    base: str | None
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where it was measured."""

    cpus: int
    python: str
    redis: str
    postgresql: str
    #: Processes that wanted to run, on average over the last minute, before it began.
    load: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run."""

    machine: Machine
    seconds: float
    sections: tuple[Section, ...]


def figure_of(
    name: str, unit: str, samples: Sequence[float], base: Sequence[float] | None = None
) -> Figure:
    """Return the figure of some rounds; ``base`` has the base's sample of each round."""
    ratio = None
    if base is not None:
        ratio = median(one / other for one, other in zip(samples, base, strict=True) if other)
    return Figure(
        name=name,
        unit=unit,
        median=median(samples),
        low=min(samples),
        high=max(samples),
        rounds=len(samples),
        ratio=ratio,
    )


def section_of(
    title: str, note: str, unit: str, samples: Mapping[str, Sequence[float]], base: str | None
) -> Section:
    """Return a section of one unit, from the samples of each name."""
    against = None if base is None else samples[base]
    figures = (
        figure_of(name, unit, values, None if name == base else against)
        for name, values in samples.items()
    )
    return Section(title=title, note=note, base=base, figures=tuple(figures))


def in_turn(names: Iterable[str], round_number: int) -> list[str]:
    """Return the order of a round: every other one backwards, so that no place is better."""
    ordered = list(names)
    return ordered if round_number % 2 == 0 else ordered[::-1]
