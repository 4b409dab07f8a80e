"""Seeded faults of calls that act on several quotas, and of their spans."""

from __future__ import annotations

from tools.mutant import Mutant

SHARES = "tests/lua/test_shares.py"
FLUSHED = (
    "tests/faults/test_redis_restarts.py::test_flushed_scripts_are_loaded_again_and_nobody_notices"
)
TRACING = "tests/integration/test_tracing.py"
SCOPES = "tests/integration/test_scopes.py"
TYPES = "tests/integration/test_metering_types.py"
SETTLED = "tests/integration/test_types_settled.py"
REFUNDS = "tests/integration/test_refunds.py"
GIVEN_BACK = "tests/integration/test_given_back.py"
SCHEDULE = "tests/integration/test_schedule.py"

CALLS = (
    Mutant(
        "the accounts above are not asked",
        "lua/lib/shares.lua",
        'if is_own or gates(other) or other.limits ~= "" then',
        "if is_own then",
        (SHARES + "::test_what_the_team_lacks_refuses_the_user_and_leaves_no_trace",),
    ),
    Mutant(
        "only the first quota of a call is checked",
        "lua/lib/quotas.lua",
        "not state.is_counted and state.asked > quotas.spendable(state) then",
        "state == states[1] and state.asked > quotas.spendable(state) then",
        (SHARES + "::test_what_the_team_lacks_refuses_the_user_and_leaves_no_trace",),
    ),
    Mutant(
        "a capture forgets the account that is furthest above",
        "lua/capture_hold.lua",
        "for _, each in ipairs(states) do\n  local hold",
        "for _, each in ipairs({ unpack(states, 1, math.max(#states - 1, 1)) }) do\n  local hold",
        (FLUSHED,),
    ),
    Mutant(
        "an account above is debited one more",
        "lua/debit.lua",
        "local shortfall, counts = quotas.charge(each, each.asked), limits.of(each)",
        "each.asked = each.asked + (each.suffix ~= '' and 1 or 0)\n"
        "  local shortfall, counts = quotas.charge(each, each.asked), limits.of(each)",
        (FLUSHED,),
    ),
    Mutant(
        "accounts above get nothing of a refund",
        "quota_engine/refunding.py",
        "requests_of(request, fate.charge, others)",
        "requests_of(request, fate.charge, ())",
        (SCOPES + "::test_a_refund_gives_back_what_the_call_took_above_too",),
    ),
    Mutant(
        "what a quota gives back is bounded by what the caller's own collected",
        "quota_engine/ledger/refunds.py",
        "max(one.left for one in paid), request.amount",
        "max(one.left for one in paid[:1]), request.amount",
        (GIVEN_BACK + "::test_a_refund_of_a_key_that_only_counts_goes_to_who_paid",),
    ),
    Mutant(
        "a correction gives back what was not collected",
        "quota_engine/ledger/dealing.py",
        "units = min(paid.left, max(0, paid.net - call.units))",
        "units = paid.left",
        (GIVEN_BACK + "::test_what_an_account_above_could_not_pay_is_not_given_back_there",),
    ),
    Mutant(
        "what was not collected lives on for a grace",
        "lua/refund.lua",
        "grace_ms > 0 and ended - unreturned or 0",
        "grace_ms > 0 and ended or 0",
        (GIVEN_BACK + "::test_a_grace_is_for_what_was_paid_alone",),
    ),
    Mutant(
        "one of several quotas that cannot take its part stops none",
        "lua/refund.lua",
        "quotas.frozen(states) or",
        "quotas.frozen({ first }) or",
        (
            "tests/lua/test_refund.py::"
            "test_what_a_call_took_in_several_quotas_comes_back_in_one_step",
        ),
    ),
    Mutant(
        "a correction charges accounts above nothing",
        "quota_engine/_async/refunding.py",
        "for other in charged)",
        "for other in charged[:0])",
        (SCOPES + "::test_a_corrected_call_is_settled_above_too",),
    ),
    Mutant(
        "a correction leaves what a call took of further types",
        "quota_engine/_async/refunding.py",
        "calls += await self._beside(quota, fate)",
        "calls += (await self._beside(quota, fate))[:0]",
        (SETTLED + "::test_a_correction_settles_both",),
    ),
    Mutant(
        "re-rating leaves the credit that a call took beside",
        "quota_engine/_async/rerating.py",
        "for one in beside if is_credit",
        "for one in beside[:0] if is_credit",
        (SETTLED + "::test_rerating_settles_the_credit_that_a_call_took_beside",),
    ),
    Mutant(
        "a call inside one that takes less is not billed",
        "quota_engine/metering/meter.py",
        "set(outer.plan.quota_types) >= set(call.plan.quota_types)",
        "set(outer.plan.quota_types) & set(call.plan.quota_types)",
        (TYPES + "::test_a_call_inside_is_part_of_one_that_takes_all_of_its_types",),
    ),
    Mutant(
        "a refund by the id of something else stays promised",
        "quota_engine/refunding.py",
        "NEVER = (IdempotencyConflictError, OperationCancelledError)",
        "NEVER = (OperationCancelledError,)",
        (REFUNDS + "::test_a_refund_by_the_id_of_something_else_keeps_no_promise",),
    ),
    Mutant(
        "a grant by the id of something else stays promised",
        "quota_engine/flows.py",
        "_CONFLICTS = (IdempotencyConflictError, OperationCancelledError)",
        "_CONFLICTS = (OperationCancelledError,)",
        (SCHEDULE + "::test_a_grant_by_the_id_of_something_else_keeps_no_promise",),
    ),
    Mutant(
        "a half of a call is persisted",
        "quota_engine/jobs/persist.py",
        ".read_calls(",
        ".read(",
        ("tests/integration/test_persist.py::test_what_one_call_did_is_persisted_in_one_piece",),
    ),
    Mutant(
        "the span of a refused call tells the text of its error",
        "quota_engine/tracing.py",
        "span.set_status(StatusCode.ERROR)",
        "span.set_status(StatusCode.ERROR, str(error))",
        (TRACING + "::test_a_call_that_is_refused_is_a_span_that_says_why",),
    ),
    Mutant(
        "what runs inside a metered call is not under its span",
        "quota_engine/metering/meter.py",
        "with current_span(call):",
        "if True:",
        (TRACING + "::test_a_metered_call_is_a_span_over_its_hold_its_work_and_its_capture",),
    ),
)
