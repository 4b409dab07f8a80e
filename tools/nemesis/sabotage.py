"""
The same run over an engine with a seeded fault built in: the judge must see it.

The fault is put into a copy of the tree, as ``tools/mutants.py`` does, and the run is made there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.mutants import copy_tree, plant
from tools.seeded_faults import MUTANTS

VARIABLE = "QUOTA_ENGINE_TEST_SABOTAGE"


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name).strip("-").lower()


#: What each name builds in. The short names are those that a run shows best; a stale quota is seen
#: in two places, so that only without both anything goes wrong.
NAMES: dict[str, tuple[str, ...]] = {
    **{_slug(mutant.name): (mutant.name,) for mutant in MUTANTS},
    "no-dedupe": ("no memory of operations",),
    "trim-before-commit": ("trim before commit",),
    "hydrate-without-version-check": (
        "hydration without the version check",
        "a quota of an older life is taken as it is",
    ),
}


def is_done(name: str) -> bool:
    """Whether this is the run in the sabotaged copy."""
    return os.environ.get(VARIABLE) == name


def rerun(name: str, arguments: list[str]) -> int:
    """Make the run in a sabotaged copy of the tree; return its exit code."""
    if name not in NAMES:
        print(f"no such sabotage: {name}; see --list", file=sys.stderr)
        return 2
    mutants = [one for one in MUTANTS if one.name in NAMES[name]]
    with tempfile.TemporaryDirectory(prefix="quota-engine-nemesis-") as folder:
        tree = Path(folder) / "tree"
        copy_tree(tree)
        for mutant in mutants:
            if stale := plant(mutant, tree):
                print(f"{name} is stale: {stale}", file=sys.stderr)
                return 2
        environment = {**os.environ, "PYTHONPATH": str(tree), VARIABLE: name}
        command = [sys.executable, "-m", "tools.nemesis", *arguments]
        with subprocess.Popen(command, cwd=tree, env=environment) as made:
            try:
                return made.wait()
            except SystemExit:  # the run ends what it started, and is waited for
                made.terminate()
                raise
