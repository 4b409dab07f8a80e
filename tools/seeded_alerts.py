"""Seeded faults of alerts: see ``seeded_faults``."""

from __future__ import annotations

from tools.mutant import Mutant

UNIT, QUOTAS = "tests/unit/test_alerts.py", "tests/integration/test_alerts.py"
DELIVERY, KILLED = "tests/integration/test_alert_delivery.py", "tests/faults/test_alerts_killed.py"
LEVELS = "tests/integration/test_alert_levels.py"

ALERTS = (
    Mutant(
        "an alert is told with every call",
        "quota_engine/alerts/crossing.py",
        "crossing.severity == CRITICAL and one.severity == WARNING",
        "crossing.severity == CRITICAL",
        (UNIT + "::test_each_crossing_is_told_once_whatever_values_come",),
    ),
    Mutant(
        "an open warning does not escalate",
        "quota_engine/alerts/crossing.py",
        "crossing.severity == CRITICAL and one.severity == WARNING",
        "crossing.severity == CRITICAL and one.severity is None",
        (UNIT,),
    ),
    Mutant(
        "reaching a threshold is not crossing it",
        "quota_engine/alerts/crossing.py",
        "if value <= at if self.is_falling else value >= at:",
        "if value < at if self.is_falling else value > at:",
        (UNIT + "::test_reaching_a_threshold_is_crossing_it",),
    ),
    Mutant(
        "a used-up grant makes a falling balance well",
        "quota_engine/alerts/watching.py",
        "            may_recover = moment.has_risen\n",
        "            pass\n",
        (QUOTAS + "::test_a_used_up_grant_that_counts_no_more_makes_nobody_well",),
    ),
    Mutant(
        "only what a batch leaves is looked at",
        "quota_engine/alerts/watching.py",
        "                for moment in watched.moments:\n",
        "                for moment in watched.moments[-1:]:\n",
        (QUOTAS + "::test_what_dips_and_recovers_within_a_batch_is_seen_once_each_time",),
    ),
    Mutant(
        "persisters are not told of rules",
        "quota_engine/ledger/alert_scanning.py",
        "            alert_rules.tell_shard(connection, row.shard, row.revision)\n",
        "            pass\n",
        (QUOTAS + "::test_a_balance_fires_once_recovers_and_escalates",),
    ),
    Mutant(
        "a mistake in alerts stops the drain",
        "quota_engine/ledger/appending.py",
        '            log.exception("what a batch of entries crossed cannot be told")\n',
        "            raise\n",
        (QUOTAS + "::test_an_alert_that_cannot_be_recorded_keeps_no_entry_from_the_ledger",),
    ),
    Mutant(
        "who looks twice makes two alerts",
        "quota_engine/ledger/alert_writing.py",
        "if one.is_new and not cursor.execute(_INSERT, _row(one)).rowcount:",
        "if one.is_new and cursor.execute(_INSERT, _row(one)).rowcount < 0:",
        (QUOTAS + "::test_of_two_who_see_a_crossing_at_once_one_makes_the_alert",),
    ),
    Mutant(
        "a viewer sees every alert",
        "quota_engine/ledger/alerting.py",
        "return true() if viewer is None else within(alerts.c.account, viewer)",
        "return true()",
        (QUOTAS + "::test_a_viewer_sees_alerts_of_its_own_accounts_alone",),
    ),
    Mutant(
        "a claim keeps nobody else from attempting",
        "quota_engine/ledger/alert_deliveries.py",
        "    due_at = clock_timestamp() + make_interval(secs => :seconds)\n",
        "    due_at = clock_timestamp() + 0 * make_interval(secs => :seconds)\n",
        (DELIVERY + "::test_deliverers_at_once_attempt_each_message_one_at_a_time", KILLED),
    ),
    Mutant(
        "a message is marked before it is sent",
        "quota_engine/delivering/attending.py",
        "    try:\n        send(claimed)\n",
        "    messages.mark_delivered(claimed)\n    try:\n        send(claimed)\n",
        (DELIVERY + "::test_a_dead_webhook_ends_in_the_dead_letters_and_is_tried_anew",),
    ),
    Mutant(
        "what is beyond the rate is dropped",
        "quota_engine/ledger/alert_deliveries.py",
        "            chosen = due[0] if len(due) == 1 else _joined(connection, channel, due)\n",
        "            chosen = due[0]\n",
        (DELIVERY + "::test_more_than_a_channel_may_be_told_is_told_together",),
    ),
    Mutant(
        "a signature leaves out the instant",
        "quota_engine/alerts/signing.py",
        'f"{message_id}.{timestamp}.".encode()',
        'f"{message_id}..".encode()',
        (UNIT + "::test_a_signature_is_that_of_the_standard",),
    ),
    Mutant(
        "a webhook's redirect is followed",
        "quota_engine/delivering/senders.py",
        "urllib.request.build_opener(_NoRedirects)",
        "urllib.request.build_opener()",
        (DELIVERY + "::test_a_webhook_that_fails_twice_is_told_at_the_third_attempt_and_signed",),
    ),
    Mutant(
        "a list shows the whole URL of a webhook",
        "quota_engine/alerts/channels.py",
        '    return f"{parts.scheme}://{parts.host}:{parts.port}/…"\n',
        "    return str(parts)\n",
        (UNIT + "::test_what_is_shown_of_a_channel_is_no_secret",),
    ),
    Mutant(
        "an alert outlives its period",
        "quota_engine/jobs/alerts.py",
        "        if one.subject.name not in crossed:\n",
        "        if one.subject.name in crossed:\n",
        (LEVELS + "::test_usage_and_cost_of_a_period_are_told",),
    ),
)
