"""
Seeded faults: each is put into a copy of the tree, where the named tests must turn red.

    python -m tools.mutants              all of them
    python -m tools.mutants NAME ...     some
    python -m tools.mutants --list       their names

A fault is an exact text and what stands there instead. A text that no longer occurs is an error:
the fault must follow the code. So is a test that does not run, or that fails without any fault: a
mutant counts as caught only when tests failed that passed before.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300

SHARED = "tests/lua/test_what_scripts_share.py"
PLACE, CAPTURE = "tests/lua/test_place_hold.py", "tests/lua/test_capture_hold.py"
HYDRATE = "tests/lua/test_hydrate_quota.py"
RELEASE = "tests/lua/test_release_hold.py"
DROP, THAW = "tests/lua/test_snapshot_and_drop.py", "tests/integration/test_thaw.py"
RECONCILE = "tests/integration/test_reconcile.py"
PERSIST, TRIM = "tests/integration/test_persist.py", "tests/integration/test_trim.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One seeded fault and the tests that must see it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "a thaw does not ask which operations the ledger has",
        "quota_engine/jobs/thaw_rules.py",
        "if entry.operation_id in known.operations:",
        "if not entry.operation_id:",
        (f"{THAW}::test_a_forged_fork_is_mended_and_keeps_every_charge_that_was_told",),
    ),
    Mutant(
        "a quota is dropped although something was issued since",
        "lua/drop_quota.lua",
        'if (fence[2] or "") ~= issued or (',
        "if (",
        (DROP,),
    ),
    Mutant(
        "a hold whose placing is in quarantine was never placed",
        "quota_engine/ledger/snapshots.py",
        "w.kind = 'hold.placed'",
        "w.kind = 'hold'",
        (f"{THAW}::test_a_hold_of_the_other_history_is_charged_late",),
    ),
    Mutant(
        "a mend leaves no entry",
        "quota_engine/jobs/reconcile.py",
        "            self.driver.drive(flows.settled(command))\n",
        "",
        (f"{RECONCILE}::test_two_who_repair_at_once_leave_one_entry",),
    ),
    Mutant(
        "no memory of operations",
        "lua/lib/operations.lua",
        'redis.call("HSET", key, unpack(state.answers))',
        'redis.call("EXISTS", key)',
        (SHARED,),
    ),
    Mutant(
        "no fingerprint",
        "lua/lib/operations.lua",
        "if reply[2] ~= fingerprint then",
        "if not reply[2] then",
        (SHARED,),
    ),
    Mutant(
        "a repeat is answered with an error",
        "lua/lib/operations.lua",
        "if reply[2] ~= fingerprint then",
        "if reply[2] then",
        (SHARED,),
    ),
    Mutant(
        "a conflicting entry is left out (ON CONFLICT DO NOTHING)",
        "quota_engine/ledger/appending.py",
        "        misfit = self._misfit(log, incoming)\n",
        "        misfit = self._misfit(log, incoming)\n"
        "        if incoming.entry is not None and incoming.entry.version <= log.version:\n"
        "            return\n",
        (PERSIST,),
    ),
    Mutant(
        "trim before commit",
        "quota_engine/jobs/trim.py",
        "    until = min(until, cursor)\n",
        "    until = page.last_id or cursor\n",
        (TRIM,),
    ),
    Mutant(
        "hydration without the version check",
        "lua/hydrate_quota.lua",
        "elseif fence[2] and fence[2] ~= version then",
        "elseif fence[2] and not version then",
        (HYDRATE,),
    ),
    Mutant(
        "holds are not counted in admission",
        "lua/lib/quotas.lua",
        "return math.min(state.remaining - uncovered",
        "return math.min(state.remaining + state.held - uncovered",
        (PLACE,),
    ),
    Mutant(
        "a late capture is refused",
        "lua/capture_hold.lua",
        "local is_late = not hold\n",
        "local is_late = not hold\n"
        "if is_late then\n"
        '  return redis.error_reply("HOLD_CLOSED " .. hold_id)\n'
        "end\n",
        (CAPTURE,),
    ),
    Mutant(
        "tostring on amounts",
        "lua/lib/amounts.lua",
        'return string.format("%d", number)',
        "return tostring(number)",
        (SHARED + "::test_numbers_keep_every_digit",),
    ),
    Mutant(
        "a refused call writes",
        "lua/place_hold.lua",
        'return { "DENIED"',
        'redis.call("HSET", quota_key, "held", "1")\n  return { "DENIED"',
        (PLACE,),
    ),
    Mutant(
        "an expired grant can still be spent",
        "lua/lib/due.lua",
        'local lost = burn_down.finish(state, grant, "e")',
        "local lost = 0",
        (PLACE,),
    ),
    Mutant(
        "a capture returns to the wrong grant",
        "lua/lib/settlement.lua",
        "local grant, units = grants.get(state, allocations[place]), allocations[place + 1]",
        "local grant, units = grants.get(state, allocations[1]), allocations[place + 1]",
        (CAPTURE, RELEASE),
    ),
    Mutant(
        "a poison entry is skipped",
        "quota_engine/ledger/appending.py",
        "            assert misfit is not None\n"
        "            self._quarantined.append((incoming, misfit))\n",
        "            assert misfit is not None\n",
        (PERSIST,),
    ),
    Mutant(
        "no epoch check in a script",
        "lua/lib/quotas.lua",
        "if fence[1] ~= epoch then",
        "if not fence[1] then",
        (SHARED,),
    ),
    Mutant(
        "a key of another type fails after a write",
        "lua/lib/quotas.lua",
        'redis.call("ZCARD", state.keys.changes)',
        "local _ = state.keys.changes",
        (SHARED,),
    ),
    Mutant(
        "the newest operation is forgotten with the oldest",
        "lua/lib/operations.lua",
        "if state.server_now % state.horizon < BOUNDARY_MS then",
        "if state.server_now % state.horizon < 0 * BOUNDARY_MS then",
        (SHARED,),
    ),
    Mutant(
        "a grant that is used up is still there",
        "lua/lib/grants.lua",
        'return grant.state ~= "p" and grant.remaining == 0',
        'return grant.state == "v" and grant.remaining == 0',
        ("tests/lua/test_void_grant.py",),
    ),
    Mutant(
        "an operation id comes twice",
        "lua/lib/settlement.lua",
        "if not lost[grant_id] then",
        "if lost then",
        (CAPTURE,),
    ),
    Mutant(
        "more is done in one step than in two",
        "lua/lib/due.lua",
        "or grants.is_used_up(grant) then",
        "then",
        ("tests/properties/test_catching_up.py",),
    ),
)


def main(arguments: list[str]) -> int:
    """Run the mutants named, or all; return 0 when every one was caught."""
    if "--list" in arguments:
        print("\n".join(mutant.name for mutant in MUTANTS))
        return 0
    chosen = [mutant for mutant in MUTANTS if not arguments or mutant.name in arguments]
    unknown = set(arguments) - {mutant.name for mutant in MUTANTS}
    if unknown:
        print(f"no such mutant: {', '.join(sorted(unknown))}; see --list", file=sys.stderr)
        return 2
    console = Console()
    table = Table("seeded fault", "outcome", "seconds", "first test that saw it")
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="quota-engine-mutants-") as folder:
        control = Mutant("control", "README.md", "", "", tests_of(chosen))
        outcome, witness = try_mutant(control, Path(folder))
        if outcome != "SURVIVED":
            print(f"the tests fail without any fault: {outcome} {witness}", file=sys.stderr)
            return 1
        for mutant in track(chosen, description="seeded faults", console=console):
            started = time.monotonic()
            outcome, witness = try_mutant(mutant, Path(folder))
            survivors += outcome != "caught"
            table.add_row(mutant.name, outcome, f"{time.monotonic() - started:.0f}", witness)
    console.print(table)
    print(f"{len(chosen) - survivors} passed, {survivors} failed")
    return 1 if survivors else 0


def tests_of(mutants: Sequence[Mutant]) -> tuple[str, ...]:
    """Return every test that some mutant names, each once."""
    return tuple(dict.fromkeys(test for mutant in mutants for test in mutant.tests))


def try_mutant(mutant: Mutant, folder: Path) -> tuple[str, str]:
    """Return ``caught`` and the test that failed, or why the mutant was not caught."""
    tree = folder / re.sub(r"\W+", "-", mutant.name)
    copy_tree(tree)
    target = tree / mutant.file
    text = target.read_text(encoding="utf-8")
    if mutant.old and text.count(mutant.old) != 1:
        return "stale", f"its text occurs {text.count(mutant.old)} times in {mutant.file}"
    if mutant.old:
        target.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-rfE",
        "-p",
        "no:cacheprovider",
        *mutant.tests,
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ran = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "caught", "the tests never ended"
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", ran.stdout, re.MULTILINE)
    if ran.returncode == 1 and failed:
        return "caught", failed[1]
    if ran.returncode == 0:
        return "SURVIVED", ""
    return "no test ran", ran.stdout.strip().splitlines()[-1] if ran.stdout.strip() else ""


def copy_tree(tree: Path) -> None:
    """Copy the files of the checkout, symlinks as such, without what was built or installed."""
    left_out = shutil.ignore_patterns(
        ".git", ".venv", ".cache", "__pycache__", "*.egg-info", ".*_cache"
    )
    shutil.copytree(ROOT, tree, symlinks=True, ignore=left_out)
    (tree / ".cache").symlink_to(ROOT / ".cache")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
