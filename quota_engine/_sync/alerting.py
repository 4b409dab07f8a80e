# Written by tools/unasync.py from quota_engine/_async/alerting.py. Edit that file instead.
"""Alerts, as the engine's callers see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from quota_engine._sync.transport import Transport
from quota_engine.alerts.channels import (
    CALLBACK,
    DELIVERY_STATES,
    Channel,
    Claimed,
    Delivery,
    checked_channel,
)
from quota_engine.alerts.rules import (
    AlertChange,
    AlertRule,
    checked_by,
    checked_rule,
    checked_rule_name,
)
from quota_engine.alerts.told import (
    LIMIT,
    OPEN,
    Alert,
    AlertMessage,
    AlertStory,
    body_of_test,
    checked_alert_query,
)
from quota_engine.amounts import checked_amount
from quota_engine.backing import AlertStore, Backing
from quota_engine.delivering import Listeners, deliver_once, send_test
from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import checked_id, new_id
from quota_engine.settings import Settings
from quota_engine.viewing import checked_viewer
from quota_engine.waiting import in_place

RULE, CHANNEL = "rule", "channel"


class Alerts:
    """
    Rules that say when somebody is told, what they have found, and whom they tell.

    Every call reads PostgreSQL. Workers persist, look and deliver; without them ``run_schedule``
    and ``deliver`` do. Raises ``AlertNotFoundError`` for what there is not, and
    ``InvalidArgumentError`` for what cannot be meant. ``viewer``: an account, on whose behalf is
    asked, who sees alerts of its own and of the accounts below; None: an operator, who sees all.
    """

    def __init__(self, transport: Transport, backing: Backing, settings: Settings) -> None:
        self._transport = transport
        self._backing = backing
        self._settings = settings
        self._listeners: Listeners | None = None

    # -- rules

    def define(
        self,
        name: str,
        kind: str,
        *,
        warning: Decimal | int | str | None = None,
        critical: Decimal | int | str | None = None,
        account: str | None = None,
        subtree: bool = False,
        quota_type: str | None = None,
        period: str | None = None,
        currency: str | None = None,
        provider: str | None = None,
        each: bool = False,
        channels: Sequence[str] | None = None,
        operator: str | None = None,
        remark: str | None = None,
    ) -> AlertRule:
        """
        Make a rule, or change the one of this name; the same again changes nothing.

        ``kind``: balance, debt, shortfall, frozen, usage, cost, unpriced, run_dry, expiring, pool,
        drift, drain_late or reconcile_late: docs/alerts.md says what each looks at. ``warning``
        and ``critical``: values that cross by being reached; of a balance also per cent of what
        was granted, such as ``"20%"``. ``account`` None: all; ``subtree``: with those below it.
        ``each``: of usage and cost, every account for itself. ``channels`` None: all.

        What is beyond a threshold already fires now, or within seconds where workers run.
        """
        terms = checked_rule(
            kind,
            self._settings,
            warning=warning,
            critical=critical,
            account=account,
            subtree=subtree,
            quota_type=quota_type,
            period=period,
            currency=currency,
            provider=provider,
            each=each,
            channels=channels,
        )
        by = checked_by(operator, remark)
        return in_place(self._store.put_rule, checked_rule_name(name), terms, by)

    def remove(self, name: str, *, operator: str | None = None, remark: str | None = None) -> None:
        """Remove a rule. Its open alerts are resolved, and nobody is told."""
        by = checked_by(operator, remark)
        in_place(self._store.drop_rule, checked_rule_name(name), by)

    def rules(self, *, viewer: str | None = None) -> Sequence[AlertRule]:
        """Return every rule, by name; of a viewer those on its account and below."""
        return in_place(self._store.list_rules, checked_viewer(viewer))

    def rule_history(self, name: str) -> Sequence[AlertChange]:
        """Return who made, changed and removed a rule, when and why, oldest first."""
        return in_place(self._store.history, RULE, checked_rule_name(name))

    # -- alerts

    def list(
        self,
        *,
        state: str = OPEN,
        severity: str | None = None,
        account: str | None = None,
        rule: str | None = None,
        since: datetime | None = None,
        viewer: str | None = None,
        limit: int | None = None,
    ) -> Sequence[Alert]:
        """
        Return alerts, the newest first, at most ``limit`` (1,000).

        ``state``: open, resolved or all; ``account``: it and those below; ``since``: opened then
        or later.
        """
        query = checked_alert_query(
            state=state,
            severity=severity,
            account=account,
            rule=rule,
            since=since,
            viewer=viewer,
            limit=limit,
        )
        return in_place(self._store.list_alerts, query)

    def show(self, alert_id: str, *, viewer: str | None = None) -> AlertStory:
        """Return an alert with its transitions; an operator sees its messages, too."""
        name = checked_id(alert_id, name="alert id")
        return in_place(self._store.story, name, checked_viewer(viewer))

    def acknowledge(
        self,
        alert_id: str,
        *,
        operator: str | None = None,
        remark: str | None = None,
        viewer: str | None = None,
    ) -> Alert:
        """Record that somebody has taken an open alert up; nobody is told. Again: no effect."""
        return in_place(
            self._store.acknowledge,
            checked_id(alert_id, name="alert id"),
            checked_by(operator, remark),
            checked_viewer(viewer),
        )

    def resolve(
        self,
        alert_id: str,
        *,
        operator: str | None = None,
        remark: str | None = None,
        viewer: str | None = None,
    ) -> Alert:
        """
        Resolve an alert by hand. Again: no effect.

        It stays silent until its value has recovered, when its rule is armed again; a warning that
        becomes critical is told all the same.
        """
        return in_place(
            self._store.resolve,
            checked_id(alert_id, name="alert id"),
            checked_by(operator, remark),
            checked_viewer(viewer),
        )

    # -- channels

    def add_channel(
        self,
        name: str,
        kind: str,
        *,
        target: str | Sequence[str] | None = None,
        secret: str | None = None,
        per_minute: int | None = None,
        operator: str | None = None,
        remark: str | None = None,
    ) -> Channel:
        """
        Make a channel, or change the one of this name.

        ``kind``: webhook (``target``: its URL), email (addresses), log, or callback: see ``on``.
        ``secret`` signs webhooks; None: the one it has, or one that is made up, which is in
        ``.secret`` of the answer and shown to nobody again. ``per_minute`` (60): messages beyond
        are told together.
        """
        checked, terms = checked_channel(
            name, kind, target=target, secret=secret, per_minute=per_minute
        )
        by = checked_by(operator, remark)
        return in_place(self._store.put_channel, checked, terms, by)

    def remove_channel(
        self, name: str, *, operator: str | None = None, remark: str | None = None
    ) -> None:
        """Remove a channel. What waits for it is given up; rules that name it tell the others."""
        by = checked_by(operator, remark)
        in_place(self._store.drop_channel, checked_rule_name(name), by)

    def channels(self) -> Sequence[Channel]:
        """Return every channel, by name, without what is secret of it."""
        return in_place(self._store.list_channels)

    def channel_history(self, name: str) -> Sequence[AlertChange]:
        """Return who made, changed and removed a channel, when and why, oldest first."""
        return in_place(self._store.history, CHANNEL, checked_rule_name(name))

    def test(self, channel: str) -> str:
        """
        Send a message that says it is a test, from here and now; return its id.

        Raises ``EngineUnavailableError`` with what the other side said.
        """
        name = checked_rule_name(channel)
        terms = in_place(self._store.channel_terms, name)
        made = new_id("test")
        body = body_of_test(made, self._backing.deployment_id, datetime.now(UTC), name)
        in_place(send_test, Claimed(made, 1, name, terms, body), self._settings)
        return made

    def on(
        self, callback: Callable[[AlertMessage], object], *, channel: str = CALLBACK
    ) -> Callable[[], None]:
        """
        Call ``callback`` with each message of a channel of kind callback; return what ends that.

        The channel is made if there is none. A plain function, called in a thread of its own,
        also by the async engine. Of several processes that listen to a channel one gets each
        message; where it raises or dies, somebody gets the message again: ``.message_id`` tells.
        """
        if not callable(callback):
            raise InvalidArgumentError(f"callback must be callable, not {callback!r:.80}")
        known = {one.name: one.kind for one in self.channels()}
        if known.get(channel, CALLBACK) != CALLBACK:
            raise InvalidArgumentError(f"{channel} is a channel of kind {known[channel]}")
        if channel not in known:
            self.add_channel(channel, CALLBACK)
        if self._listeners is None:
            self._listeners = Listeners(self._store.deliveries, self._settings)
        return self._listeners.listen(channel, callback)

    # -- messages

    def deliver(self) -> tuple[int, int]:
        """
        Deliver what is due now, as workers do by themselves; return how many arrived and failed.

        By webhook, e-mail and log; callbacks are told by who listens.
        """
        return in_place(deliver_once, self._store.deliveries, self._settings)

    def deliveries(
        self, *, state: str | None = None, channel: str | None = None, limit: int | None = None
    ) -> Sequence[Delivery]:
        """Return messages, the newest first: pending, delivered, dead or joined ones, or all."""
        if state is not None and state not in DELIVERY_STATES:
            raise InvalidArgumentError(
                f"state must be {', '.join(DELIVERY_STATES)}, not {state!r:.80}"
            )
        name = None if channel is None else checked_rule_name(channel)
        most = LIMIT if limit is None else checked_amount(limit, name="limit")
        return in_place(self._store.deliveries.list_deliveries, state, name, most)

    def retry(self, delivery_id: str | None = None) -> int:
        """Let dead messages be tried anew, or one of them; return how many that is."""
        name = None if delivery_id is None else checked_id(delivery_id, name="delivery id")
        return in_place(self._store.deliveries.retry, name)

    def stop_listening(self) -> None:
        """End every callback, after the message that it is at: as the engine's closing does."""
        if self._listeners is not None:
            in_place(self._listeners.close)
            self._listeners = None

    @property
    def _store(self) -> AlertStore:
        return self._backing.statement_store.alerts
