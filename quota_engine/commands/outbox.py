"""What is done to a shard's outbox as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from quota_engine.commands.base import Argument, Command, Context, Reply
from quota_engine.errors import EngineFault
from quota_engine.events import EventId
from quota_engine.keys import ShardKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class NotePersisted(Command[int]):
    """
    Tell a shard how far it is persisted. See ``lua/note_persisted.lua``.

    Answers how many persisted events its outbox keeps. It is about a shard, so it has no quota.
    """

    script: ClassVar[str] = "note_persisted"

    cursor: EventId

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return keys.versions, keys.outbox

    def argv(self, context: Context) -> Sequence[Argument]:
        return context.epoch, str(self.cursor)

    def parse(self, reply: Reply) -> int:
        match reply:
            case ["NOTED", count]:
                return int(count)
        raise EngineFault(f"note_persisted answered {reply!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimOutbox(Command[int]):
    """
    Drop the events before ``min_id``. See ``lua/trim_outbox.lua``.

    Answers how many went. It is about a shard, so it has no quota.
    """

    script: ClassVar[str] = "trim_outbox"

    min_id: EventId

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return keys.versions, keys.outbox

    def argv(self, context: Context) -> Sequence[Argument]:
        return context.epoch, str(self.min_id)

    def parse(self, reply: Reply) -> int:
        match reply:
            case ["TRIMMED", count]:
                return int(count)
        raise EngineFault(f"trim_outbox answered {reply!r}")
