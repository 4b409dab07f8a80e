"""The nemesis runs, its seed decides its faults, and it sees an engine that is broken."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.servers import PREFIX
from tests.workers import wait_until
from tools.nemesis.arena import ROOT
from tools.nemesis.injecting import Injector, method_of
from tools.nemesis.running import VIOLATED
from tools.nemesis.schedule import KINDS, POWER_LOSS, schedule

#: A broken engine may stop for good: clients give up, and the drain, after minutes.
WAIT_SECONDS = 600


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


RUN = """
import sys, time
from contextlib import ExitStack
from tools.nemesis.stopping import unwind_when_told
unwind_when_told()
with ExitStack() as stack:
    stack.callback(print, "ended", flush=True)
    print("began", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_unwinds(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", RUN], cwd=ROOT, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"began\n"
        run.send_signal(number)
        assert run.stdout.read() == b"ended\n"
    assert run.returncode == 128 + number


def below(pid: int) -> set[int]:
    """Return every process that this one started, and those that these did."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    parents = {
        int(child): int(parent) for child, parent in map(str.split, listed.stdout.splitlines())
    }
    found: set[int] = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@pytest.mark.fault_slow
def test_a_run_that_is_told_to_stop_leaves_nothing_behind(tmp_path: Path) -> None:
    with (tmp_path / "said").open("wb") as said:
        run = subprocess.Popen([sys.executable, "-m", "tools.nemesis"], cwd=ROOT, stderr=said)
    try:
        wait_until(lambda: ", fault " in (tmp_path / "said").read_text(), "faults happen", 180)
        started = below(run.pid)
        assert started
        run.terminate()
        assert run.wait(120) == 128 + signal.SIGTERM
    finally:
        run.kill()
    assert [pid for pid in started if is_alive(pid)] == []
    assert list(Path("/tmp").glob(f"{PREFIX}{run.pid}-*")) == []


def is_alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and was not waited for does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


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
    assert summary["paid_by_others"] > 0


@pytest.mark.fault_slow
@pytest.mark.parametrize(
    "sabotage", ["no-dedupe", "hydrate-without-version-check", "trim-before-commit"]
)
def test_a_broken_engine_is_seen(sabotage: str) -> None:
    code, summary = nemesis("--seconds", "60", "--seed", "5", "--sabotage", sabotage)
    assert code == VIOLATED
    assert summary["violations"] != []
