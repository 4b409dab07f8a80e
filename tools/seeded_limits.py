"""Seeded faults of limits: each promise of docs/limits.md, broken."""

from __future__ import annotations

from tools.mutant import Mutant

WINDOWS, LIMITS = "lua/lib/windows.lua", "tests/lua/test_limits.py"
KEPT, SLIDING = "tests/integration/test_limits_kept.py", "tests/properties/test_windows.py"
SET = "tests/lua/test_set_limit.py"

LIMIT_FAULTS = (
    Mutant(
        "a sliding window forgets a step too early",
        WINDOWS,
        "local floor = place - limit.length",
        "local floor = place - limit.length + 2 * limit.step",
        (SLIDING,),
    ),
    Mutant(
        "a limit is asked for one more than it lets through",
        WINDOWS,
        "local left = math.max(cap - used, 0)",
        "local left = math.max(cap - used, 0) + 1",
        (LIMITS + "::test_what_a_capture_leaves_of_a_hold_is_let_through_again",),
    ),
    Mutant(
        "a window goes back with a clock",
        WINDOWS,
        "known.now = math.max(state.now, known.at)",
        "known.now = state.now",
        (LIMITS + "::test_a_window_never_goes_back_with_a_clock",),
    ),
    Mutant(
        "what a hold counted is corrected in the newest step",
        WINDOWS,
        "local place = at - at % limit.step\n    if place < limit.first then",
        "local place = limit.place\n    if place < limit.first then",
        (LIMITS + "::test_what_a_hold_counted_is_corrected_where_it_counted",),
    ),
    Mutant(
        "a hold that expires keeps what it counted",
        "lua/lib/due.lua",
        "settlement.close(state, hold, 0)",
        "settlement.close(state, hold, amount)",
        (LIMITS + "::test_what_a_hold_counted_is_corrected_where_it_counted",),
    ),
    Mutant(
        "what is charged late of a quota that has limits only is owed by it",
        "lua/capture_hold.lua",
        "limits.alone(each) and (not hold or hold.is_counted)",
        "limits.alone(each) and hold and hold.is_counted",
        (LIMITS,),
    ),
    Mutant(
        "growth counts where the hold counted",
        "lua/extend_hold.lua",
        "hold.counts_at = counts.add(each, hold.amount, 0)",
        "counts.add(each, hold.amount, 0)",
        (LIMITS + "::test_a_hold_that_grows_counts_from_then_on_whole",),
    ),
    Mutant(
        "growth is asked of no limit",
        "lua/extend_hold.lua",
        "  or quotas.denied(states) or exceeded())",
        "  or quotas.denied(states))",
        (LIMITS + "::test_a_hold_that_grows_counts_from_then_on_whole",),
    ),
    Mutant(
        "what was before a limit is taken from it",
        WINDOWS,
        'if limit.of == "units" and at > limit.from then',
        'if limit.of == "units" then',
        (SET + "::test_what_was_before_a_limit_does_not_count_and_is_not_corrected",),
    ),
    Mutant(
        "who changes one limit loses the others",
        "lua/set_limit.lua",
        "listed[place or #listed + 1] = wanted",
        "listed[1] = wanted",
        (SET + "::test_a_limit_is_set_once_and_others_stay",),
    ),
    Mutant(
        "what is counted is held, too",
        "lua/place_hold.lua",
        "each.held = each.held + (each.is_counted and 0 or each.asked)",
        "each.held = each.held + each.asked",
        ("tests/properties/test_scopes.py",),
    ),
    Mutant(
        "a limit without anybody who pays admits",
        "lua/lib/shares.lua",
        "state.is_counted = gated[type_of(state)]",
        "state.is_counted = true",
        ("tests/properties/test_scopes.py",),
    ),
    Mutant(
        "a window goes on of a quota that is asked for nothing",
        WINDOWS,
        'state.limits ~= "" and state.asked + calls > 0',
        'state.limits ~= ""',
        ("tests/lua/test_shares.py",),
    ),
    Mutant(
        "only the limits of a call's first quota are asked",
        WINDOWS,
        "elseif state.is_asked then",
        "elseif state == states[1] and state.is_asked then",
        ("tests/properties/test_at_once.py",),
    ),
    Mutant(
        "the ledger counts no corrections",
        "quota_engine/counting.py",
        "            _add(log, limit, at_ms, units)\n",
        "            _add(log, limit, at_ms, max(units, 0))\n",
        (KEPT,),
    ),
    Mutant(
        "what an hour has let through is forgotten with Redis",
        "quota_engine/commands/loading.py",
        "for one in snapshot.counts",
        "for one in snapshot.counts[:0]",
        ("tests/faults/test_redis_lost_data.py",),
    ),
    Mutant(
        "short windows are believed to be known after a loss",
        "quota_engine/commands/loading.py",
        "from_ms = limit.since_ms if limit.is_kept else snapshot.last_count_ms",
        "from_ms = limit.since_ms",
        (KEPT + "::test_a_hold_from_before_a_loss_takes_nothing_from_a_short_window",),
    ),
    Mutant(
        "an edited count is not compared",
        "quota_engine/drift.py",
        "for name, here, there in differences_of_limits(loaded.limits, log.limits):",
        "for name, here, there in differences_of_limits(log.limits, log.limits):",
        (KEPT + "::test_an_edit_is_found_and_mended",),
    ),
    Mutant(
        "periods that are over are not renewed",
        "quota_engine/flows.py",
        "            command = yield from renewed(command, error)\n",
        "            command = command\n",
        ("tests/integration/test_limits.py::test_periods_are_renewed_when_they_are_needed",),
    ),
)
