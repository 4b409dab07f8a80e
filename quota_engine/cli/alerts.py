"""``alerts``: what is wrong now, the rules that say so, and whom they tell."""

from __future__ import annotations

from typing import Annotated

import typer

from quota_engine.cli.alert_channels import app as channels
from quota_engine.cli.alert_rules import define, history, remove, rules
from quota_engine.cli.lazy import command_group
from quota_engine.cli.opening import opened_engine, parse_instant
from quota_engine.cli.output import JsonFlag, print_facts, print_json, print_rows, to_plain
from quota_engine.cli.report_rows import Viewer

app = command_group("See what is wrong now; say when somebody is told, and how.")

AlertId = Annotated[str, typer.Argument(help="As `alerts list` shows it.")]
Operator = Annotated[str | None, typer.Option(help="Who does it; kept with the alert.")]
Remark = Annotated[str | None, typer.Option(help="Why; kept with the alert.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many, the newest.")]

ALERT = (
    *("alert_id", "severity", "state", "rule", "text", "opened_at", "acknowledged_by"),
    "resolved_at",
)
STEP = ("sequence", "action", "severity", "value", "threshold", "at", "operator", "remark")
DELIVERY = (
    *("delivery_id", "channel", "action", "state", "attempts", "created_at", "due_at", "error"),
    "joined_to",
)


@app.command("list")
def list_(
    *,
    state: Annotated[str, typer.Option(help="open, resolved or all.")] = "open",
    severity: Annotated[str | None, typer.Option(help="Only warning, or critical.")] = None,
    account: Annotated[str | None, typer.Option(help="Only of it and those below.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only of this rule.")] = None,
    since: Annotated[str | None, typer.Option(help="Only those opened then or later.")] = None,
    limit: Limit = None,
    viewer: Viewer = None,
    as_json: JsonFlag = False,
) -> None:
    """
    List alerts, the newest first: those that are open, unless --state says otherwise.

    Example: quota-engine alerts list --severity critical
    """
    begin = parse_instant(since, name="--since")
    with opened_engine() as engine:
        found = engine.alerts.list(
            state=state,
            severity=severity,
            account=account,
            rule=rule,
            since=begin,
            viewer=viewer,
            limit=limit,
        )
    print_rows(found, ALERT, as_json=as_json, empty="there are no such alerts")


@app.command()
def show(alert_id: AlertId, *, viewer: Viewer = None, as_json: JsonFlag = False) -> None:
    """
    Show an alert: what happened to it, who did what, and where its messages are.

    Example: quota-engine alerts show alert_0190…
    """
    with opened_engine() as engine:
        story = engine.alerts.show(alert_id, viewer=viewer)
    if as_json:
        print_json(story)
        return
    print_facts(story.alert, as_json=False)
    typer.echo("")
    print_rows(story.steps, STEP, as_json=False)
    if story.deliveries:
        typer.echo("")
        print_rows(story.deliveries, DELIVERY, as_json=False)


@app.command()
def acknowledge(
    alert_id: AlertId,
    *,
    operator: Operator = None,
    remark: Remark = None,
    viewer: Viewer = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Say that somebody has taken an open alert up. It stays open.

    Example: quota-engine alerts acknowledge alert_0190… --operator ann --remark "asked sales"
    """
    with opened_engine() as engine:
        done = engine.alerts.acknowledge(alert_id, operator=operator, remark=remark, viewer=viewer)
    print_facts(done, as_json=as_json)


@app.command()
def resolve(
    alert_id: AlertId,
    *,
    operator: Operator = None,
    remark: Remark = None,
    viewer: Viewer = None,
    as_json: JsonFlag = False,
) -> None:
    """
    Resolve an alert by hand. It comes back once its value has recovered and crosses again.

    Example: quota-engine alerts resolve alert_0190… --operator ann --remark "pays by invoice"
    """
    with opened_engine() as engine:
        done = engine.alerts.resolve(alert_id, operator=operator, remark=remark, viewer=viewer)
    print_facts(done, as_json=as_json)


for verb in (rules, define, remove, history):
    app.command()(verb)
app.add_typer(channels, name="channels")


@app.command("test")
def try_out(
    channel: Annotated[str, typer.Argument(help="As `alerts channels list` shows it.")],
    *,
    as_json: JsonFlag = False,
) -> None:
    """
    Send a message through a channel, from here and now; exit 1 with what the other side said.

    Example: quota-engine alerts test ops
    """
    with opened_engine() as engine:
        sent = engine.alerts.test(channel)
    print_facts({"sent": sent, "channel": channel}, as_json=as_json)


@app.command()
def deliveries(
    *,
    state: Annotated[
        str | None, typer.Option(help="Only pending, delivered, dead or joined.")
    ] = None,
    channel: Annotated[str | None, typer.Option(help="Only of this channel.")] = None,
    limit: Limit = 100,
    as_json: JsonFlag = False,
) -> None:
    """
    List messages, the newest first; joined ones were told together in another.

    Example: quota-engine alerts deliveries --state pending
    """
    with opened_engine() as engine:
        found = engine.alerts.deliveries(state=state, channel=channel, limit=limit)
    print_rows(found, DELIVERY, as_json=as_json, empty="there are no such messages")


@app.command()
def dead(*, limit: Limit = 100, as_json: JsonFlag = False) -> None:
    """
    List dead letters: messages that no attempt could deliver, with what the last one met.

    Example: quota-engine alerts dead
    """
    with opened_engine() as engine:
        found = engine.alerts.deliveries(state="dead", limit=limit)
    print_rows(found, DELIVERY, as_json=as_json, empty="there are no dead letters")


@app.command()
def retry(
    delivery_id: Annotated[
        str | None, typer.Argument(help="One dead letter. Default: every one.")
    ] = None,
    *,
    as_json: JsonFlag = False,
) -> None:
    """
    Let dead letters be tried anew, with all their attempts; workers deliver them.

    Example: quota-engine alerts retry
    """
    with opened_engine() as engine:
        count = engine.alerts.retry(delivery_id)
    print_facts(to_plain({"pending_again": count}), as_json=as_json)
