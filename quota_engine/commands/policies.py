"""What Redis is told of accounts, and says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from quota_engine.commands.base import Argument, Command, Context, Reply
from quota_engine.commands.replies import barred
from quota_engine.errors import AccountBarredError, EngineFault
from quota_engine.keys import QuotaName, ShardKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAccount(Command[str]):
    """
    Tell Redis the record of an account. See ``lua/set_account.lua``.

    Answers the record that Redis has then: this one, or one of a revision that is not older.
    """

    script: ClassVar[str] = "set_account"

    #: The quota of no type.
    quota: QuotaName
    revision: int
    #: Empty: forget the account.
    record: str
    restricts: bool
    #: A record that is replaced whatever its revision says, to mend it.
    seen: str = ""

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return (keys.versions, keys.outbox)

    def argv(self, context: Context) -> Sequence[Argument]:
        told = (self.revision, self.record, int(self.restricts), self.seen)
        return (context.epoch, str(self.quota), *told)

    def parse(self, reply: Reply) -> str:
        match reply:
            case ["SET"]:
                return self.record
            case ["KEPT", record]:
                return str(record)
        raise EngineFault(f"set_account answered {reply!r}")


@dataclass(frozen=True, slots=True)
class AccountsRead:
    """
    What is said of a path: who of it is not active.

    ``may_admit``: calls on the quota may be admitted though nobody knows it, because it refuses
    nothing, or because others pay for it.
    """

    barred: AccountBarredError | None = None
    may_admit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAccounts(Command[AccountsRead]):
    """Say what counts of the accounts on a path. See ``lua/read_accounts.lua``."""

    script: ClassVar[str] = "read_accounts"

    quota: QuotaName

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return (keys.versions,)

    def argv(self, context: Context) -> Sequence[Argument]:
        return (context.epoch, str(self.quota), context.unenforced)

    def parse(self, reply: Reply) -> AccountsRead:
        match reply:
            case ["OPEN" | "SHADOW" | "PAYERS" as outcome]:
                return AccountsRead(may_admit=outcome != "OPEN")
            case ["BARRED", *told]:
                return AccountsRead(barred(told))
        raise EngineFault(f"read_accounts answered {reply!r}")
