"""Seeded faults of what proves, mends and opens again: see ``seeded_faults``."""

from __future__ import annotations

from tools.mutant import Mutant

BUSY = "tests/integration/test_reconcile_busy.py"
MENDED = "tests/integration/test_policies_mended.py"
STAMPEDE = "tests/integration/test_stampede.py"

RECOVERY = (
    Mutant(
        "a quota of which something is on its way is compared by its sums alone",
        "quota_engine/jobs/reconciler.py",
        "return not self.is_drained and (",
        "return self.is_blank and (",
        (f"{BUSY}::test_what_no_sum_shows_is_found_while_entries_wait",),
    ),
    Mutant(
        "a look at rest persists more than it has seen",
        "quota_engine/jobs/at_rest.py",
        "if event.event_id <= last_id)",
        "if event.event_id)",
        (f"{BUSY}::test_busy_quotas_are_compared_in_full_and_nothing_is_found",),
    ),
    Mutant(
        "what others have mended of an account is mended again",
        "quota_engine/jobs/policies.py",
        "        found = _compared(connection, driver.opened, account, known)\n",
        "        found = PolicyDrift(Drift(account, '', Cause.POLICY_EDITED, '', 0, 0, ()),"
        " known and known[0], '')\n",
        (f"{MENDED}::test_two_who_have_seen_the_same_leave_one_mend",),
    ),
    Mutant(
        "the quotas touched last are loaded ahead, whoever is busy",
        "quota_engine/ledger/idle.py",
        "ORDER BY busy.entries DESC, c.updated_at DESC",
        "ORDER BY c.updated_at DESC",
        (f"{STAMPEDE}::test_the_busiest_quotas_are_loaded_ahead_not_those_touched_last",),
    ),
    Mutant(
        "recovery run ends before anything is loaded",
        "quota_engine/cli/recovery.py",
        "while not warming.ended.wait(PROGRESS_SECONDS):",
        "while warming.ended.is_set():",
        (
            "tests/integration/test_cli_recovery.py"
            "::test_recovery_run_loads_the_busiest_quotas_before_it_ends",
        ),
    ),
    Mutant(
        "late syncs of long ago are told for ever",
        "quota_engine/jobs/late_syncs.py",
        "return at_ms if now_ms - at_ms <= TOLD_FOR_MS else None",
        "return at_ms",
        ("tests/unit/test_late_syncs.py::test_late_syncs_are_told_for_an_hour",),
    ),
    Mutant(
        "doctor is well with a disk that is too slow",
        "quota_engine/jobs/server_check.py",
        '"has_evicted", "slow_disk"})',
        '"has_evicted"})',
        ("tests/integration/test_late_syncs.py::test_doctor_exits_with_1_for_late_syncs",),
    ),
)
