"""
Write docs/faults.md: each row of the fault matrix, how it is injected, what must come of it, and
the test that does both. Rows come from the tests' markers: ``@pytest.mark.row(number, ...)``.

    python -m tools.faults_table           rewrite it
    python -m tools.faults_table --check   only say whether it is the one that would be written
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/faults.md"

#: Every fault that the engine must survive. A row goes only with a reason; 62 never was one.
FAULTS = {
    1: "Redis is killed",
    2: "Redis is restarted in order",
    3: "Power loss, synced every second",
    4: "Power loss, always synced",
    5: "A torn script",
    6: "A torn end of a script",
    7: "A torn file that Redis refuses to load",
    8: "The append-only file is lost",
    9: "Redis is wiped",
    10: "A quota's key is deleted",
    11: "An old backup of Redis is restored",
    12: "A lagging replica is promoted, the tail is persisted",
    13: "A lagging replica is promoted, the tail is nowhere else",
    14: "Two masters",
    15: "Redis fails during the recovery",
    16: "A reply is lost after the commit",
    17: "A call is given up and executes late",
    18: "A client with the driver's own retries",
    19: "One operation id, many callers at once",
    20: "One operation id, other arguments",
    21: "A retry after the horizon",
    22: "A retry after Redis forgot everything",
    23: "A retry is answered, then the power fails",
    24: "Scripts are flushed",
    25: "Redis is full",
    26: "An eviction policy is set",
    27: "The disk is full",
    28: "Redis stalls",
    29: "A key has another type",
    30: "A script fails after its first write",
    31: "PostgreSQL is restarted",
    32: "PostgreSQL is away for long",
    33: "The reply to COMMIT is lost",
    34: "PostgreSQL loses commits",
    35: "PostgreSQL refuses for locks or deadlocks",
    36: "PostgreSQL's disk is full",
    37: "A worker is killed at any step",
    38: "A worker sleeps through a recovery",
    39: "Many drainers at once",
    40: "A job times out inside COMMIT",
    41: "RQ's Redis is wiped",
    42: "No worker runs",
    43: "Bytes that are no entry",
    44: "An entry of an unknown format",
    45: "An entry is missing",
    46: "A forged fork",
    47: "A balance is edited in Redis",
    48: "A row of the ledger is edited",
    49: "Expiry and capture at once",
    50: "A capture after the end of its hold",
    51: "A clock jumps",
    52: "A grant's issuer dies",
    53: "A promise is kept while its entry waits",
    54: "A hydration is overtaken",
    55: "Everybody hydrates at once",
    56: "A slow and lossy network",
    57: "Calls are cancelled in great number",
    58: "Old and new scripts and drainers",
    59: "Slots of a cluster move",
    60: "A gateway is killed between call and capture",
    61: "Redis cannot be reached",
    63: "Failback",
    64: "Rolling deploy under load",
    65: "One client has a wrong URL",
    66: "Redis is full, and RQ lives in it",
    67: "A ledger of a lower epoch is restored",
    68: "An hour of random faults",
}

#: Rows that no test proves, and why that is so.
WITHOUT_TEST = {
    59: "Redis Cluster is not supported: one master",
}

#: Rows whose outcome is another than the matrix asks for, what it is instead, and why.
EXCEPTIONS = {
    51: "Asked for is that nothing ends while the clock is wrong. Workers pause, but calls go by"
    " the clock of the Redis server: holds and grants that are touched while it is an hour ahead"
    " end early, retries of the last horizon are charged again and marked `duplicate_of`, a limit"
    " lets one more period's worth through. What nobody touches stays; `doctor` and the duty"
    " `clocks` alarm, the runbook's query names each entry, and the books prove. A script has no"
    " second clock that goes on when no worker runs: [why](decisions/0123-clock-jumps.md),"
    " [what to do](operations.md#the-clocks-differ).",
}

HEAD = """\
# Faults

What the engine survives, and the test that proves it: with real processes, each against the whole
oracle where it can be: every invariant of ledger and Redis, and what each client was told, on each
level of a path and under limits (see `tests/faults/world.py`). `make faults` runs all of them,
`./run test` leaves the slow ones out.

<!-- written by `python -m tools.faults_table` -->
"""

TAIL = """
## The nemesis

```sh
make nemesis SECONDS=600                                    # a seed of its own, which it tells
python -m tools.nemesis --seconds 600 --seed 7              # the same faults at the same times
python -m tools.nemesis --seconds 60 --seed 7 --sabotage no-dedupe
python -m tools.nemesis --seconds 600 --appendfsync everysec
```

Sixteen clients in four processes debit, hold, extend, capture, release, grant, void, refund and
cancel on a few hot and many cold accounts, two workers persist, and every second or two a fault
of the matrix comes: servers, workers and clients are killed, stopped and replaced, the network
loses replies, keys and scripts vanish. Most accounts are below one of two organisations, which
pay and have limits, or below teams that have only limits; some calls are of two quota types or
choose their scopes; limits are set anew, and accounts suspended for a moment. For two accounts,
whose own quota is soon used up, others pay: a pool beside them, which may be empty, refuse or be
suspended, too, then the organisation; for moments nobody. Charges are given back, whole or in
part, and the same refund is asked for again; others are settled anew, some by several at once.
The schedule follows from the seed alone; how calls and faults meet does not. In the end
everything is healed, drained and judged: all invariants; each client's word, which was written
down before and after each call; that a call is in all of its quotas or in none, and each account
was charged what those below it were; that what another paid was charged to it once and whole, the
own quota nothing, which could not have paid; that a refund went to who paid, once, and no charge
gave back more than it took; that what was settled anew is charged what was said of it last, with
who paid and above, too; that no limit of an hour and more, or of open holds, was passed; that
nothing was admitted or paid while suspended. It exits with 3 when anything was violated. `--json`
prints the summary for programs; a signal to end ends all that it started.

Under `always` nothing that was answered may be lost. With `everysec` power losses come too: what
was answered since the last sync may be lost, and is counted. Not among the faults is what loses
data by its nature (`FLUSHALL`, a lost file, a promoted replica that lagged), nor a jumping clock:
those have rows of their own. `--sabotage` builds one of the seeded faults of `make mutants` in
(`--list` names them), and the run must then find violations.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One test's part of the matrix. ``xfail``: why it does not hold yet, or empty."""

    number: int
    injection: str
    outcome: str
    path: str
    test: str
    is_slow: bool
    xfail: str


def rows() -> Iterator[Row]:
    """Yield what the tests' markers say, file by file."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        if "mark.row(" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _rows_of(node, str(path.relative_to(ROOT)))


def _rows_of(node: ast.FunctionDef | ast.AsyncFunctionDef, path: str) -> Iterator[Row]:
    marks = [_mark(decorator) for decorator in node.decorator_list]
    names = {name for name, _, _ in marks}
    xfail = next((str(given.get("reason")) for name, _, given in marks if name == "xfail"), "")
    for name, values, given in marks:
        if name == "row":
            injection, outcome = str(given["injection"]), str(given["outcome"])
            is_slow = "fault_slow" in names
            yield Row(int(str(values[0])), injection, outcome, path, node.name, is_slow, xfail)


def _mark(decorator: ast.expr) -> tuple[str, list[object], dict[str, object]]:
    """Return a ``pytest.mark``'s name and constant arguments; no name for another decorator."""
    call = decorator if isinstance(decorator, ast.Call) else None
    target = call.func if call else decorator
    if not (isinstance(target, ast.Attribute) and ast.unparse(target.value) == "pytest.mark"):
        return "", [], {}
    if call is None or target.attr not in {"row", "xfail"}:
        return target.attr, [], {}
    values = [ast.literal_eval(value) for value in call.args]
    given: dict[str, object] = {
        str(word.arg): word.value.value
        for word in call.keywords
        if isinstance(word.value, ast.Constant)
    }
    return target.attr, values, given


def page() -> str:
    """Return the page that belongs to the tests of now."""
    found: dict[int, list[Row]] = {}
    for row in rows():
        found.setdefault(row.number, []).append(row)
    if unknown := sorted(found.keys() - FAULTS.keys()):
        raise SystemExit(f"the matrix has no rows {unknown}")
    if needless := sorted(found.keys() & WITHOUT_TEST.keys()):
        raise SystemExit(f"rows {needless} have a test, and a reason to have none")
    lines = [HEAD, "| # | Fault | Injected | Must come of it | Test |", "|---|---|---|---|---|"]
    for number, fault in FAULTS.items():
        for row in found.get(number, []):
            test = f"[`{row.test}`](../{row.path})"
            test += " (`make faults`)" if row.is_slow else ""
            test += f" **does not hold yet**: {row.xfail}" if row.xfail else ""
            lines.append(f"| {number} | {fault} | {row.injection} | {row.outcome} | {test} |")
        if number not in found:
            reason = WITHOUT_TEST.get(number, "no test yet")
            lines.append(f"| {number} | {fault} | | | {reason} |")
    lines += ["", "## Exceptions", ""]
    for number, reason in {**EXCEPTIONS, **WITHOUT_TEST}.items():
        lines.append(f"- **{number}, {FAULTS[number].lower()}.** {reason}")
    return "\n".join([*lines, TAIL])


def main() -> int:
    """Rewrite the page, or with ``--check`` return 1 when it is another."""
    parser = argparse.ArgumentParser(description="Write docs/faults.md.")
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    is_check = parser.parse_args().check
    wanted = page()
    written = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if is_check and written != wanted:
        print("docs/faults.md is not that of the tests: run python -m tools.faults_table")
        return 1
    if written != wanted:
        PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
