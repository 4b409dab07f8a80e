"""
What a call costs on this machine, beside a bare check-and-decrement and beside row locks.

Everything is measured in one run, on private servers, the ways side by side in rounds: machines
differ and drift, ratios hold. It must not touch the user's own servers.
"""

from quota_engine.benchmark.figures import Figure, Machine, Report, Section
from quota_engine.benchmark.plan import FULL, QUICK, Plan
from quota_engine.benchmark.run import run_benchmark

__all__ = [
    "FULL",
    "QUICK",
    "Figure",
    "Machine",
    "Plan",
    "Report",
    "Section",
    "run_benchmark",
]
