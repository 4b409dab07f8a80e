"""Carry steps to Redis and the ledger, and their answers back. Knows nothing of what they mean."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from hiredis import pack_command
from redis import exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from quota_engine.backing import Backing, Opened
from quota_engine.commands import (
    AwaitDrain,
    Command,
    Context,
    FindCharge,
    FindHold,
    FindOperation,
    Flow,
    HydrateQuota,
    PersistTail,
    ReadSnapshot,
    RecordIntent,
    RecordRefund,
    Step,
    WithdrawIntent,
    WithdrawRefund,
)
from quota_engine.commands.base import Argument
from quota_engine.commands.replies import FencedError, error_from
from quota_engine.errors import EngineUnavailableError, InvalidArgumentError, QuotaError
from quota_engine.instants import to_ms
from quota_engine.keys import ShardKeys, shard_of
from quota_engine.scripts import load_scripts
from quota_engine.settings import Settings
from quota_engine.waiting import in_thread

T = TypeVar("T")

log = logging.getLogger("quota_engine.client")

Clock = Callable[[], datetime]

#: How often a client looks at how much waits to be persisted.
LOOK_SECONDS = 10.0
#: The first pause before an unanswered call is sent again; it doubles up to the longest.
PAUSE_SECONDS = 0.02
PAUSE_MAX_SECONDS = 0.5


class IncarnationError(redis_errors.ConnectionError):
    """A new connection reached another incarnation of the server than the deployment's."""


class AsyncTransport:
    """
    Runs flows against one deployment, each within the call timeout.

    A mutation is sent again only with the same operation id; the driver itself never retries.
    """

    def __init__(
        self, redis_url: str, backing: Backing, settings: Settings, clock: Clock | None
    ) -> None:
        self._backing = backing
        self._clock = clock
        self._settings = settings
        self._opened: Opened | None = None
        self._contexts: dict[int, Context] = {}
        self._scripts = load_scripts()
        self._redis_url = redis_url
        self._redis: Redis | None = None
        self._is_closed = False
        self._look_at = 0.0
        self._pressed: set[int] = set()

    async def connect(self) -> None:
        """Ask the gate, and reach the server once. Does nothing when that was done."""
        if self._opened is None:
            await self._reopen()

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._redis is not None:
            await self._redis.aclose()
            await self._redis.connection_pool.disconnect()
            self._redis = None
        self._opened = None
        self._is_closed = True

    def now_ms(self) -> int | None:
        """Return the client's clock in milliseconds, None: the server's decides."""
        return None if self._clock is None else to_ms(self._clock(), name="the clock's answer")

    async def drive(self, flow: Flow[T]) -> T:
        """Take each step that the flow yields, until it returns or the call timeout is over."""
        deadline = time.monotonic() + self._settings.call_timeout_seconds
        try:
            step = next(flow)
            while True:
                try:
                    answer = await self._take(step, deadline)
                except QuotaError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as stop:
            outcome: T = stop.value
            return outcome

    async def _take(self, step: Step, deadline: float) -> Any:
        if isinstance(step, Command):
            return await self._run(step, deadline)
        backing = self._backing
        if time.monotonic() >= deadline:
            raise self._too_late("the ledger has not caught up; is a worker running?")
        match step:
            case ReadSnapshot(quota):
                return await in_thread(backing.read_snapshot, quota)
            case FindHold(quota, hold_id):
                return await in_thread(backing.find_hold, quota, hold_id)
            case FindOperation(quota, operation_id):
                return await in_thread(backing.find_operation, quota, operation_id)
            case RecordIntent(command):
                return await in_thread(backing.record_intent, command)
            case WithdrawIntent(quota, grant_id):
                return await in_thread(backing.withdraw_intent, quota, grant_id)
            case FindCharge(quota, operation_id):
                return await in_thread(backing.find_charge, quota, operation_id)
            case RecordRefund(request):
                return await in_thread(backing.record_refund, request)
            case WithdrawRefund(refund):
                return await in_thread(backing.withdraw_refund, refund)
            case AwaitDrain(quota):
                return await in_thread(backing.persist, quota)
            case PersistTail(quota):
                return await in_thread(backing.persist_tail, quota)

    async def _run(self, command: Command[T], deadline: float) -> T:
        """Send one command until it is answered, and return what the answer means."""
        sha = self._scripts[command.script].sha
        pause = PAUSE_SECONDS
        is_unknown = False
        while True:
            redis, context = await self._context(command)
            keys = command.keys(context.keys)
            try:
                reply = await self._exchange(
                    redis, "EVALSHA", sha, len(keys), *keys, *command.argv(context)
                )
            except (
                redis_errors.NoScriptError,
                redis_errors.ReadOnlyError,
                IncarnationError,
            ) as error:
                failure = await self._reopen_or_say() or f"it was opened again ({error})"
            except redis_errors.OutOfMemoryError as error:
                meaning = error_from(f"OOM {error}")
                if not is_unknown:  # the script was not run: it could not say that it had been
                    raise meaning from error
                failure = str(meaning)
            except redis_errors.ResponseError as error:
                meaning = error_from(str(error))
                failure = str(meaning)
                if isinstance(meaning, FencedError):
                    failure = await self._reopen_or_say() or failure
                    if isinstance(command, HydrateQuota):  # what was read is of another epoch
                        raise meaning from error
                elif not isinstance(meaning, EngineUnavailableError):
                    raise meaning from error
            except (redis_errors.RedisError, OSError) as error:
                failure, is_unknown = str(error) or type(error).__name__, True
            else:
                if time.monotonic() >= self._look_at:
                    await self._look_at_outbox(redis, context.keys)
                return command.parse(reply)
            if time.monotonic() + pause >= deadline:
                raise self._too_late(failure)
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_MAX_SECONDS)

    async def _look_at_outbox(self, redis: Redis, keys: ShardKeys) -> None:
        """Warn when too much waits in the outbox of the call's shard, and when that is over."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        limit = self._settings.outbox_soft_limit
        try:
            waiting = int(await self._exchange(redis, "XLEN", keys.outbox))
            if waiting >= limit:
                noted = await self._exchange(redis, "HGET", keys.versions, "@persisted")
                waiting -= int(noted or 0)
        except (redis_errors.RedisError, OSError):
            return
        is_known = keys.shard in self._pressed
        if waiting >= limit and not is_known:
            self._pressed.add(keys.shard)
            log.warning(
                "shard %d: %d entries wait to be persisted, %d are many: is a worker running, and"
                " does PostgreSQL answer? From %d on new holds, debits and grants are refused",
                *(keys.shard, waiting, limit, self._settings.outbox_hard_limit),
            )
        elif waiting < limit and is_known:
            self._pressed.discard(keys.shard)
            log.warning("shard %d: %d entries wait to be persisted", keys.shard, waiting)

    async def _exchange(self, redis: Redis, *words: Argument) -> Any:
        """
        Send words on a connection of the pool, once, and return the reply.

        Without the client's own ``execute_command``: nothing there may retry, and its counting and
        its packing take as long as the engine's own work. A connection that fails closes itself.
        """
        pool: Any = redis.connection_pool
        connection = await pool.get_connection()
        try:
            packed = pack_command(words)  # type: ignore[arg-type]  # its stub means one word
            await connection.send_packed_command([packed])
            return await connection.read_response()
        finally:
            await pool.release(connection)

    def _too_late(self, failure: str) -> EngineUnavailableError:
        seconds = self._settings.call_timeout_seconds
        return EngineUnavailableError(
            f"no answer within {seconds:g} s: {failure}. The outcome is unknown: retry with the"
            " same id, or run `quota-engine doctor`."
        )

    async def _context(self, command: Command[Any]) -> tuple[Redis, Context]:
        """Return the client and what it adds to this command."""
        if self._opened is None or self._redis is None:
            await self._reopen()
        opened, redis = self._opened, self._redis
        if opened is None or redis is None:
            raise EngineUnavailableError("the engine is closed")
        shard = shard_of(command.quota.account, opened.shards)
        now_ms = self.now_ms()
        context = self._contexts.get(shard)
        if context is None or now_ms is not None:
            context = Context(
                ShardKeys(shard),
                opened.epochs[shard],
                now_ms,
                self._settings.horizon_ms,
                self._settings.due_max,
                self._settings.outbox_hard_limit,
            )
            self._contexts[shard] = context
        return redis, context

    async def _reopen_or_say(self) -> str:
        """Ask the gate; return why it could not open now, or nothing. A call waits for it."""
        try:
            await self._reopen()
        except EngineUnavailableError as error:
            return str(error)
        return ""

    async def _reopen(self) -> None:
        """Ask the gate, and forget every connection that was made before."""
        if self._is_closed:
            raise EngineUnavailableError("the engine is closed; open another one")
        seen = self._opened
        opened = await in_thread(self._backing.reopen, seen)
        if self._redis is None:
            self._redis = self._client()
        elif opened is not seen:
            await self._redis.connection_pool.disconnect(inuse_connections=False)
        self._contexts = {}
        self._opened = opened

    def _client(self) -> Redis:
        settings = self._settings
        try:
            pool = BlockingConnectionPool.from_url(
                self._redis_url,
                max_connections=settings.connections_max,
                timeout=settings.call_timeout_seconds,
                decode_responses=True,
                encoding_errors="surrogateescape",
                protocol=2,
                socket_timeout=settings.socket_timeout_seconds,
                socket_connect_timeout=settings.connect_timeout_seconds,
                retry=Retry(NoBackoff(), 0),
                retry_on_error=[],
                redis_connect_func=self._check_incarnation,
            )
        except ValueError as error:
            raise InvalidArgumentError(f"the Redis URL is no URL: {error}") from error
        return Redis.from_pool(pool)

    async def _check_incarnation(self, connection: Any) -> None:
        """Greet a new connection, and refuse it when another incarnation answers."""
        await connection.on_connect()
        await connection.send_command("INFO", "server", "replication")
        told = str(await connection.read_response())
        rows = dict(line.partition(":")[::2] for line in told.splitlines())
        incarnation = f"{rows.get('run_id', '')}:{rows.get('master_replid', '')}"
        opened = self._opened
        if opened is not None and incarnation != opened.incarnation:
            raise IncarnationError("the server was restarted or replaced")
