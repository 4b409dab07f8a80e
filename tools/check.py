"""
Run what CI checks, step by step, and say what failed.

    python tools/check.py                  every step
    python tools/check.py lint types       these steps
    python tools/check.py --except tests   every step but these

All the steps named are run, also after one has failed: one look shows everything.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable

STEPS: dict[str, list[str]] = {
    "lint": [PYTHON, "-m", "ruff", "check", "--quiet", "."],
    "format": [PYTHON, "-m", "ruff", "format", "--check", "--quiet", "."],
    "types": [PYTHON, "-m", "mypy", "--no-error-summary"],
    "floors": [str(Path(PYTHON).parent / "lint-imports"), "--no-cache"],
    "generated": [PYTHON, "-m", "tools.unasync", "--check"],
    "lua": [PYTHON, "-m", "tools.check_lua"],
    "tests": [PYTHON, "-m", "pytest", "-n", "auto", "--maxprocesses", "4"],
}


def run_step(name: str) -> bool:
    """Run one step; its output is shown when it fails, and always for the tests."""
    started = time.monotonic()
    show = name == "tests"
    done = subprocess.run(
        STEPS[name],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=None if show else subprocess.PIPE,
        stderr=None if show else subprocess.STDOUT,
        text=True,
        check=False,
    )
    passed = done.returncode == 0
    if not show and (not passed or name == "lua"):
        print(done.stdout.rstrip())
    verdict = "ok" if passed else "FAILED"
    print(f"check: {name:<10} {verdict:<7} {time.monotonic() - started:5.1f} s", flush=True)
    return passed


def main() -> int:
    """Run the steps that the command line names."""
    parser = argparse.ArgumentParser(description="Run what CI checks.")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=" ".join(STEPS))
    parser.add_argument("--except", dest="left_out", nargs="+", default=[], metavar="STEP")
    options = parser.parse_args()
    unknown = {*options.steps, *options.left_out} - STEPS.keys()
    if unknown:
        parser.error(f"no such step: {', '.join(sorted(unknown))} (there are {', '.join(STEPS)})")
    chosen = [name for name in options.steps or STEPS if name not in options.left_out]
    failed = [name for name in chosen if not run_step(name)]
    if failed:
        print(f"check: failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
