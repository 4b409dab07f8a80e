"""
Settings: one frozen object. Read from the environment (``QUOTA_ENGINE_*``) at the doors only.

Each field says its unit, what it means and why its default is what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from quota_engine.ids import checked_account, checked_quota_type
from quota_engine.keys import QuotaName
from quota_engine.offline import Allowance, OfflineRule, Policy, offline_allowance

REMINDER_DAYS_MAX = 3_650
BUILT_IN_QUOTA_TYPES = ("text_token", "image", "audio", "video", "credit")


class Settings(BaseSettings):
    """How one process talks to its deployment."""

    model_config = SettingsConfigDict(env_prefix="QUOTA_ENGINE_", frozen=True, extra="ignore")

    redis_url: str | None = Field(
        None, description="Redis or Valkey of the balances; unset: the home's own server."
    )
    database_url: str | None = Field(
        None, description="PostgreSQL of the ledger; unset: the home's own server."
    )
    rq_redis_url: str | None = Field(
        None, description="Redis of the RQ queues; unset: the one of the balances."
    )
    redis_is_durable_elsewhere: bool = Field(
        False,
        description="The operator declares that Redis keeps its data without an append-only file, "
        "as some managed services do.",
    )
    home: Path = Field(
        Path("~/.quota-engine"), description="Folder of the servers that the engine starts itself."
    )
    shards: int = Field(
        8,
        ge=1,
        le=100,
        description="Outboxes over which accounts are spread; fixed at the first start. Eight "
        "keep two cores busy and idle polling cheap.",
    )
    quota_types: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Own quota types beside the built-in ones, separated by commas."
    )
    shadow_quota_types: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Quota types, separated by commas, that refuse nothing where no account says"
        " otherwise: what would have been refused is let through, and told. Say the same to all"
        " processes.",
    )
    hold_ttl_seconds: float = Field(
        120,
        gt=0,
        le=86_400,
        description="Life of a hold that names none: two minutes outlive most calls.",
    )
    horizon_seconds: int = Field(
        900,
        ge=60,
        le=86_400,
        description="How long Redis remembers an operation id, at least: retries come in minutes.",
    )
    due_max: int = Field(
        32,
        ge=1,
        le=1000,
        description="Changes (starts, expiries) that one call applies on its way.",
    )
    grants_max: int = Field(
        5_000, ge=1, le=50_000, description="Unspent grants that one quota may have."
    )
    connect_timeout_seconds: float = Field(
        2.0, gt=0, le=60, description="Wait for a connection to Redis or PostgreSQL."
    )
    socket_timeout_seconds: float = Field(
        2.0, gt=0, le=60, description="Wait for one answer of Redis; scripts take microseconds."
    )
    call_timeout_seconds: float = Field(
        10.0,
        gt=0,
        le=600,
        description="Wait for one engine call, retries, hydration and a reopening gate included.",
    )
    connections_max: int = Field(
        20,
        ge=1,
        le=1000,
        description="Connections of one client to Redis; about 20 measured best.",
    )
    database_connections_max: int = Field(
        10,
        ge=2,
        le=1000,
        description="Connections of one process to PostgreSQL: hydrations, a drain, duties and "
        "reports at once.",
    )
    hydrations_max: int = Field(
        4,
        ge=1,
        le=100,
        description="Quotas that one process loads from PostgreSQL at once, however many callers "
        "wait: after Redis was wiped, all of them do.",
    )
    prewarm_max: int = Field(
        1_000,
        ge=0,
        le=100_000,
        description="Quotas that whoever opened Redis again loads in the background, the busiest "
        "of the last ten minutes first; callers find those loaded.",
    )
    resend_seconds: float = Field(
        5,
        ge=0,
        le=60,
        description="How long a client remembers what it was answered, to send it again when "
        "Redis was set back: a Redis that syncs every second loses up to two. 0: not at all.",
    )
    persist_batch_max: int = Field(
        2_000, ge=1, le=50_000, description="Entries that one transaction persists."
    )
    drain_slice_seconds: float = Field(
        30,
        ge=1,
        le=300,
        description="Length of one drain job: long enough that jobs cost nothing, short enough "
        "that other workers get their turn.",
    )
    trim_after_seconds: float = Field(
        60,
        ge=0,
        description="How long persisted entries stay in the outbox, so that a PostgreSQL that "
        "lost its last commits can be fed again.",
    )
    trim_keep_max: int = Field(
        100_000, ge=0, description="Persisted entries that one outbox keeps at most: about 40 MB."
    )
    outbox_soft_limit: int = Field(
        100_000,
        ge=1,
        description="Entries of one shard that wait to be persisted, from which on clients, "
        "workers and doctor warn: about 40 MB, far above what drained shards ever have.",
    )
    outbox_hard_limit: int = Field(
        500_000,
        ge=1,
        description="Entries of one shard that wait to be persisted, from which on new holds, "
        "debits and grants are refused while captures pass: about 200 MB a shard. Keep some of "
        "Redis' memory above all shards' limits free: captures go on in it.",
    )
    unload_after_seconds: float = Field(
        3_600, ge=0, description="Idle time after which a drained quota leaves Redis."
    )
    reconcile_every_seconds: float = Field(
        300, gt=0, description="Time between two reconciliations by the workers."
    )

    drain_late_seconds: float = Field(
        15,
        gt=0,
        description="How long an entry may wait to be persisted before that is an alarm: drained "
        "shards take fractions of a second.",
    )
    reconcile_late_seconds: float = Field(
        1_800,
        gt=0,
        description="How long ago the last reconciliation may have ended before that is an alarm: "
        "six times its usual period.",
    )
    duty_late_seconds: float = Field(
        300,
        gt=0,
        description="How long ago any other duty of the workers may have been done before that is "
        "an alarm; their periods are seconds.",
    )

    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="Port on which a worker tells Prometheus of the deployment; unset: none, "
        "0: any that is free, which its first line then names.",
    )
    metrics_host: str = Field(
        "127.0.0.1",
        description="Address that it listens on: this machine's own, since it asks for no "
        "password.",
    )
    metrics_quotas: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        max_length=100,
        description="Quotas whose balance a worker tells Prometheus, separated by commas: "
        "`acme|credit,user:42|text_token`. At most 100.",
    )

    currency: str = Field(
        "USD",
        pattern="^[A-Z]{3}$",
        description="The deployment's currency: that of quota type credit, and of prices and "
        "costs where none is named.",
    )
    price_refresh_seconds: float = Field(
        30,
        ge=0,
        description="Age at which a client reads a model's prices again: so late it may see what "
        "another process sets. Set changes of price ahead, and they count from their instant.",
    )
    price_age_max_seconds: float = Field(
        3_600,
        ge=0,
        description="Age up to which prices may be used while PostgreSQL does not answer.",
    )

    pool_refresh_seconds: float = Field(
        3,
        ge=0,
        description="Age at which a client that refuses calls of empty provider pools reads them "
        "again: so late it may see a recharge, and so long an empty one is used on.",
    )

    spool_folder: Path | None = Field(
        None,
        description="Folder of the files in which charges wait while Redis is away, one per "
        "deployment: on a local disk, shared by the processes of a machine; unset: `spool` in the "
        "home.",
    )
    offline_policy: Policy = Field(
        "closed",
        description="What is admitted while Redis is away: nothing (`closed`), since nobody knows "
        "then what is left, or holds and debits up to the allowance (`open`).",
    )
    offline_allowance: Allowance = Field(
        0,
        description="Units of each quota that one machine admits while Redis is away and the "
        'policy is open; or by quota type, as JSON: `{"text_token": 20000}`.',
    )
    offline_rules: Mapping[str, OfflineRule] = Field(
        {},
        description="Other policies for some accounts, as JSON: "
        '`{"acme": {"policy": "open", "allowance": 500}, "user:*": {"policy": "closed"}}`. '
        "`acme` means those below it, too; the longest name that fits wins.",
    )

    reminder_days: Annotated[tuple[int, ...], NoDecode] = Field(
        (7, 3, 1),
        description="How many days before a grant with something left ends somebody is reminded, "
        "separated by commas: each grant once for each. Empty: never.",
    )

    alert_attempts_max: int = Field(
        10,
        ge=1,
        le=50,
        description="How often a message about an alert is tried before it is given up, a dead "
        "letter.",
    )
    alert_retry_seconds: float = Field(
        5,
        ge=0,
        le=3_600,
        description="Pause after the first attempt that failed; it doubles with each, up to an "
        "hour. Ten attempts take 40 minutes.",
    )
    alert_timeout_seconds: float = Field(
        5, gt=0, le=60, description="Wait for a webhook or mail server, at each of its steps."
    )
    smtp_url: SecretStr | None = Field(
        None,
        description="Mail server of alerts: `smtp://user:password@host:587` (with STARTTLS where "
        "it is offered) or `smtps://host:465`.",
    )
    smtp_sender: str | None = Field(
        None, description="Address that e-mails about alerts come from."
    )

    @field_validator(
        *("quota_types", "shadow_quota_types", "reminder_days", "metrics_quotas"), mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("quota_types", "shadow_quota_types")
    @classmethod
    def _legal(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(checked_quota_type(name) for name in value)

    @field_validator("metrics_quotas")
    @classmethod
    def _quotas(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            quota = QuotaName.parse(name)
            checked_account(quota.account)
            checked_quota_type(quota.quota_type)
        return tuple(dict.fromkeys(value))

    @field_validator("smtp_url")
    @classmethod
    def _of_mail(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("smtp://", "smtps://")):
            raise ValueError("a mail server's URL begins with smtp:// or smtps://")
        return value

    @field_validator("reminder_days")
    @classmethod
    def _within_years(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not all(0 < days <= REMINDER_DAYS_MAX for days in value):
            raise ValueError(f"days must be 1 to {REMINDER_DAYS_MAX}")
        return tuple(sorted(set(value), reverse=True))

    @property
    def spool_place(self) -> Path:
        """The folder of the spools."""
        return (self.spool_folder or self.home / "spool").expanduser()

    def offline_allowance_of(self, quota: QuotaName) -> int:
        """Return how many units of a quota may be admitted while Redis is away; 0: none."""
        default = OfflineRule(policy=self.offline_policy, allowance=self.offline_allowance)
        return offline_allowance(self.offline_rules, default, quota)

    @property
    def may_admit_offline(self) -> bool:
        """Whether any account may be admitted while Redis is away."""
        rules = [rule.policy for rule in self.offline_rules.values()]
        return "open" in (self.offline_policy, *rules)

    @property
    def horizon_ms(self) -> int:
        """The horizon in milliseconds."""
        return self.horizon_seconds * 1000

    @property
    def unenforced(self) -> str:
        """The quota types in the shadow as scripts are told them."""
        return f" {' '.join(self.shadow_quota_types)} " if self.shadow_quota_types else ""

    @property
    def known_quota_types(self) -> frozenset[str]:
        """Every quota type that this deployment uses. ``credit_<currency>`` always counts."""
        return frozenset(BUILT_IN_QUOTA_TYPES + self.quota_types)
