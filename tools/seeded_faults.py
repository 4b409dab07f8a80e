"""
The seeded faults: an exact text of the tree, what stands there instead, and the tests that see it.

Each names the narrowest tests, so that all of them together take minutes.
"""

from __future__ import annotations

from tools.mutant import Mutant
from tools.seeded_accounts import ACCOUNTS
from tools.seeded_alerts import ALERTS
from tools.seeded_calls import CALLS
from tools.seeded_limits import LIMIT_FAULTS
from tools.seeded_periods import PERIODS
from tools.seeded_recovery import RECOVERY

SHARED = "tests/lua/test_what_scripts_share.py"
PLACE, CAPTURE = "tests/lua/test_place_hold.py", "tests/lua/test_capture_hold.py"
HYDRATE = "tests/lua/test_hydrate_quota.py"
RELEASE = "tests/lua/test_release_hold.py"
STOPS, POWER = "tests/integration/test_persist_stops.py", "tests/faults/test_redis_power.py"
DROP, THAW = "tests/lua/test_snapshot_and_drop.py", "tests/integration/test_thaw.py"
RECONCILE = "tests/integration/test_reconcile.py"
PRESSURE, LOST = "tests/lua/test_backpressure.py", "tests/integration/test_lost_commits.py"
PERSIST, TRIM = "tests/integration/test_persist.py", "tests/integration/test_trim.py"
LOST_DATA, CLIENTS = "tests/faults/test_redis_lost_data.py", "tests/faults/test_redis_clients.py"
RESTARTS, PROMOTIONS = (
    "tests/faults/test_redis_restarts.py",
    "tests/faults/test_redis_promotions.py",
)
LIMITS = "tests/faults/test_redis_limits.py"
SPOOL = "tests/integration/test_spool.py"
POOLS = "tests/integration/test_pools.py"
ALLOWANCE = "tests/integration/test_spool_allowance.py"


MUTANTS = (
    *CALLS,
    *ACCOUNTS,
    *ALERTS,
    *LIMIT_FAULTS,
    *PERIODS,
    *RECOVERY,
    Mutant(
        "a change of plan forgets what replaced grants have spent",
        "quota_engine/subscriptions.py",
        "(one.amount if one.kind == PERIOD else 0) - (one.voided or 0)",
        "(one.amount if one.kind == PERIOD and one.voided is None else 0)",
        ("tests/unit/test_subscriptions.py",),
    ),
    Mutant(
        "a change whose maker died waits for the next renewal",
        "quota_engine/ledger/replacing.py",
        "standings.look_again(connection, subscription_id, instant, under_new_ids=False)",
        "pass",
        ("tests/faults/test_subscriptions_killed.py::test_who_changes_a_plan_dies",),
    ),
    Mutant(
        "a spooled operation that Redis may have forgotten is replayed unasked",
        "quota_engine/spooled.py",
        "if is_old and (yield from _is_in_ledger(operation)):",
        "if is_old and operation.amount < 0:",
        (SPOOL,),
    ),
    Mutant(
        "what was admitted offline and waits does not use up the allowance",
        "quota_engine/spool/rows.py",
        "AND is_offline = 1",
        "AND is_offline = 2",
        (ALLOWANCE,),
    ),
    Mutant(
        "persisted entries that are kept press",
        "lua/lib/quotas.lua",
        "if length - persisted < limit then",
        "if length < limit and persisted then",
        (PRESSURE,),
    ),
    Mutant(
        "a charge for what was used is refused under pressure",
        "lua/debit_used.lua",
        "refused = quotas.bring_up_all(states, due_max)",
        "refused = quotas.pressed(state, 3) or quotas.bring_up_all(states, due_max)",
        (PRESSURE,),
    ),
    Mutant(
        "a ledger that lost commits is not noticed",
        "lua/note_persisted.lua",
        'redis.call("HSET", versions_key, "@cursor", cursor)',
        'redis.call("EXISTS", versions_key)',
        (PRESSURE,),
    ),
    Mutant(
        "quotas whose last entries are lost go on",
        "quota_engine/jobs/gate.py",
        "        self.freeze_lost()\n",
        "",
        (LOST,),
    ),
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
        (SHARED + "::test_a_repeat_gets_the_first_answer_and_has_no_effect",),
    ),
    Mutant(
        "no fingerprint",
        "lua/lib/operations.lua",
        "if reply[2] ~= fingerprint then",
        "if not reply[2] then",
        (SHARED + "::test_a_repeat_with_other_arguments_conflicts",),
    ),
    Mutant(
        "a repeat is answered with an error",
        "lua/lib/operations.lua",
        "if reply[2] ~= fingerprint then",
        "if reply[2] then",
        (SHARED + "::test_a_repeat_gets_the_first_answer_and_has_no_effect",),
    ),
    Mutant(
        "a conflicting entry is left out (ON CONFLICT DO NOTHING)",
        "quota_engine/ledger/appending.py",
        "        misfit = self._misfit(log, incoming)\n",
        "        misfit = self._misfit(log, incoming)\n"
        "        if incoming.entry is not None and incoming.entry.version <= log.version:\n"
        "            return\n",
        (PERSIST + "::test_a_quota_whose_entry_does_not_fit_is_frozen_and_the_others_go_on",),
    ),
    Mutant(
        "trim before commit",
        "quota_engine/jobs/trim.py",
        "    until = min(until, cursor)\n",
        "    until = page.last_id or cursor\n",
        (TRIM + "::test_what_is_not_persisted_stays",),
    ),
    Mutant(
        "hydration without the version check",
        "lua/hydrate_quota.lua",
        "elseif fence[2] and fence[2] ~= version then",
        "elseif fence[2] and not version then",
        (HYDRATE + "::test_a_stale_reading_of_the_ledger_is_refused",),
    ),
    Mutant(
        "a quota of an older life is taken as it is",
        "lua/lib/quotas.lua",
        "if not stored[1] or (issued and issued ~= stored[1]) then",
        "if not stored[1] then",
        (SHARED + "::test_a_quota_of_an_older_life_is_not_loaded",),
    ),
    Mutant(
        "holds are not counted in admission",
        "lua/lib/quotas.lua",
        "return math.min(state.remaining - uncovered",
        "return math.min(state.remaining + state.held - uncovered",
        (PLACE + "::test_a_hold_is_placed_once_and_denied_above_spendable",),
    ),
    Mutant(
        "a late capture is refused",
        "lua/capture_hold.lua",
        "local base, tail = operation_id",
        "if not holds.get(state, hold_id) then\n"
        '  return redis.error_reply("HOLD_CLOSED " .. hold_id)\n'
        "end\n"
        "local base, tail = operation_id",
        (CAPTURE + "::test_a_hold_that_is_no_longer_open_is_charged_late_once",),
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
        "if refused then\n  return refused\nend\n\nlocal expires_at",
        'if refused then\n  redis.call("HSET", quota_key, "held", "1")\n  return refused\nend\n\n'
        "local expires_at",
        (PLACE + "::test_a_hold_is_placed_once_and_denied_above_spendable",),
    ),
    Mutant(
        "an expired grant can still be spent",
        "lua/lib/due.lua",
        'local lost = burn_down.finish(state, grant, "e")',
        "local lost = 0",
        (PLACE + "::test_an_expired_grant_pays_nothing",),
    ),
    Mutant(
        "a capture returns to the wrong grant",
        "lua/lib/settlement.lua",
        "local grant, units = grants.get(state, allocations[place]), allocations[place + 1]",
        "local grant, units = grants.get(state, allocations[1]), allocations[place + 1]",
        (
            CAPTURE + "::test_a_capture_gives_back_what_was_taken_last",
            RELEASE + "::test_units_return_to_the_grants_they_came_from",
        ),
    ),
    Mutant(
        "a poison entry is skipped",
        "quota_engine/ledger/appending.py",
        "            assert misfit is not None\n"
        "            self._quarantined.append((incoming, misfit))\n",
        "            assert misfit is not None\n",
        (PERSIST + "::test_bytes_that_are_no_entry_are_quarantined",),
    ),
    Mutant(
        "no epoch check in a script",
        "lua/lib/quotas.lua",
        "if fence[1] ~= epoch then",
        "if not fence[1] then",
        (SHARED + "::test_an_older_epoch_is_fenced",),
    ),
    Mutant(
        "a key of another type fails after a write",
        "lua/lib/quotas.lua",
        'redis.call("ZCARD", state.keys.changes)',
        "local _ = state.keys.changes",
        (SHARED + "::test_a_key_of_another_type_is_met_before_any_write",),
    ),
    Mutant(
        "the newest operation is forgotten with the oldest",
        "lua/lib/operations.lua",
        "if state.server_now % state.horizon < BOUNDARY_MS then",
        "if state.server_now % state.horizon < 0 * BOUNDARY_MS then",
        (SHARED + "::test_a_memory_that_is_about_to_end_does_not_take_the_newest_with_it",),
    ),
    Mutant(
        "a grant that is used up is still there",
        "lua/lib/grants.lua",
        'return grant.state ~= "p" and grant.remaining == 0',
        'return grant.state == "v" and grant.remaining == 0',
        ("tests/lua/test_void_grant.py::test_a_grant_used_up_in_the_same_instant_is_gone",),
    ),
    Mutant(
        "an operation id comes twice",
        "lua/lib/settlement.lua",
        "if not lost[grant_id] then",
        "if lost then",
        (CAPTURE + "::test_what_an_ended_grant_gave_in_two_portions_ends_as_one_entry",),
    ),
    Mutant(
        "more is done in one step than in two",
        "lua/lib/due.lua",
        "or grants.is_used_up(grant) then",
        "then",
        ("tests/properties/test_catching_up.py",),
    ),
    Mutant(
        "trimmed by time ids (MINID of the clock)",
        "lua/trim_outbox.lua",
        '"MINID", "=", min_id)',
        '"MINID", "=", redis.call("TIME")[1] .. "000-0")',
        (TRIM + "::test_what_is_not_persisted_stays",),
    ),
    Mutant(
        "no epoch check in the drain",
        "quota_engine/jobs/persist.py",
        "    if last_id.epoch > state.epoch:\n",
        "    if last_id.epoch > state.epoch + 1_000_000:\n",
        (STOPS + "::test_a_newer_epoch_stops_the_shard_before_anything_is_read",),
    ),
    Mutant(
        "clients send whole scripts (EVAL)",
        "quota_engine/_sync/transport.py",
        '            words = ("EVALSHA", sha, ',
        '            words = ("EVAL", self._scripts[command.script].source, ',
        ("tests/integration/test_once.py::test_a_server_without_scripts_takes_no_call",),
    ),
    Mutant(
        "a quota has a time to live",
        "lua/lib/quotas.lua",
        '  redis.call("HSET", state.keys.quota, unpack(fields))\n',
        '  redis.call("HSET", state.keys.quota, unpack(fields))\n'
        '  redis.call("PEXPIRE", state.keys.quota, "86400000")\n',
        (SHARED + "::test_nothing_that_carries_money_has_a_time_to_live",),
    ),
    Mutant(
        "the gate leaves the append-only file as it is (no BGREWRITEAOF)",
        "quota_engine/jobs/gate_server.py",
        '        checked(connection.execute("BGREWRITEAOF"))\n',
        "",
        (POWER + "::test_half_a_script_is_never_seen",),
    ),
    Mutant(
        "reconcile compares only version and balance",
        "quota_engine/drift.py",
        """        yield from _wrong_sums(loaded, last)
        if log.is_drained:
            yield from _other_terms(loaded, log)
    yield from _contradictions(loaded)
""",
        """        if loaded.balance != last.balance:
            yield Difference(Cause.BALANCE_EDITED, "balance", loaded.balance, last.balance)
""",
        ("tests/unit/test_drift.py",),
    ),
    Mutant(
        "earlier refunds are not counted",
        "quota_engine/ledger/dealing.py",
        "return max(0, self.collected - _units_of(self.refunds))",
        "return max(0, self.collected)",
        ("tests/integration/test_refunds.py::test_many_refunds_at_once_give_back_what_was_taken",),
    ),
    Mutant(
        "refunds of one charge do not wait for each other",
        "quota_engine/ledger/refunds.py",
        "        lock_named(connection, name)\n",
        "        pass\n",
        ("tests/integration/test_refunds.py::test_many_refunds_at_once_give_back_what_was_taken",),
    ),
    Mutant(
        "a cancelled operation leaves no tombstone",
        "lua/cancel_operation.lua",
        "operations.remember(state, operation_id, answer)\n",
        "",
        ("tests/lua/test_cancel_operation.py::test_what_has_not_happened_is_cancelled_once",),
    ),
    Mutant(
        "the gate keeps what differs from the ledger",
        "quota_engine/jobs/gate.py",
        "                if not may_stay(head, place[0], version, chain):",
        "                if head is None and not may_stay(head, place[0], version, chain):",
        (LOST_DATA + "::test_an_old_backup_gives_no_spent_quota_back",),
    ),
    Mutant(
        "the gate persists nothing of what it finds",
        "quota_engine/jobs/gate.py",
        "            self.absorb(row.shard, row.cursor)\n",
        "            pass\n",
        (RESTARTS + "::test_a_killed_redis_loses_nothing",),
    ),
    Mutant(
        "the outbox is made again by whoever writes",
        "lua/lib/quotas.lua",
        '"NOMKSTREAM", ',
        "",
        (LOST_DATA + "::test_a_wiped_redis_writes_nothing_before_the_gate",),
    ),
    Mutant(
        "new connections do not ask which server answers",
        "quota_engine/_sync/transport.py",
        "        if opened is not None and incarnation != opened.incarnation:",
        "        if opened is None and incarnation:",
        (PROMOTIONS + "::test_a_failback_is_noticed_although_the_scripts_are_there",),
    ),
    Mutant(
        "an empty server is taken without a question",
        "quota_engine/jobs/gate_rules.py",
        "    if server.deployment is None and not is_same and not allow_wiped:",
        "    if server.deployment is None and not is_same and allow_wiped:",
        (CLIENTS + "::test_a_wrong_url_is_refused_and_nobody_else_notices",),
    ),
    Mutant(
        "a full Redis refuses what was used",
        "lua/capture_hold.lua",
        "#!lua flags=allow-oom",
        "#!lua",
        (LIMITS + "::test_a_full_redis_still_takes_what_was_used",),
    ),
    Mutant(
        "a new pool misses what is being recorded",
        "quota_engine/ledger/pool_rows.py",
        'text("LOCK TABLE usage_records IN SHARE MODE")',
        'text("SELECT 1")',
        (POOLS + "::test_records_that_commit_late_are_missed_by_no_pool",),
    ),
)
