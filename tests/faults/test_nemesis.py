"""The nemesis runs, its seed decides its faults, and it sees an engine that is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from tools.nemesis.arena import ROOT
from tools.nemesis.injecting import Injector, method_of
from tools.nemesis.running import VIOLATED
from tools.nemesis.schedule import KINDS, POWER_LOSS, schedule

WAIT_SECONDS = 400


def nemesis(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Make a run; return its exit code and its summary."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.nemesis", "--json", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_seed_decides_which_fault_comes_when() -> None:
    assert schedule(7, 60) == schedule(7, 120)[: len(schedule(7, 60))]
    assert schedule(7, 60) != schedule(8, 60)


def test_every_kind_of_fault_comes_about_equally_often() -> None:
    counts = Counter(fault.kind for fault in schedule(7, 600))
    assert counts.keys() == set(KINDS)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_every_kind_of_fault_can_be_done() -> None:
    for kind in (*KINDS, POWER_LOSS):
        assert callable(getattr(Injector, method_of(kind))), kind.name


@pytest.mark.fault_slow
@pytest.mark.row(
    68,
    injection="`make nemesis`: for minutes or hours, random faults every few seconds by a seed",
    outcome="every invariant holds, and every client was told the truth",
)
def test_a_short_run_violates_nothing() -> None:
    code, summary = nemesis("--seconds", "12", "--seed", "1", "--threads", "2")
    assert summary["violations"] == []
    assert summary["not_done"] == []
    assert code == 0
    assert summary["acknowledged"] == summary["acknowledged_in_ledger"] > 0
    assert sum(summary["faults"].values()) == len(summary["schedule"]) > 0


@pytest.mark.fault_slow
@pytest.mark.parametrize(
    "sabotage", ["no-dedupe", "hydrate-without-version-check", "trim-before-commit"]
)
def test_a_broken_engine_is_seen(sabotage: str) -> None:
    code, summary = nemesis("--seconds", "60", "--seed", "5", "--sabotage", sabotage)
    assert code == VIOLATED
    assert summary["violations"] != []
