"""The seeded faults of account policies: see ``seeded_faults``."""

from __future__ import annotations

from tools.mutant import Mutant

SCRIPTS, STATES = "tests/lua/test_accounts.py", "tests/integration/test_accounts.py"
MOVES = "tests/integration/test_account_moves.py"
PAYERS = "tests/lua/test_payers.py"
#: The oracle itself, over a row of the fault matrix with payers in play.
UNDER_FIRE = (
    "tests/faults/test_redis_restarts.py::test_flushed_scripts_are_loaded_again_and_nobody_notices"
)
PAID = "tests/integration/test_payers_settled.py"

ACCOUNTS = (
    Mutant(
        "accounts above do not count",
        "lua/lib/policies.lua",
        'account .. "|"\n    account = string.match(account, "^(.*)/")',
        'account .. "|"\n    account = nil',
        (SCRIPTS,),
    ),
    Mutant(
        "an older policy overwrites a newer one",
        "lua/set_account.lua",
        "if known and known >= revision then",
        "if known and known == revision then",
        (SCRIPTS,),
    ),
    Mutant(
        "a hold of a suspended account grows",
        "lua/extend_hold.lua",
        "grows and (accounts.barred(states) or ",
        "grows and (",
        (SCRIPTS,),
    ),
    Mutant(
        "a gate opens without what is said of accounts",
        "quota_engine/jobs/gate_server.py",
        "epoch, *persisted, *said))",
        "epoch, *persisted))",
        (f"{STATES}::test_a_wiped_redis_knows_who_is_suspended_before_its_first_call",),
    ),
    Mutant(
        "a policy that Redis was not told is taken for told",
        "quota_engine/ledger/policies.py",
        ".where(table.c.sent_revision < table.c.revision)",
        ".where(table.c.sent_revision > table.c.revision)",
        (f"{STATES}::test_who_dies_before_redis_was_told_is_followed_by_the_workers",),
    ),
    Mutant(
        "an edited policy is not compared",
        "quota_engine/jobs/policies.py",
        "if record != record_of(policy):",
        "if record_of(policy) is None:",
        (f"{STATES}::test_what_somebody_has_edited_is_found_and_mended",),
    ),
    Mutant(
        "an order of a closed account is recorded",
        "quota_engine/ledger/orders.py",
        "    refuse_closed(connection, account)\n",
        "",
        (f"{STATES}::test_nothing_is_put_into_a_closed_account",),
    ),
    Mutant(
        "offline admission does not ask who is suspended",
        "quota_engine/_sync/spooling.py",
        "Any:\n        self._refuse_barred(command.quota.account)\n",
        "Any:\n",
        (f"{STATES}::test_while_redis_is_away_the_suspended_are_not_admitted",),
    ),
    Mutant(
        "a quota that enforces lets through what another one in the shadow does",
        "lua/lib/policies.lua",
        'state.is_in_shadow = said == "shadow"',
        'state.is_in_shadow = said == "shadow" or state ~= states[1]',
        ("tests/properties/test_scopes.py",),
    ),
    Mutant(
        "a payer pays although it is suspended",
        "lua/lib/paying.lua",
        'if payer.frozen ~= "" or policies.are_barred(states, payer.name) then',
        'if payer.frozen ~= "" then',
        (PAYERS,),
    ),
    Mutant(
        "a payer pays more than it has",
        "lua/lib/paying.lua",
        "if not gates or payer.asked > quotas.spendable(payer) then",
        "if not gates then",
        (PAYERS,),
    ),
    Mutant(
        "the own quota is held beside who pays",
        "lua/place_hold.lua",
        "each.held = each.held + (each.is_counted and 0 or each.asked)",
        "each.held = each.held + each.asked",
        (PAYERS,),
    ),
    Mutant(
        "a capture asks the policy who pays, not the hold",
        "lua/capture_hold.lua",
        " or payers.follow(states, hold_id, due_max)",
        "",
        (PAYERS,),
    ),
    Mutant(
        "a capture charges the own quota beside who pays",
        "lua/capture_hold.lua",
        "each.is_counted = each.payer ~= nil or limits.alone(each)",
        "each.is_counted = limits.alone(each)",
        (UNDER_FIRE,),
    ),
    Mutant(
        "who pays is charged one more",
        "lua/lib/paying.lua",
        "local can, refused\n    payer.asked = own.asked",
        "local can, refused\n    payer.asked = own.asked + 1",
        (UNDER_FIRE,),
    ),
    Mutant(
        "a refund that was cancelled is given back above all the same",
        "quota_engine/flows.py",
        "        yield WithdrawRefund(command.quota, command.operation_id)\n",
        "",
        ("tests/integration/test_cancel.py",),
    ),
    Mutant(
        "the ledger forgets who pays for a hold",
        "quota_engine/kinds.py",
        'paid_by=payer_word(payer_in(entry.flags) or ""),',
        "",
        ("tests/integration/test_payers.py::test_whoever_comes_later_finds_who_paid",),
    ),
    Mutant(
        "a payer that has the call already is asked for in vain",
        "lua/lib/paying.lua",
        " or (states[1].done or {})[name]",
        "",
        (f"{PAYERS}::test_a_payer_above_that_has_the_call_already_has_paid",),
    ),
    Mutant(
        "a thawed charge is paid again",
        "quota_engine/jobs/thaw_rules.py",
        '"paid_by": payer_in(entry.flags)',
        '"paid_by": None',
        (f"{PAID}::test_a_charge_that_another_paid_is_thawed_without_being_paid_again",),
    ),
    Mutant(
        "what a correction has promised counts as given back",
        "quota_engine/ledger/charges.py",
        '"mark": CORRECTION',
        '"mark": ":never:"',
        (f"{PAID}::test_who_tries_a_correction_again_finishes_what_was_promised",),
    ),
    Mutant(
        "a correction asks the policy who pays",
        "lua/debit_used.lua",
        "payers.obey(states, paid_by, due_max)",
        "nil",
        (f"{PAID}::test_a_call_that_another_paid_is_settled_anew_with_who_paid",),
    ),
    Mutant(
        "who paid gets nothing back of a correction",
        "quota_engine/commands/refunds.py",
        "shares = (*homes[1:], ",
        "shares = (",
        (f"{PAID}::test_a_correction_whose_maker_dies_is_finished_for_who_paid_too",),
    ),
    Mutant(
        "the shadow admits what nobody can count",
        "lua/lib/quotas.lua",
        "if not state.is_in_shadow or state.asked > amounts.MAX - state.held then",
        "if not state.is_in_shadow then",
        (SCRIPTS,),
    ),
    Mutant(
        "the shadow lets limits refuse",
        "lua/lib/windows.lua",
        "if state.is_asked and state.is_in_shadow then",
        "if not state.is_asked and state.is_in_shadow then",
        (SCRIPTS,),
    ),
    Mutant(
        "what was voided for a move is promised again",
        "quota_engine/ledger/account_move_steps.py",
        ".values(issued=row.voided, pieces=row.pieces + 1)",
        ".values(pieces=row.pieces + 1)",
        (f"{MOVES}::test_an_account_moves_with_all_that_it_has",),
    ),
    Mutant(
        "a move is finished while holds are open",
        "quota_engine/ledger/account_move_steps.py",
        '(holds, holds.c.state == "open")',
        '(holds, holds.c.state == "closed")',
        (f"{MOVES}::test_open_holds_are_settled_at_the_old_place_and_what_they_leave_follows",),
    ),
    Mutant(
        "a move whose caller died is left alone",
        "quota_engine/ledger/account_moves.py",
        "table.c.finished_at.is_(None)",
        "table.c.finished_at.is_not(None)",
        (f"{MOVES}::test_who_dies_at_a_step_of_a_move_is_followed_by_the_schedule",),
    ),
    Mutant(
        "a subscription's grants lose their ids when its account moves",
        "quota_engine/ledger/account_move_steps.py",
        'or_(table.c.source == "purchase", is_of_subscription)',
        'table.c.source == "purchase"',
        (f"{MOVES}::test_a_subscription_and_an_order_go_on_at_the_new_place",),
    ),
    Mutant(
        "an explanation leaves out limits that would refuse, too",
        "quota_engine/explaining.py",
        "limit.headroom >= required",
        "limit.headroom >= 0",
        ("tests/integration/test_explain.py::test_all_that_has_to_change_is_named",),
    ),
)
