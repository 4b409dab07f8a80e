"""A mend leaves an entry: who repaired a quota, and why."""

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
class RecordedRepair:
    """A repair that was written down; ``version`` is its entry."""

    operation_id: str
    account: str
    quota_type: str
    version: int
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRepair(Command[RecordedRepair]):
    """
    Write down that a quota was mended. See ``lua/record_repair.lua``.

    Idempotent by its operation id and cause: who repeats it may tell other details, for between
    two attempts a clock went on and values moved.
    """

    script: ClassVar[str] = "record_repair"

    quota: QuotaName
    operation_id: str
    cause: str
    details: str

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return writing_keys(keys, self.quota)

    def argv(self, context: Context) -> Sequence[Argument]:
        print_ = fingerprint("record_repair", self.cause)
        rest = (self.operation_id, print_, self.cause, self.details)
        return (*writing_argv(context, self.quota), *rest)

    def parse(self, reply: Reply) -> RecordedRepair:
        match reply:
            case ["RECORDED" | "REPLAYED" as outcome, *lines]:
                answer = Operation.parse(self.operation_id, lines)
                return RecordedRepair(
                    operation_id=self.operation_id,
                    account=self.quota.account,
                    quota_type=self.quota.quota_type,
                    version=answer.version,
                    replayed=outcome == "REPLAYED",
                )
        raise EngineFault(f"record_repair answered {reply!r}")

    @property
    def may_create(self) -> bool:
        return True
