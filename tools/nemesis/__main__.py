"""
The door: ``python -m tools.nemesis --seconds 600 --seed 7``.

Exits with 0 when nothing was violated, with 3 when something was, with 2 when misused. By a signal
to end it ends all that it started.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys

from tools.nemesis import sabotage
from tools.nemesis.report import as_json, print_summary, shown_progress
from tools.nemesis.running import VIOLATED, Options, run
from tools.nemesis.stopping import unwind_when_told


def main() -> int:
    """Make one run, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tools.nemesis", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long clients work")
    parser.add_argument("--seed", type=int, help="decides the schedule of faults")
    parser.add_argument("--processes", type=int, default=4, help="client processes")
    parser.add_argument("--threads", type=int, default=4, help="clients in each process")
    parser.add_argument(
        "--appendfsync",
        choices=("always", "everysec"),
        default="always",
        help="everysec: with power losses, whose losses are bounded and counted",
    )
    parser.add_argument("--sabotage", metavar="NAME", help="build a seeded fault in; see --list")
    parser.add_argument("--list", action="store_true", help="list what --sabotage knows")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(sabotage.NAMES))
        return 0
    unwind_when_told()
    if arguments.sabotage and not sabotage.is_done(arguments.sabotage):
        return sabotage.rerun(arguments.sabotage, sys.argv[1:])
    for name in [name for name in os.environ if name.startswith("QUOTA_ENGINE_")]:
        if not name.startswith("QUOTA_ENGINE_TEST_"):
            del os.environ[name]
    logging.getLogger("quota_engine").addHandler(logging.NullHandler())
    options = Options(
        seed=random.randrange(10**6) if arguments.seed is None else arguments.seed,
        seconds=arguments.seconds,
        processes=arguments.processes,
        threads=arguments.threads,
        appendfsync=arguments.appendfsync,
        sabotage=arguments.sabotage or "",
    )
    with shown_progress(options.seconds) as watch:
        summary = run(options, watch)
    if arguments.json:
        print(as_json(summary))
    else:
        print_summary(summary)
    return VIOLATED if summary.violations else 0


if __name__ == "__main__":
    sys.exit(main())
