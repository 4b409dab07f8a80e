"""A model call that charges nothing leaves a record all the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from quota_engine.commands.arguments import fingerprint, writing_argv, writing_keys
from quota_engine.commands.base import Argument, Command, Context, Reply
from quota_engine.commands.snapshots import Operation
from quota_engine.errors import EngineFault
from quota_engine.keys import QuotaName, ShardKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedUsage:
    """A record of a call that charged nothing; ``version`` is its entry."""

    operation_id: str
    account: str
    quota_type: str
    version: int
    replayed: bool = False
    #: Redis was away: the record waits in the spool of this machine. ``version`` is 0.
    spooled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordUsage(Command[RecordedUsage]):
    """Keep a record of usage. See ``lua/record_usage.lua``."""

    script: ClassVar[str] = "record_usage"
    is_sent_again: ClassVar[bool] = True

    quota: QuotaName
    operation_id: str
    details: str

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return writing_keys(keys, self.quota)

    @property
    def fingerprint(self) -> str:
        """The hash of what makes this record this record."""
        return fingerprint("record_usage", self.details)

    def argv(self, context: Context) -> Sequence[Argument]:
        rest = (self.operation_id, self.fingerprint, self.details)
        return (*writing_argv(context, self.quota), *rest)

    def parse(self, reply: Reply) -> RecordedUsage:
        match reply:
            case ["RECORDED" | "REPLAYED" as outcome, *lines]:
                answer = Operation.parse(self.operation_id, lines)
                return RecordedUsage(
                    operation_id=self.operation_id,
                    account=self.quota.account,
                    quota_type=self.quota.quota_type,
                    version=answer.version,
                    replayed=outcome == "REPLAYED",
                )
        raise EngineFault(f"record_usage answered {reply!r}")

    @property
    def may_create(self) -> bool:
        return True
