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
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tools.mutant import Mutant
from tools.seeded_faults import MUTANTS

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300


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
    if stale := plant(mutant, tree):
        return "stale", stale
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-rfE",
        "-p",
        "no:cacheprovider",
        "-m",
        "not deep",
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


def plant(mutant: Mutant, tree: Path) -> str:
    """Put a fault into a copy of the tree; return why that cannot be, empty when it is done."""
    target = tree / mutant.file
    text = target.read_text(encoding="utf-8")
    if not mutant.old:
        return ""
    if text.count(mutant.old) != 1:
        return f"its text occurs {text.count(mutant.old)} times in {mutant.file}"
    target.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    return ""


def copy_tree(tree: Path) -> None:
    """Copy the files of the checkout, symlinks as such, without what was built or installed."""
    left_out = shutil.ignore_patterns(
        ".git", ".venv", ".cache", "__pycache__", "*.egg-info", ".*_cache"
    )
    shutil.copytree(ROOT, tree, symlinks=True, ignore=left_out)
    (tree / ".cache").symlink_to(ROOT / ".cache")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
