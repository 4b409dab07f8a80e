"""
The nemesis: clients that never stop, and random faults every few seconds.

    python -m tools.nemesis --seconds 600 --seed 7

The schedule of faults follows from the seed alone. In the end everything is healed, drained,
reconciled and judged: every invariant, and every client's word against the ledger.
"""
