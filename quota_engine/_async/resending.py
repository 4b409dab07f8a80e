"""Sends again, after a new epoch began, what this client was answered before it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions as redis_errors

from quota_engine.commands import PlaceHold, ReadBalance
from quota_engine.commands.replies import FencedError, error_from
from quota_engine.errors import EngineUnavailableError, QuotaError
from quota_engine.flows import settled
from quota_engine.keys import QuotaName, shard_of
from quota_engine.resending import (
    REFUSALS,
    SURVIVED,
    Kept,
    Outcome,
    RecentCommands,
    Resent,
    sent_again,
)
from quota_engine.waiting import AsyncTurn, forgotten_at_fork

if TYPE_CHECKING:
    from quota_engine._async.transport import AsyncTransport

log = logging.getLogger("quota_engine.client")

#: Of the time that a call has left it may send again, or wait for another that does, so much.
PATIENCE = 0.5
#: Commands in one round trip.
BATCH = 100
#: The pause after an attempt that could not send everything; it doubles up to the longest.
PAUSE_SECONDS, PAUSE_MAX_SECONDS = 0.5, 8.0


class AsyncResending:
    """
    What one client remembers, and its sending again: by calls, before they do their own work.

    Each call gives it at most half of its time; what is left then, the next call goes on with.
    """

    def __init__(self, transport: AsyncTransport, recent: RecentCommands) -> None:
        self._transport = transport
        self.recent = recent
        self.resent = Resent()
        self._turn = AsyncTurn()
        self._pause = PAUSE_SECONDS
        self._retry_at = 0.0
        forgotten_at_fork(self)

    def forget(self) -> None:
        """Forget everything: in a forked child, or when the engine is closed."""
        self.recent.forget()
        self._turn = AsyncTurn()

    async def catch_up(self, deadline: float) -> None:
        """Send again what must be, as far as there is time; wait for another who does."""
        now = time.monotonic()
        until = now + PATIENCE * (deadline - now)
        if now < self._retry_at or not await self._turn.take(until - now):
            return
        before = self.resent
        try:
            while self.recent.is_behind and time.monotonic() < until:
                if not await self._send(until):
                    self._retry_at = time.monotonic() + self._pause
                    self._pause = min(2 * self._pause, PAUSE_MAX_SECONDS)
                    break
                self._pause = PAUSE_SECONDS
        finally:
            self._turn.release()
            self._say(self.resent.since(before))

    async def _send(self, until: float) -> bool:
        """Take what must be sent again, and send it; return False when something stood against."""
        opened, life = self._transport.opening()
        if opened is None:
            return False

        def epoch_of(quota: QuotaName) -> int:
            return opened.epochs[shard_of(quota.account, opened.shards)]

        waiting = self.recent.take(time.monotonic(), life, epoch_of)
        stuck: list[Kept] = []
        try:
            await self._load(waiting, until)
            while waiting and time.monotonic() < until:
                blocked = {kept.command.quota for kept in stuck}
                batch = [kept for kept in waiting[:BATCH] if kept.command.quota not in blocked]
                failed = await self._send_batch(batch, life, epoch_of, until)
                stuck += [kept for kept in waiting[:BATCH] if kept not in batch or kept in failed]
                waiting = waiting[BATCH:]
        except (redis_errors.RedisError, OSError, FencedError, EngineUnavailableError):
            return False
        finally:
            self.recent.put_back([*stuck, *waiting])
        return not stuck

    async def _send_batch(
        self,
        batch: Sequence[Kept],
        life: object,
        epoch_of: Callable[[QuotaName], int],
        until: float,
    ) -> list[Kept]:
        """
        Send some in one round trip; return those that must wait.

        What is not answered as wished (its hold is gone, it is denied) is sent once more, each by
        itself and in order: nothing had happened.
        """
        replies = await self._transport.send_many([kept.command for kept in batch])
        for reply in replies:
            if isinstance(reply, redis_errors.NoScriptError | redis_errors.ReadOnlyError):
                raise reply
            if isinstance(reply, Exception) and isinstance(error_from(str(reply)), FencedError):
                raise FencedError(str(reply))
        stuck: list[Kept] = []
        for kept, reply in zip(batch, replies, strict=True):
            if isinstance(reply, Exception) or reply[0] in REFUSALS:
                is_blocked = any(kept.command.quota == other.command.quota for other in stuck)
                outcome = None if is_blocked else await self._send_one(kept, until)
            elif reply[0] in SURVIVED:
                outcome = Outcome.SURVIVED
            else:
                outcome = Outcome.RESTORED
            if outcome is None:
                stuck.append(kept)
                continue
            self.resent = self.resent.with_one(outcome)
            if outcome in (Outcome.SURVIVED, Outcome.RESTORED):
                epoch = epoch_of(kept.command.quota)
                self.recent.keep(time.monotonic(), life, epoch, kept.command)
        return stuck

    async def _load(self, waiting: Sequence[Kept], until: float) -> None:
        """Load the quotas of what waits: what meets an unloaded one is sent one by one."""
        for quota in dict.fromkeys(kept.command.quota for kept in waiting):
            if time.monotonic() >= until:
                return
            read = ReadBalance(quota=quota, with_grants=False)
            try:
                await self._transport.drive_again(settled(read), until)
            except EngineUnavailableError:
                return
            except QuotaError as error:  # its own commands will say so
                log.debug("%s: %s", quota, error)

    async def _send_one(self, kept: Kept, until: float) -> Outcome | None:
        """Send one by itself; return None when it must wait."""
        command: Any = kept.command
        if time.monotonic() >= until:
            return None
        try:
            outcome = await self._transport.drive_again(sent_again(command), until)
        except EngineUnavailableError:
            return None
        except QuotaError as error:
            log.error("answered before, refused when it was sent again: %s: %s", command, error)
            return Outcome.FAILED
        if outcome is Outcome.DROPPED:
            log.warning("answered before, and is not admitted again: %s", command)
            if isinstance(command, PlaceHold):
                self.recent.drop(command)
        return outcome

    def _say(self, resent: Resent) -> None:
        if resent.sent:
            log.warning(
                "a new epoch began: of %d operations that had been answered shortly before, %d"
                " were still there, %d had been lost and were done again, %d holds could not be"
                " placed again, %d had been cancelled, %d were refused",
                *(resent.sent, resent.survived, resent.restored, resent.dropped),
                *(resent.cancelled, resent.failed),
            )
